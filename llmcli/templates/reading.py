"""
Read a template from its YAML file, or say everything that is wrong with it, line by line.

The first problem stops `load_template`; `check_template` lists them all. What each key may hold is in `keys`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from llmcli.errors import BadConfig, LlmError
from llmcli.registry import NAME, NAME_RULE, RESERVED, Found, help_line
from llmcli.strict_yaml import Refused, compose, line_of, load, node_of
from llmcli.templates.keys import FIELDS, Reading
from llmcli.templates.nouns import Param, Problem, Template
from llmcli.templates.rendering import render
from llmcli.templates.values import check_values

# What models.yaml may change for one model.
OVERRIDABLE = frozenset({"prompt", "system", "sampling", "mode", "reduce", "extract", "examples"})


def load_template(found: Found) -> Template:
    """
    The template in a file.

    Raises BadConfig naming file and line; MissingInput or PermissionRefused for the file itself.
    """
    template, problems = _read(found)
    if template is None or problems:
        raise _bad_config(found, problems[0], len(problems) - 1)
    return template


def check_template(found: Found) -> tuple[Template | None, list[Problem]]:
    """
    The template, and everything that is wrong with it: its examples and each of its choices are rendered too.

    Raises MissingInput or PermissionRefused for the file itself.
    """
    template, problems = _read(found)
    if template is not None and not problems:
        problems = _listed_otherwise(template, found.path) + _render_everything(template)
    return template, problems


def _listed_otherwise(template: Template, path: Path) -> list[Problem]:
    """A listing reads the first line without a YAML parser: it must say there what it says."""
    listed = help_line(path)
    if listed == template.help.strip():
        return []
    return [Problem(1, f"`llm --help` would show {listed!r}: write `help: …` first, plainly, on one line")]


def with_overrides(template: Template, overrides: Mapping[str, Any]) -> Template:
    """
    The template as one model wants it: models.yaml may change its prompt, system, sampling, mode and such.

    Raises BadConfig.
    """
    reading = Reading({param.name: param for param in template.params}, template.labels)
    changed = reading.fields(node_of(overrides), OVERRIDABLE)
    new = msgspec.structs.replace(template, **changed)
    problems = reading.problems + _mode_problems(new, None)
    if problems:
        raise BadConfig(f"models.yaml, template {template.name}: {problems[0].message}")
    return new


def starter(name: str) -> str:
    """The YAML of a new template, eight lines that work and show where things go."""
    return f"""\
help: Say what llm {name} does, in one line.
prompt: |
  {{{{ text }}}}

  Rewrite the text above in a {{{{ tone }}}} tone.
params:
  tone: {{default: friendly, choices: [friendly, formal], help: How it sounds.}}
sampling: {{max_tokens: 512}}
"""


def _read(found: Found) -> tuple[Template | None, list[Problem]]:
    data = load(found.path)
    problems: list[Problem] = []
    if found.name in RESERVED:
        problems.append(Problem(None, f"{found.name!r} is a command of llm's own: rename the file"))
    elif NAME.fullmatch(found.name) is None:
        problems.append(
            Problem(None, f"{found.name!r} is no name for a command: rename the file ({NAME_RULE})")
        )
    reading = Reading({}, None)
    try:
        node = compose(data)
        if node is None:
            return None, [*problems, Problem(1, "empty")]
        fields = reading.fields(node, frozenset(FIELDS))
    except Refused as refused:
        return None, [*problems, *reading.problems, Problem(refused.line, refused.message)]
    problems += reading.problems
    problems += _first_line(node) + [
        Problem(line_of(node), f"{key!r} is missing") for key in ("help", "prompt") if key not in reading.seen
    ]
    if problems:
        return None, sorted(problems, key=lambda problem: problem.line or 0)
    mode = fields.pop("mode", "label" if fields.keys() & {"labels", "labels_param"} else "generate")
    digest = hashlib.sha256(data).hexdigest()
    template = Template(
        name=found.name, **fields, mode=mode, path=str(found.path), source=found.source, sha256=digest
    )
    return template, _mode_problems(template, line_of(node))


def _first_line(node: yaml.Node) -> list[Problem]:
    if not isinstance(node, yaml.MappingNode) or not node.value or node.value[0][0].value == "help":
        return []
    return [Problem(line_of(node), "the first line is `help: …`, which is all that a listing reads")]


def _mode_problems(template: Template, line: int | None) -> list[Problem]:
    has_labels = template.labels is not None or template.labels_param is not None
    lacks = {"label": not has_labels, "extract": template.extract is None, "generate": False}
    found = []
    if lacks[template.mode]:
        needed = {"label": "labels", "extract": "extract"}[template.mode]
        found.append(Problem(line, f"mode {template.mode} needs {needed!r}"))
    has_schema = template.schema is not None or template.schema_param is not None
    if has_labels + has_schema + (template.grammar is not None) > 1:
        found.append(Problem(line, "labels, a schema or a grammar: one of them"))
    return found


def _render_everything(template: Template) -> list[Problem]:
    """Render with every choice of every parameter: a wording that fails is found before a user finds it."""
    ordinary: dict[str, Any] = {param.name: _sample(param) for param in template.params if param.required}
    tries = [{}, *({param.name: choice} for param in template.params for choice in param.choices)]
    problems: list[Problem] = []
    for chosen in tries:
        try:
            render(template, "A text.", check_values(template, {**ordinary, **chosen}))
        except LlmError as error:
            problems.append(Problem(None, error.message))
    return list(dict.fromkeys(problems))


def _sample(param: Param) -> str | list[str]:
    """A value that a parameter takes."""
    if param.type == "list":
        return list(param.choices[:2] or ("one", "two"))
    return param.choices[0] if param.choices else str(param.min or 1)


def _bad_config(found: Found, problem: Problem, more: int) -> BadConfig:
    where = f"{found.path}:{problem.line}" if problem.line else str(found.path)
    hint = f"and {more} more: llm prompts check {found.path}" if more else ""
    return BadConfig(f"{where}: {problem.message}", hint=hint)
