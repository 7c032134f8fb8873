"""
models.yaml: the models that llm knows by a short name.

The built-in file stands at the top of the repository; the user's own, in the configuration folder, is
laid over it, entry by entry. Each entry is facts about one file: where it comes from, its
hash, its licence, and what must be known to use it well.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from llmcli import paths
from llmcli.models.quants import BITS, quant_of
from llmcli.registry import NAME, NAME_RULE, nearest
from llmcli.strict_yaml import Document, read

STARTER = "starter"
_UNITS = {"M": 1e6, "B": 1e9}


class Thinking(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    How a model marks its thinking.

    `off` are the variables of the chat template that turn it off; `open` and `close` stand around
    it; `answer_prefix`, put after the assistant's header, is where the final answer begins.
    """

    off: dict[str, Any] = {}
    open: str = ""
    close: str = ""
    answer_prefix: str = ""


class MadeFor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What a small model can do: the built-in templates, with the values that their parameters may have (any,
    where none are named), and, in any template, the labels. A model without this is taken to know everything.
    """

    templates: dict[str, dict[str, list[str]]] = {}
    labels: list[str] = []


class ModelEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    One entry of models.yaml.

    `file` is a file of the hub's `repo`, or of the address `url`, or `path` one on this machine; `sha256` is
    that of its bytes. `parameters` is what its maker says ("0.6B"). `chat_template` is used where the
    file has none. `templates` overrides fields of templates for this model, `temperature_scale` divides label
    log-probabilities. What is not in `made_for`, if there is one, is answered with a note that it is a guess,
    and `llm label` refuses other labels.
    """

    name: str = ""
    repo: str | None = None
    file: str | None = None
    url: str | None = None
    path: str | None = None
    sha256: str | None = None
    licence: str = ""
    parameters: str = ""
    context: int | None = None
    chat_template: str | None = None
    thinking: Thinking | None = None
    templates: dict[str, dict[str, Any]] = {}
    temperature_scale: float = 1.0
    made_for: MadeFor | None = None

    @property
    def quantisation(self) -> str:
        """What the file's name says."""
        return quant_of(self.file or self.path or self.url or "")

    @property
    def weights_bytes(self) -> int | None:
        """About the bytes of its weights: parameters × bits per weight; None where a part is not known."""
        match = re.fullmatch(r"([0-9.]+)([MB])", self.parameters)
        bits = BITS.get(self.quantisation)
        return int(float(match[1]) * _UNITS[match[2]] * bits / 8) if match and bits else None


def user_file() -> Path:
    """The user's models.yaml."""
    return paths.config_dir() / "models.yaml"


def entries() -> dict[str, ModelEntry]:
    """
    Every known model by its name: the built-in ones, then the user's over them.

    BadConfig (78) names file and line of what is wrong.
    """
    found = _read(paths.shipped("models.yaml"))
    if user_file().exists():
        found |= _read(user_file())
    return found


def _read(path: Path) -> dict[str, ModelEntry]:
    document = read(path)
    if not isinstance(document.data, dict):
        raise document.error((), "models.yaml is a mapping of names to models")
    return {name: _entry(document, name, facts) for name, facts in document.data.items()}


def _entry(document: Document, name: str, facts: Any) -> ModelEntry:
    if not NAME.fullmatch(name):
        raise document.error((name,), f"{name!r} is not a model name", hint=NAME_RULE)
    if not isinstance(facts, dict):
        raise document.error((name,), f"model {name!r} is not a mapping")
    known = [field.name for field in msgspec.structs.fields(ModelEntry) if field.name != "name"]
    for key in facts:
        if key not in known:
            close = nearest(key, known)
            hint = f"did you mean {close}?" if close else f"there are {', '.join(known)}"
            raise document.error((name, key), f"unknown key {key!r}", hint=hint)
    try:
        entry = msgspec.convert({**facts, "name": name}, ModelEntry)
    except msgspec.ValidationError as error:
        what, _, where = str(error).replace("`", "").partition(" - at ")
        key = re.match(r"\$\.(\w+)", where)
        place, where = ((name, key[1]), f"{key[1]}: ") if key else ((name,), "")
        raise document.error(place, f"model {name!r}: {where}{what[:1].lower()}{what[1:]}") from error
    problem = _problem(entry)
    if problem:
        raise document.error((name,), f"model {name!r}: {problem}")
    return entry


def _problem(entry: ModelEntry) -> str | None:
    if entry.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
        return "sha256 is not 64 hexadecimal digits"
    if entry.repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", entry.repo):
        return "repo is not owner/name"
    if entry.file is not None and (entry.file.startswith("/") or ".." in entry.file.split("/")):
        return "file leaves its repository"
    if not (entry.repo and entry.file) and not entry.url and not entry.path:
        return "needs repo and file, or url, or path"
    for template in entry.made_for.templates if entry.made_for else ():
        if not (paths.shipped("prompts") / f"{template}.yaml").is_file():
            return f"made_for: no built-in template is called {template!r}"
    if entry.temperature_scale <= 0:
        return "temperature_scale is not above 0"
    return None
