"""
Everything about one model: what models.yaml says, what its file says, whether its bytes are right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from llmcli.errors import LlmError
from llmcli.models import checksum, gguf, installed, memory
from llmcli.models.entries import STARTER, ModelEntry, entries
from llmcli.models.gguf import GgufHeader
from llmcli.models.listing import count, licence_of
from llmcli.models.meter import Meter
from llmcli.models.resolve import ModelFile, find_entry, locate

SHOWN = 200  # characters of a metadata value
SHOWN_ITEMS = 64  # of an array
EXAMPLE_CONTEXTS = (4096, 32768)


class Facts(Struct, frozen=True):
    """One model; without `header` its file is not here."""

    name: str
    entry: ModelEntry | None = None
    model: ModelFile | None = None
    header: GgufHeader | None = None
    sha256: str | None = None

    @property
    def chat_template(self) -> str:
        """The template in use: the file's, else the one that models.yaml names."""
        own = self.header.chat_template if self.header else None
        return own or (self.entry.chat_template if self.entry else None) or ""


def describe(name: str, hashed: bool = True) -> Facts:
    """What is known of a model, here or not; raises what `locate` and `check` raise."""
    known = entries().get(name)
    if known is not None and find_entry(known) is None:
        return Facts(name, known)
    model = locate(name)
    header = gguf.check(model.path)
    return Facts(name, model.entry, model, header, checksum.sha256_of(model.path) if hashed else None)


def as_lines(facts: Facts) -> Iterator[tuple[str, str]]:
    """Pairs of a word and its value, for reading."""
    entry, header, model = facts.entry, facts.header, facts.model
    yield "name", facts.name
    if entry and entry.repo:
        yield "from", f"https://huggingface.co/{entry.repo}, {entry.file}"
    if header is None or model is None:
        assert entry is not None
        size = entry.weights_bytes
        yield "licence", entry.licence
        yield "parameters", entry.parameters
        yield "quantisation", entry.quantisation
        yield "memory", f"about {size / 1e9:.1f} GB for the weights" if size else "not known"
        yield "sha256", entry.sha256 or "not known"
        yield "here", f"no: llm models pull {facts.name}"
        return
    yield "file", str(model.path) + (f" and {header.parts - 1} more" if header.parts > 1 else "")
    yield "size", f"{header.file_size / 1e6:,.1f} MB"
    yield "sha256", f"{facts.sha256} ({_verdict(facts)})"
    yield "licence", (entry.licence if entry else "") or licence_of(header) or "not named"
    yield "architecture", header.architecture
    yield "parameters", f"{count(header.parameters)} ({header.parameters:,})"
    yield "quantisation", header.quantisation
    yield "context", f"{header.context_length:,} tokens"
    yield "layers", f"{header.block_count}, width {header.embedding:,}"
    yield "vocabulary", f"{header.vocabulary:,} ({header.tokenizer})"
    for context in sorted({min(context, header.context_length) for context in EXAMPLE_CONTEXTS}):
        need = memory.estimate(header, context).total
        yield "memory", f"about {need / 1e9:.2f} GB with a context of {context:,}"
    source = "of the file" if header.chat_template else "of models.yaml"
    yield (
        "chat template",
        f"{len(facts.chat_template):,} characters, {source}" if facts.chat_template else "none",
    )
    if entry and entry.thinking:
        yield "thinking", f"between {entry.thinking.open!r} and {entry.thinking.close!r}"
    if entry and entry.made_for:
        yield "made for", ", ".join(_task(*task) for task in entry.made_for.templates.items())
        yield "its labels", ", ".join(entry.made_for.labels)
    for key, value in sorted(header.metadata.items()):
        if key != "tokenizer.chat_template":
            yield "metadata", f"{key} = {_brief(value)}"


def _task(template: str, values: Mapping[str, Sequence[str]]) -> str:
    """A template, with the values that a model knows of its parameters: translate (German, French)."""
    known = [value for allowed in values.values() for value in allowed]
    return f"{template} ({', '.join(known)})" if known else template


