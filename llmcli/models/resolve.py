"""
From what the user typed after -m to a file on this machine.

    starter, qwen3-0.6b      a name of models.yaml, or one that `llm models add` gave
    ./model.gguf             a path
    hf:owner/repo:quant      a file of the hub, already downloaded
    ollama:llama3.2          a file that another program keeps (see `scan`)

Nothing is downloaded here: what is not there is an error that says how to get it. What came from elsewhere
is held against its SHA-256 before anybody loads it.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from llmcli import paths
from llmcli.errors import MissingInput, ModelError, UsageError
from llmcli.models import checksum, hub, installed
from llmcli.models.entries import STARTER, ModelEntry, entries
from llmcli.models.gguf import part_paths
from llmcli.registry import nearest


class ModelFile(Struct, frozen=True):
    """
    A model that is on this machine.

    `path` is its file, the first part of a split one; `entry` what models.yaml says of it, if anything;
    `sha256` the hash that its bytes must have, where one is known, `later_sha256` those of the other parts.
    """

    name: str
    path: Path
    entry: ModelEntry | None = None
    sha256: str | None = None
    later_sha256: tuple[str, ...] = ()

    @property
    def expected(self) -> list[tuple[Path, str | None]]:
        """All of its files, each with the hash that it must have, where one is known."""
        first, *later = self.parts
        known = self.later_sha256 or map(hub.blob_sha256, later)
        return [(first, self.sha256), *zip(later, known)]

    @property
    def parts(self) -> list[Path]:
        """All of its files."""
        return part_paths(self.path)


def resolve(reference: str) -> ModelFile:
    """
    The file that a reference means, its hash held against the known one (remembered, so once).

    UsageError (2) for a name nobody knows, with the nearest; ModelError (4) for a model that is not
    downloaded, with the command that does, or whose bytes are wrong; MissingInput (66) for a path with
    nothing there.
    """
    model = locate(reference)
    verify(model)
    return model


def verify(model: ModelFile) -> None:
    """Hold a model's bytes against the hashes that are known; ModelError (4) where they differ."""
    for part, expected in model.expected:
        if expected is None:
            continue
        found = checksum.sha256_of(part)
        if found != expected:
            raise ModelError(
                f"{part.name} has the wrong checksum: SHA-256 {found[:12]}… and not {expected[:12]}…",
                hint=f"llm models rm {model.name}; llm models pull {model.name}",
            )


def locate(reference: str) -> ModelFile:
    """As `resolve`, without looking at the file's bytes."""
    if reference.startswith(hub.PREFIX):
        return _of_hub(hub.parse(reference))
    prefix, colon, _ = reference.partition(":")
    if colon and prefix in _OTHER_PROGRAMS:
        from llmcli.models.scan import find_foreign

        found = find_foreign(reference)
        return ModelFile(found.reference, found.path, None, found.sha256)
    if is_path(reference):
        return _of_path(reference)
    known = entries()
    if reference in known:
        return _of_entry(known[reference])
    added = installed.load()
    if reference in added:
        model = added[reference]
        if not Path(model.path).exists():
            raise ModelError(f"{reference}: {model.path} is gone", hint=f"llm models rm {reference}")
        return ModelFile(reference, Path(model.path), None, model.sha256, model.later_sha256)
    if Path(reference).is_file():
        return _of_path(reference)
    close = nearest(reference, [*known, *added])
    raise UsageError(
        f"no model is called {reference!r}",
        hint=(f"did you mean {close}? " if close else "") + "llm models list shows them",
    )


_OTHER_PROGRAMS = ("ollama", "lmstudio", "llamacpp", "gpt4all")


def find_entry(entry: ModelEntry) -> Path | None:
    """The file of an entry of models.yaml, or None where it is not on this machine."""
    if entry.path is not None:
        path = _own_path(entry)
        return path if path.exists() else None
    if entry.repo and entry.file:
        return hub.find_file(entry.repo, entry.file, entry.sha256)
    added = installed.load().get(entry.name)
    return Path(added.path) if added and Path(added.path).exists() else None


def _own_path(entry: ModelEntry) -> Path:
    """Where an entry's `path` leads; one that is absolute stays as it is."""
    return _base(entry) / paths.written_out(str(entry.path))


def _base(entry: ModelEntry) -> Path:
    """The built-in model stands in the package; the user's paths are relative to the user's models.yaml."""
    packaged = paths.PACKAGE / "models"
    if entry.name == STARTER and (packaged / str(entry.path)).exists():
        return packaged
    return paths.config_dir()


def is_path(reference: str) -> bool:
    """Whether a reference is a file's path rather than a name."""
    return "/" in reference or reference.startswith((".", "~")) or reference.lower().endswith(".gguf")


def _of_path(reference: str) -> ModelFile:
    path = paths.written_out(reference)
    if not path.exists():
        raise MissingInput(f"no model file {reference!r}", hint="llm models list shows what is there")
    return ModelFile(path.name.removesuffix(".gguf"), path)


def _of_entry(entry: ModelEntry) -> ModelFile:
    path = find_entry(entry)
    if path is None and entry.repo is None and entry.url is None:
        what = f"the model {entry.name}: there is no {_own_path(entry)}"
        raise ModelError(what, hint="models.yaml names it")
    if path is None:
        raise ModelError(
            f"the model {entry.name} is not on this machine", hint=f"llm models pull {entry.name}"
        )
    return ModelFile(entry.name, path, entry, entry.sha256)


def _of_hub(reference: hub.Reference) -> ModelFile:
    path = hub.find(reference)
    if path is None:
        raise ModelError(f"{reference} is not on this machine", hint=f"llm models pull {reference}")
    entry = next(
        (one for one in entries().values() if one.repo == reference.repo and one.file == path.name), None
    )
    expected = entry.sha256 if entry else hub.blob_sha256(path)
    return ModelFile(str(reference), path, entry, expected)
