"""What a template is: plain frozen values, already checked (`reading` does that)."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from llmcli.registry import Source

ParamType = Literal["str", "int", "float", "bool", "list"]
Mode = Literal["generate", "label", "extract"]


class Problem(Struct, frozen=True):
    """Something wrong with a template; `line` counts from 1, None where there is no file."""

    line: int | None
    message: str


class Param(Struct, frozen=True):
    """
    One parameter of a template; it becomes the option `--name`.

    Without a default it is required. A value is one of `choices` where there are any, a number at least
    `min`. `names` writes a value out for the prompt (`de` becomes `German`); what it does not know stays as
    typed. A `list` is given as one text, separated by commas.
    """

    name: str
    type: ParamType = "str"
    default: Any | UnsetType = UNSET
    choices: tuple[str, ...] = ()
    min: float | None = None
    help: str = ""
    names: dict[str, str] = {}

    @property
    def required(self) -> bool:
        """Whether the user must give it."""
        return self.default is UNSET

    @property
    def option(self) -> str:
        """Its option on the command line."""
        return "--" + self.name.replace("_", "-")


class Example(Struct, frozen=True):
    """A text with the reply that is wanted: shown to the model as an earlier turn."""

    text: str
    reply: str
    params: dict[str, Any] = {}


class Template(Struct, frozen=True):
    """
    One template.

    `labels` is the closed set of answers, or `labels_param` names the list parameter that holds it;
    `schema` (JSON Schema) and `schema_param` (a list of field names) likewise; `grammar` (GBNF) is any other
    form of an answer. `reduce` joins
    the answers to the parts of a text that is longer than the context; `extract` is the yes/no question
    that scores a sentence. `keep_layout` asks paragraph by paragraph and puts the answers where the
    paragraphs stood. `sha256` is that of the file's bytes.
    """

    name: str
    help: str
    prompt: str
    system: str = ""
    params: tuple[Param, ...] = ()
    labels: tuple[str, ...] | None = None
    labels_param: str | None = None
    examples: tuple[Example, ...] = ()
    sampling: dict[str, Any] = {}
    schema: dict[str, Any] | None = None
    schema_param: str | None = None
    grammar: str | None = None
    reduce: str | None = None
    extract: str | None = None
    mode: Mode = "generate"
    keep_layout: bool = False
    path: str = ""
    source: Source = "built in"
    sha256: str = ""

    def param(self, name: str) -> Param | None:
        """The parameter of that name."""
        return next((param for param in self.params if param.name == name), None)