def as_record(facts: Facts) -> dict[str, Any]:
    """The same as one JSON object."""
    entry, header = facts.entry, facts.header
    record: dict[str, Any] = {
        "name": facts.name,
        "here": header is not None,
        "repo": entry.repo if entry else None,
        "file": entry.file if entry else None,
        "licence": (entry.licence if entry else "") or (licence_of(header) if header else "") or None,
        "sha256": facts.sha256 or (entry.sha256 if entry else None),
        "made_for": to_builtins(entry.made_for) if entry else None,
    }
    if header is None or facts.model is None:
        return {**record, "weights_bytes": entry.weights_bytes if entry else None, "about": True}
    return {
        **record,
        "path": str(facts.model.path),
        "verified": facts.model.sha256 == facts.sha256 if facts.model.sha256 else None,
        "architecture": header.architecture,
        "parameters": header.parameters,
        "quantisation": header.quantisation,
        "context": header.context_length,
        "layers": header.block_count,
        "embedding": header.embedding,
        "vocabulary": header.vocabulary,
        "tokenizer": header.tokenizer,
        "weights_bytes": header.tensor_bytes,
        "file_bytes": header.file_size,
        "chat_template": facts.chat_template or None,
        "metadata": {
            key: value for key, value in header.metadata.items() if key != "tokenizer.chat_template"
        },
    }


def names_here() -> list[str]:
    """The names of models whose files are on this machine."""
    known = [name for name, entry in entries().items() if find_entry(entry) is not None]
    return known + sorted(installed.load())


def verify_again(name: str, meter: Meter) -> tuple[bool, str]:
    """
    Hash and check a model anew; gives whether something is wrong, and what to say.

    Raises UsageError, ModelError, MissingInput for a model that is not here.
    """
    model = locate(name)
    try:
        header = gguf.check(model.path)
        meter.begin(f"checking {name}", sum(part.stat().st_size for part in model.parts))
        known = model.expected
        found = []
        for part, _ in known:
            checksum.forget(part)
            found.append(checksum.sha256_of(part, meter.advance))
    except LlmError as error:
        return True, str(error)
    for (part, expected), sha256 in zip(known, found):
        expected = expected or checksum.packaged_sha256(part)
        if expected is not None and sha256 != expected:
            return True, f"wrong: {_of_part(part, header)}SHA-256 {sha256} and not {expected}"
        if expected is None:
            whole = f"a whole GGUF, {_parts(header)}SHA-256 {found[0]}"
            return False, f"{whole} (none is known to hold {_of_part(part, header) or 'it '}against)"
    return False, f"right: SHA-256 {found[0]}"


def remedy(names: Sequence[str]) -> str:
    """What to do about models that are not as they should be."""
    if [*names] == [STARTER]:
        return "pip install --force-reinstall llmcli"
    known, added = entries(), installed.load()
    fetched = (
        known[name].repo or known[name].url if name in known else name in added and added[name].owned
        for name in names
    )  # fmt: skip
    return "llm models rm, then pull" if all(fetched) else "get the file again from where it came"


def _of_part(part: Path, header: GgufHeader) -> str:
    return f"{part.name} " if header.parts > 1 else ""


def _parts(header: GgufHeader) -> str:
    return f"{header.parts} parts, the first's " if header.parts > 1 else ""


def _verdict(facts: Facts) -> str:
    expected = facts.model.sha256 if facts.model else None
    if expected is None:
        return "none is known to hold it against"
    return "right" if expected == facts.sha256 else f"WRONG: it must be {expected}"


def _brief(value: Any) -> str:
    """A metadata value on one line, control characters escaped."""
    if isinstance(value, list) and len(value) > SHOWN_ITEMS:
        return f"{len(value):,} values"
    shown = repr(value)[1:-1] if isinstance(value, str) else repr(value)
    shown = re.sub(r"\s+", " ", shown)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}… ({len(shown):,} characters)"
