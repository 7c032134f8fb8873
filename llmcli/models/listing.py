"""
What there is to choose from: every known and every added model, where it stands, whether it fits here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from llmcli.errors import LlmError
from llmcli.models import gguf, installed, memory
from llmcli.models.entries import STARTER, ModelEntry, entries
from llmcli.models.gguf import GgufHeader
from llmcli.models.resolve import find_entry
from llmcli.models.scan import PROGRAMS

FOR_THE_REST = 0.8  # of the free memory a model may take; the system's file cache wants some


class Listed(Struct, frozen=True):
    """
    One model of the list.

    `weights` is bytes, exact where the file is here and "about" otherwise. `context` is the longest that
    fits into the memory given (tokens), 0 where nothing fits and None where it cannot be said before the
    file is here. `problem` is what is wrong with a file that is here.
    """

    name: str
    source: Literal["built in", "known", "yours", "hub"]
    path: Path | None = None
    parameters: str = ""
    quantisation: str = ""
    licence: str = ""
    weights: int | None = None
    about: bool = True
    context: int | None = None
    problem: str | None = None


def list_models(free: int) -> list[Listed]:
    """Every model, for so many bytes of free memory: the starter, the known by size, the others."""
    known = [_of_entry(entry, free) for entry in entries().values()]
    order = {"built in": 0, "known": 1}
    known.sort(key=lambda one: (order.get(one.source, 2), one.weights or 0))
    places = {one.path.resolve() for one in known if one.path}
    return [*known, *_added(free), *_of_hub(free, places)]


def _of_entry(entry: ModelEntry, free: int) -> Listed:
    path = find_entry(entry)
    source: Literal["built in", "known"] = "built in" if entry.name == STARTER else "known"
    if path is not None:
        return _here(entry.name, source, path, free, entry)
    return Listed(
        entry.name,
        source,
        parameters=entry.parameters,
        quantisation=entry.quantisation,
        licence=entry.licence,
        weights=entry.weights_bytes,
        context=0 if too_large(entry, free) else None,
    )


def too_large(entry: ModelEntry, free: int) -> bool:
    """Whether a model's weights alone are more than the free memory."""
    return entry.weights_bytes is not None and entry.weights_bytes > free * FOR_THE_REST


def _added(free: int) -> Iterator[Listed]:
    for name, model in sorted(installed.load().items()):
        yield _here(name, "yours", Path(model.path), free)


def _of_hub(free: int, places: set[Path]) -> Iterator[Listed]:
    """Files of the hub's cache that no name stands for yet."""
    for model in PROGRAMS["hub"]():
        if model.path.resolve() not in places:
            yield _here(model.reference, "hub", model.path, free)


def _here(
    name: str,
    source: Literal["built in", "known", "yours", "hub"],
    path: Path,
    free: int,
    entry: ModelEntry | None = None,
) -> Listed:
    parameters, licence = (entry.parameters, entry.licence) if entry else ("", "")
    try:
        header = gguf.check(path)
    except LlmError as error:
        return Listed(name, source, path, parameters, licence=licence, problem=str(error))
    return Listed(
        name,
        source,
        path,
        parameters or count(header.parameters),
        header.quantisation,
        licence or licence_of(header),
        weights=header.tensor_bytes,
        about=False,
        context=memory.largest_context(header, int(free * FOR_THE_REST)),
    )


def licence_of(header: GgufHeader) -> str:
    """The licence that a file names."""
    licence = header.metadata.get("general.license", "")
    return licence if isinstance(licence, str) else ""


def count(parameters: int) -> str:
    """
    A number of parameters, as makers write it.

    >>> count(8_524_032), count(494_032_768), count(7_615_616_512)
    ('8.5M', '494M', '7.6B')
    """
    for unit, letter in ((1e9, "B"), (1e6, "M")):
        if parameters >= unit:
            value = parameters / unit
            return f"{value:.1f}{letter}" if value < 100 else f"{value:.0f}{letter}"
    return f"{parameters:,}"
