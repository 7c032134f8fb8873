"""
A template: what a command asks a model, as one YAML file.

`nouns` says what a template is; `reading` makes one from a YAML file, by way of `keys`, or says what is wrong
and on which line; `values` checks what the user gave for its parameters; `rendering` makes the prompt of one
text; `language` is the small part of Jinja that a prompt may use. A template names no file and runs no code.
"""

from llmcli.templates.nouns import Example, Param, Problem, Template
from llmcli.templates.reading import (
    check_template,
    load_template,
    starter,
    with_overrides,
)
from llmcli.templates.rendering import (
    render,
    render_extract,
    render_reduce,
    renderer,
)
from llmcli.templates.values import check_values, in_form, label_set, sampling_for, schema_for

__all__ = [
    "Example",
    "Param",
    "Problem",
    "Template",
    "check_template",
    "check_values",
    "in_form",
    "label_set",
    "load_template",
    "render",
    "render_extract",
    "render_reduce",
    "renderer",
    "sampling_for",
    "schema_for",
    "starter",
    "with_overrides",
]
