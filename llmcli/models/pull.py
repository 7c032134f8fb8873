"""
Get a model onto this machine: a name of models.yaml, hf:owner/repo:quant, or a web address.

Two processes that pull the same model: one downloads, the other waits and uses what came. What is
already there, whole and right, is not fetched again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from llmcli import paths
from llmcli.errors import BackendUnreachable, ModelError, UsageError, from_os_error
from llmcli.models import gguf, hub, installed
from llmcli.models.entries import ModelEntry, entries
from llmcli.models.hub_download import HubFile, delete, fetch, list_files, pick
from llmcli.models.meter import Meter, Silent
from llmcli.models.quants import DEFAULT, quant_of
from llmcli.models.resolve import ModelFile, is_path, locate, verify
from llmcli.paths import written_out
from llmcli.registry import NAME, NAME_RULE, nearest


class Wanted(Struct, frozen=True):
    """What to pull and how: see `pull`."""

    reference: str
    sha256: tuple[str, ...] = ()
    trust: bool = False
    name: str | None = None
    offline: bool = False


Tell = Callable[[str], None]


def pull(wanted: Wanted, meter: Meter | None = None, tell: Tell = lambda line: None) -> ModelFile:
    """
    Have a model here, hashed and checked; `tell` hears one line about each choice made.

    A web address needs `sha256` (one for each part of a split file) or `trust`. UsageError (2), ModelError
    (4), BackendUnreachable (69), InputOutputError (74), PermissionRefused (77).
    """
    meter = meter or Silent()
    if _is_url(wanted.reference):
        return _pull_url(wanted, meter, tell)
    if wanted.sha256 or wanted.trust or wanted.name:
        raise UsageError("--sha256, --trust and --name go with a web address")
    if is_path(wanted.reference) and written_out(wanted.reference).is_file():
        raise UsageError(
            f"{wanted.reference} is a file, and nothing to fetch", hint=f"llm models add {wanted.reference}"
        )
    with _alone(wanted.reference, tell):
        there = _there(wanted.reference, tell)
        if there is not None:
            return there
        if wanted.offline:
            raise BackendUnreachable(f"{wanted.reference} is not here, and --offline forbids to fetch it")
        return _pull_hub(wanted.reference, meter, tell)


def _there(reference: str, tell: Tell) -> ModelFile | None:
    """The model, where it is here and right; a wrong file of the hub's cache is deleted."""
    try:
        model = locate(reference)
    except ModelError:
        return None
    try:
        verify(model)
    except ModelError as error:
        if hub.cache_folder() not in model.path.parents:
            raise
        tell(f"{error.message}; fetching it again")
        delete(model.path)
        return None
    gguf.check(model.path)
    return model


def _is_url(reference: str) -> bool:
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", reference) is not None


# -- the hub -----------------------------------------------------------------------


def _pull_hub(reference: str, meter: Meter, tell: Tell) -> ModelFile:
    entry = None if reference.startswith(hub.PREFIX) else _entry(reference)
    if entry is not None and entry.url is not None:
        hashes = (entry.sha256,) if entry.sha256 else ()
        return _pull_url(Wanted(entry.url, hashes, trust=not hashes, name=entry.name), meter, tell)
    if entry is not None and entry.repo is None:
        return locate(reference)  # a path is all that is known: the error says what is wrong with it
    meant = hub.parse(reference) if entry is None else hub.Reference(str(entry.repo), str(entry.file))
    files = pick(list_files(meant.repo), meant)
    if entry is not None and entry.sha256:
        files = [_as_known(files[0], entry), *files[1:]]
    elif not meant.quant:
        tell(f"{meant.repo}: {_chosen(files[0].name)}")
    missing = [file for file in files if hub.find_file(meant.repo, file.name) is None]
    _check_space(sum(file.size for file in missing), files[0].name)
    fetched = [fetch(meant.repo, file, meter) for file in files]
    gguf.check(fetched[0])
    return locate(reference)


def _as_known(file: HubFile, entry: ModelEntry) -> HubFile:
    """The hub's file, if it still is the one that models.yaml knows."""
    if file.sha256 not in (None, entry.sha256):
        raise ModelError(
            f"{entry.repo} has another {file.name} by now than the one that models.yaml knows",
            hint=f"to take it as it is: llm models pull hf:{entry.repo}:{entry.file}",
        )
    return HubFile(file.name, file.size, entry.sha256)


def _chosen(name: str) -> str:
    quant = quant_of(name)
    if quant == DEFAULT:
        return f"taking {name}"
    return f"it has no {DEFAULT}; taking the nearest, {name}"


