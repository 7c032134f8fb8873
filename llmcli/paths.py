"""
Where llm keeps its files: configuration, models, cache, history.

The folders are the platform's own; each can be moved by an
environment variable. What is private is created for its owner alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from llmcli.folders import platform_folder

PACKAGE = Path(__file__).parent


def _folder(variable: str, *places: str) -> Path:
    return written_out(os.environ.get(variable) or platform_folder(*places))


def config_dir() -> Path:
    """config.yaml, the user's models.yaml and the user's `prompts` folder; LLMCLI_CONFIG_DIR."""
    return _folder("LLMCLI_CONFIG_DIR", "XDG_CONFIG_HOME", ".config", "Application Support")


def data_dir() -> Path:
    """Downloaded models and the history; LLMCLI_DATA_DIR."""
    return _folder("LLMCLI_DATA_DIR", "XDG_DATA_HOME", ".local/share", "Application Support")


def cache_dir() -> Path:
    """What can be deleted at any time: checksums, saved prefixes; LLMCLI_CACHE_DIR."""
    return _folder("LLMCLI_CACHE_DIR", "XDG_CACHE_HOME", ".cache", "Caches")


def shipped(name: str) -> Path:
    """A file or folder that stands at the top of the repository and inside the installed package."""
    installed = PACKAGE / name
    return installed if installed.exists() else PACKAGE.parent / name


def make_private(folder: Path) -> Path:
    """Create a folder that only its owner may enter (0700), and so those of its parents that are missing."""
    if not folder.is_dir():
        if not folder.parent.exists():
            make_private(folder.parent)  # mkdir(parents=True) gives the mode to the last one alone
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def absolute(path: Path) -> Path:
    """A path from the root, links followed; as it is where the working folder was deleted."""
    try:
        return path.resolve()
    except FileNotFoundError:
        return path


def written_out(path: str | os.PathLike[str]) -> Path:
    """
    A path with its `~` or `~name` written out; where nobody has that name it stays as it is.

    >>> written_out("~nobody-of-that-name/a.gguf")
    PosixPath('~nobody-of-that-name/a.gguf')
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111  (pathlib's raises where nobody has the name)
