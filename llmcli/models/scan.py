"""
GGUF files that other programs keep on this machine: found, named, used where they are, never changed.

    Ollama      manifests name a model's layers, blobs/sha256-… hold them (OLLAMA_MODELS, ~/.ollama/models)
    LM Studio   models/PUBLISHER/REPOSITORY/FILE.gguf (~/.lmstudio, before that ~/.cache/lm-studio)
    hub         the cache of huggingface_hub (see `hub`)
    llama.cpp   one folder of files (LLAMA_CACHE, ~/.cache/llama.cpp)
    GPT4All     one folder of files (its application data; ~/.cache/gpt4all for its Python package)

A scan reads names and small manifests; what is in a file is looked at by whoever wants to know.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from llmcli.errors import UsageError
from llmcli.models import hub
from llmcli.models.quants import model_files, quant_of
from llmcli.paths import written_out
from llmcli.registry import nearest

DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
OLLAMA_MODEL = "application/vnd.ollama.image.model"
MANIFEST_LIMIT = 1 << 20


class Foreign(Struct, frozen=True):
    """A model of another program; `reference` is what -m takes."""

    program: str
    reference: str
    path: Path
    size: int
    quantisation: str = ""
    sha256: str | None = None


def scan() -> list[Foreign]:
    """Everything there is, program by program, by name; folders that are not there are no error."""
    found: list[Foreign] = []
    for look in PROGRAMS.values():
        found += sorted(look(), key=lambda model: model.reference)
    return found


def find_foreign(reference: str) -> Foreign:
    """
    The model that `ollama:llama3.2`, `lmstudio:…`, `llamacpp:…` or `gpt4all:…` means.

    A name may leave out what is not needed to tell it: Ollama's tag `latest`, a publisher. UsageError (2)
    with the nearest where there is none, or several.
    """
    prefix, _, name = reference.partition(":")
    models = list(PROGRAMS[prefix]())
    exact = [model for model in models if model.reference == reference]
    found = exact or [model for model in models if name in _short_names(model)]
    if len(found) == 1 or (found and len({model.path for model in found}) == 1):
        return found[0]
    if found:
        raise UsageError(
            f"{reference!r} means several models", hint=", ".join(model.reference for model in found[:5])
        )
    close = nearest(reference, [model.reference for model in models])
    raise UsageError(
        f"{TITLES[prefix]} has no model {name!r} here",
        hint=f"did you mean {close}?" if close else "llm models scan lists what there is",
    )


def _short_names(model: Foreign) -> set[str]:
    """
    The ways to say a model: without its publisher, without its file, without Ollama's usual tag.

    >>> sorted(_short_names(Foreign("lmstudio", "lmstudio:me/repo/file-Q4_0", Path("f"), 1)))
    ['file-Q4_0', 'me/repo', 'me/repo/file-Q4_0', 'repo', 'repo/file-Q4_0']
    """
    name = model.reference.partition(":")[2]
    parts = name.split("/")
    names = {"/".join(parts[start:]) for start in range(len(parts))}
    if model.program == "lmstudio":
        names |= {"/".join(parts[start:-1]) for start in range(len(parts) - 1)}
    return names | {one.removesuffix(":latest") for one in names}


# -- Ollama ------------------------------------------------------------------------


def _ollama_folders() -> list[Path]:
    chosen = os.environ.get("OLLAMA_MODELS")
    if chosen:
        return [written_out(chosen)]
    return [Path.home() / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]


def _ollama() -> Iterator[Foreign]:
    for folder in _ollama_folders():
        manifests = folder / "manifests"
        for path in _files(manifests):
            model = _ollama_model(folder, path.relative_to(manifests).parts, path)
            if model is not None:
                yield model


def _ollama_model(folder: Path, place: tuple[str, ...], manifest: Path) -> Foreign | None:
    """`registry.ollama.ai/library/llama3.2/latest` is llama3.2:latest; other registries keep their host."""
    if len(place) < 3:
        return None
    *owners, tag = place
    for usual in ("registry.ollama.ai", "library"):
        if owners[0] == usual and len(owners) > 1:
            owners = owners[1:]
    try:
        with manifest.open("rb") as file:
            layers = msgspec.json.decode(file.read(MANIFEST_LIMIT))["layers"]
        layer = next(layer for layer in layers if layer["mediaType"] == OLLAMA_MODEL)
        digest = DIGEST.fullmatch(layer["digest"])
        blob = folder / "blobs" / f"sha256-{digest[1]}" if digest else None
        if blob is None or digest is None or not blob.is_file():
            return None
        return Foreign(
            "ollama", f"ollama:{'/'.join(owners)}:{tag}", blob, blob.stat().st_size, quant_of(tag), digest[1]
        )
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, StopIteration, UnicodeDecodeError):
        return None


# -- LM Studio ---------------------------------------------------------------------


def _lm_studio_folders() -> list[Path]:
    home = Path.home()
    homes = [home / ".lmstudio", home / ".cache/lm-studio"]
    try:
        homes.insert(0, Path((home / ".lmstudio-home-pointer").read_text().strip()))
    except (OSError, UnicodeDecodeError):
        pass
    return [folder / "models" for folder in dict.fromkeys(homes)]


def _lm_studio() -> Iterator[Foreign]:
    for folder in _lm_studio_folders():
        yield from _tree("lmstudio", folder)


# -- the others ----------------------------------------------------------------------


def _cache(*names: str) -> Path:
    """A folder of the platform's cache."""
    if sys.platform == "darwin":
        return Path.home().joinpath("Library/Caches", *names)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").joinpath(*names)