def _entry(reference: str) -> ModelEntry:
    known = entries()
    if reference not in known:
        close = nearest(reference, known)
        raise UsageError(
            f"no model is called {reference!r}",
            hint=(f"did you mean {close}? " if close else "") + "llm models list shows them",
        )
    return known[reference]


def _check_space(needed: int, name: str) -> None:
    from llmcli.models.download import check_space

    folder = hub.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, f"create {folder}") from error
    if needed:
        check_space(folder, needed, name)


# -- a web address -----------------------------------------------------------------


def _pull_url(wanted: Wanted, meter: Meter, tell: Tell) -> ModelFile:
    from llmcli.models.download import download
    from llmcli.models.network import check_url

    check_url(wanted.reference)
    urls = _part_urls(wanted.reference)
    hashes = _hashes(wanted, len(urls))
    folder = paths.make_private(installed.folder())
    targets = [folder / _file_name(url) for url in urls]
    name = wanted.name or _name_for(targets[0])
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a model name", hint=f"--name: {NAME_RULE}")
    if name in entries() and entries()[name].url is None:
        raise UsageError(f"{name} is the name of another model", hint="give another with --name")
    installed.refuse_taken(name, targets[0])
    _refuse_taken(targets[0], wanted.reference)
    with _alone(str(targets[0]), tell):
        if not _already(targets, hashes):
            if wanted.offline:
                raise BackendUnreachable(f"{name} is not here, and --offline forbids to fetch it")
            found = [
                download(url, target, sha256, meter)
                for url, target, sha256 in zip(urls, targets, hashes, strict=True)
            ]
            hashes = [*found]
        gguf.check(targets[0])
        first, *later = hashes
        kept = installed.Installed(str(targets[0]), first, wanted.reference, True, tuple(filter(None, later)))
        installed.add(name, kept)
    return ModelFile(name, targets[0], None, hashes[0])


def _refuse_taken(target: Path, url: str) -> None:
    """UsageError where another address's file would be replaced, and deleted with this model."""
    for name, known in installed.load().items():
        if known.path == str(target) and known.source != url:
            said = f"{target.name} is here already, from {known.source}"
            raise UsageError(said, hint=f"llm models rm {name}, then again")


def _hashes(wanted: Wanted, count: int) -> list[str | None]:
    given = [sha256.lower() for sha256 in wanted.sha256]
    for sha256 in given:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise UsageError(f"--sha256 {sha256!r} is not 64 hexadecimal digits")
    if given and len(given) != count:
        raise UsageError(f"{count} files and {len(given)} --sha256", hint="one for each part, in order")
    if not given and not wanted.trust:
        raise UsageError(
            "a web address needs the file's --sha256", hint="or --trust, to take whatever comes as it is"
        )
    return [*given] if given else [None] * count


def _part_urls(url: str) -> list[str]:
    """The addresses of all parts of a split file, by its name; else the one."""
    head, slash, last = url.partition("?")[0].rpartition("/")
    query = url[len(head) + len(slash) + len(last) :]
    return [f"{head}{slash}{part.name}{query}" for part in gguf.part_paths(Path(last))]


def _file_name(url: str) -> str:
    """
    The name under which an address's file is kept.

    >>> _file_name("https://example.org/a/My%20Model.gguf?x=1")
    'My_Model.gguf'
    """
    last = unquote(urlsplit(url).path.rpartition("/")[2])
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".-")[-120:]
    if not safe:
        raise UsageError(f"the address {url!r} names no file")
    return safe if safe.endswith(".gguf") else safe + ".gguf"


def _name_for(target: Path) -> str:
    stem = target.name.removesuffix(".gguf").lower()
    return re.sub(r"-00001-of-\d{5}$", "", stem)[:64]


def _already(targets: Sequence[Path], hashes: Sequence[str | None]) -> bool:
    """Whether all parts are here and right; without a hash to hold them against, they are fetched again."""
    from llmcli.models.checksum import sha256_of

    return all(
        sha256 is not None and target.is_file() and sha256_of(target) == sha256
        for target, sha256 in zip(targets, hashes, strict=True)
    )


# -- one at a time -------------------------------------------------------------------


@contextmanager
def _alone(what: str, tell: Tell) -> Iterator[None]:
    """Hold the lock of one model; says so where another process has it, and waits."""
    folder = paths.make_private(installed.folder() / ".locks")
    place = folder / hashlib.sha256(what.encode()).hexdigest()[:32]
    try:
        lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise from_os_error(error, f"write {place}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"another llm downloads {what}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
