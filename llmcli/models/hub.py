"""
Models of the Hugging Face hub: where huggingface_hub keeps what it downloaded, and fetching more.

Finding a file in the hub's cache needs no network and no import of huggingface_hub; its layout is
documented (huggingface.co/docs/huggingface_hub/guides/manage-cache): `models--OWNER--NAME/` has `blobs`,
`refs` and `snapshots/REVISION/FILE`, links to blobs. A large file's blob is called by its SHA-256.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from msgspec import Struct

from llmcli.errors import UsageError
from llmcli.models.quants import choose
from llmcli.paths import written_out

PREFIX = "hf:"
_REFERENCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+?)(?::(?P<quant>[\w./-]+))?")


class Reference(Struct, frozen=True):
    """`hf:owner/repo:quant`; `quant` is a quantisation, a file's name, or empty."""

    repo: str
    quant: str = ""

    def __str__(self) -> str:
        return f"hf:{self.repo}" + (f":{self.quant}" if self.quant else "")


def parse(reference: str) -> Reference:
    """
    Take a hub reference apart; UsageError where it is none.

    >>> parse("hf:Qwen/Qwen3-0.6B-GGUF:Q8_0")
    Reference(repo='Qwen/Qwen3-0.6B-GGUF', quant='Q8_0')
    """
    match = _REFERENCE.fullmatch(reference)
    if not match or ".." in reference:
        raise UsageError(f"{reference!r} is not of the form hf:owner/repo:quant")
    return Reference(match["repo"], match["quant"] or "")


def cache_folder() -> Path:
    """Where huggingface_hub keeps downloads: HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, as it reads them."""
    environ = os.environ
    direct = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if direct:
        return written_out(direct)
    home = environ.get("HF_HOME")
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return written_out(home or Path(cache) / "huggingface") / "hub"


def repo_folder(repo: str) -> Path:
    """The folder of one repository in the cache."""
    return cache_folder() / ("models--" + repo.replace("/", "--"))


def snapshots(repo: str) -> list[Path]:
    """The snapshots of a repository that are there, that of `main` first, then the newest."""
    folder = repo_folder(repo)
    try:
        found = sorted((folder / "snapshots").iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        main = (folder / "refs" / "main").read_text().strip()
    except OSError:
        main = ""
        found = [path for path in (folder / "snapshots").glob("*") if path.is_dir()]
    return sorted(found, key=lambda path: path.name != main)


def find_file(repo: str, file: str, sha256: str | None = None) -> Path | None:
    """A file of a repository that is in the cache, whole; of several revisions the one with this hash."""
    found = [path for snapshot in snapshots(repo) if (path := snapshot / file).is_file()]
    right = [path for path in found if sha256 is not None and blob_sha256(path) == sha256]
    return next(iter(right or found), None)


def find(reference: Reference) -> Path | None:
    """The downloaded file that a reference means, or None; without a quant any that is there."""
    for snapshot in snapshots(reference.repo):
        names = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*.gguf") if path.is_file()]
        name = choose(names, reference.quant)
        if name:
            return snapshot / name
    return None


def blob_sha256(path: Path) -> str | None:
    """
    The SHA-256 that the hub gave for a file of its cache: the name of the blob it links to.

    None for a file elsewhere, and for small files, whose blobs are called by a git hash.
    """
    if path.is_symlink():
        target = path.resolve()
        if target.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", target.name):
            return target.name
    return None
