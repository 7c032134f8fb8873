"""
Fetch files of the Hugging Face hub with huggingface_hub: its cache, its token, HF_ENDPOINT, its resuming.

It checks the size of what arrives and not the bytes (huggingface_hub issue 3643), so every file is
hashed here before anybody uses it; a wrong one is deleted from the cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from llmcli.errors import (
    BackendUnreachable,
    InputOutputError,
    ModelError,
    PermissionRefused,
    UsageError,
    from_os_error,
)
from llmcli.models import checksum, hub
from llmcli.models.gguf import SPLIT_NAME
from llmcli.models.meter import Meter
from llmcli.models.network import check_url
from llmcli.models.quants import choose, model_files, quant_of

PUBLIC = "https://huggingface.co"
HTTP_LIBRARIES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "requests", "hf_xet"})


class HubFile(Struct, frozen=True):
    """One file of a repository, as the hub describes it."""

    name: str
    size: int
    sha256: str | None


def endpoint() -> str:
    """The hub's address; UsageError where HF_ENDPOINT is not fetched from."""
    address = os.environ.get("HF_ENDPOINT", "").rstrip("/") or PUBLIC
    check_url(address, "HF_ENDPOINT")
    return address


def list_files(repo: str) -> list[HubFile]:
    """Every file of a repository; UsageError (2) where there is none, BackendUnreachable (69) offline."""
    _say_little()
    from huggingface_hub import HfApi

    with _translated(repo):
        info: Any = HfApi(endpoint=endpoint()).model_info(repo, files_metadata=True)
    return [
        HubFile(one.rfilename, one.size or 0, getattr(one.lfs, "sha256", None) if one.lfs else None)
        for one in info.siblings or ()
    ]


def pick(files: list[HubFile], reference: hub.Reference) -> list[HubFile]:
    """The file that a reference means, with the other parts of a split one; UsageError with what there is."""
    by_name = {file.name: file for file in files}
    name = choose(by_name, reference.quant)
    if name is None:
        there = sorted({quant_of(one) or one for one in model_files(by_name)})
        if not there:
            raise UsageError(
                f"{reference.repo} has no GGUF files", hint="look for a repository that ends in -GGUF"
            )
        raise UsageError(f"{reference.repo} has no {reference.quant}", hint=f"it has {', '.join(there)}")
    parts = [part for part in _parts(name) if part in by_name]
    if len(parts) != len(_parts(name)):
        raise ModelError(f"{reference.repo} lacks parts of {name}", hint="choose another file of it")
    return [by_name[part] for part in parts]


def _parts(name: str) -> list[str]:
    folder, slash, base = name.rpartition("/")
    match = SPLIT_NAME.fullmatch(base)
    if not match:
        return [name]
    count = int(match["count"])
    return [f"{folder}{slash}{match['stem']}-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1)]


def fetch(repo: str, file: HubFile, meter: Meter) -> Path:
    """
    Have one file in the hub's cache, whole and right; gives its path there.

    `file.sha256` is what its bytes must have: ModelError (4) otherwise, and the file is deleted.
    """
    _say_little()
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with _translated(repo):
        path = Path(
            hf_hub_download(
                repo,
                file.name,
                endpoint=endpoint(),
                cache_dir=hub.cache_folder(),
                tqdm_class=_bar(meter, file),
            )
        )
    expected = file.sha256 or hub.blob_sha256(path)
    if expected is None:
        return path
    meter.begin(f"checking {path.name}", path.stat().st_size)
    found = checksum.sha256_of(path, meter.advance)
    if found != expected:
        delete(path)
        raise ModelError(
            f"{path.name} came with the wrong checksum: SHA-256 {found[:12]}… and not {expected[:12]}…",
            hint="it was deleted; try again",
        )
    return path


def _say_little() -> None:
    """Before it is imported: huggingface_hub tells its server which program calls it, unless told not to."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def delete(path: Path) -> int:
    """Delete a file of the cache, its blob included; gives the bytes that became free."""
    blob = path.resolve()
    size = blob.stat().st_size if blob.exists() else 0
    try:
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
    except OSError as error:
        raise from_os_error(error, f"delete {path}") from error
    return size


def _bar(meter: Meter, file: HubFile) -> Any:
    """A progress bar for huggingface_hub that draws nothing and tells our meter."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "disable": True})  # type: ignore[no-untyped-call]
            total = settings.get("total") or file.size or None
            meter.begin(file.name, total, settings.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            meter.advance(int(n or 0))
            return None

    return Bar


@contextmanager
def _translated(repo: str) -> Iterator[None]:
    """Errors of huggingface_hub and its HTTP library, as ours."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionRefused(
            f"{repo} asks for its terms to be accepted first", hint=f"on {PUBLIC}/{repo}, then: hf auth login"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UsageError(
            f"the hub has no repository {repo}", hint="or it is private: hf auth login"
        ) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise BackendUnreachable(
            "the hub does not answer", hint="check the network, and HF_HUB_OFFLINE"
        ) from error
    except errors.EntryNotFoundError as error:
        raise UsageError(f"{repo} has no such file", hint=f"see {PUBLIC}/{repo}") from error
    except errors.HfHubHTTPError as error:
        raise BackendUnreachable(f"the hub answers: {_words(error)}") from error
    except OSError as error:
        if error.errno is not None:
            raise from_os_error(error, "write the download") from error
        raise InputOutputError(f"the download failed: {_words(error)}", hint="try again") from error
    except Exception as error:
        # It lets the errors of its HTTP library through, and which library that is changes between versions.
        if type(error).__module__.split(".")[0] in HTTP_LIBRARIES:
            raise BackendUnreachable(f"the hub does not answer: {_words(error)}") from error
        raise


def _words(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:200] or type(error).__name__