def _llama_cpp() -> Iterator[Foreign]:
    chosen = os.environ.get("LLAMA_CACHE")
    yield from _tree("llamacpp", written_out(chosen) if chosen else _cache("llama.cpp"))


def _gpt4all() -> Iterator[Foreign]:
    home = Path.home()
    data = home / "Library/Application Support" if sys.platform == "darwin" else home / ".local/share"
    for folder in (data / "nomic.ai/GPT4All", home / ".cache/gpt4all"):
        yield from _tree("gpt4all", folder)


def _hub() -> Iterator[Foreign]:
    for repo in _folders(hub.cache_folder()):
        owner, _, name = repo.name.removeprefix("models--").partition("--")
        if not repo.name.startswith("models--") or not name:
            continue
        seen: set[str] = set()
        for snapshot in hub.snapshots(f"{owner}/{name}"):
            files = {str(path.relative_to(snapshot)): path for path in _files(snapshot)}
            for file in model_files(files):
                if file not in seen:
                    seen.add(file)
                    path = files[file]
                    yield Foreign(
                        "hub", f"hf:{owner}/{name}:{file}", path, path.stat().st_size,
                        quant_of(file), hub.blob_sha256(path),
                    )  # fmt: skip


def _tree(program: str, folder: Path) -> Iterator[Foreign]:
    """Every GGUF below a folder, called by its place there."""
    files = {str(path.relative_to(folder)): path for path in _files(folder)}
    for name in model_files(files):
        path = files[name]
        reference = f"{program}:{name.removesuffix('.gguf')}"
        yield Foreign(program, reference, path, path.stat().st_size, quant_of(name))


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder that can be looked at; links to folders are not followed."""
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(place, name)
            if path.is_file():
                yield path


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


PROGRAMS: dict[str, Callable[[], Iterator[Foreign]]] = {
    "ollama": _ollama,
    "lmstudio": _lm_studio,
    "hub": _hub,
    "llamacpp": _llama_cpp,
    "gpt4all": _gpt4all,
}
TITLES = {
    "ollama": "Ollama",
    "lmstudio": "LM Studio",
    "hub": "the hub's cache",
    "llamacpp": "llama.cpp",
    "gpt4all": "GPT4All",
}
