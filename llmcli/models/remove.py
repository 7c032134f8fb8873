"""Take a model away: delete what was downloaded, forget the name of what is the user's own."""

from __future__ import annotations

from pathlib import Path

from llmcli.errors import UsageError, from_os_error
from llmcli.models import gguf, hub, installed
from llmcli.models.entries import STARTER, entries
from llmcli.models.resolve import locate


def remove(name: str) -> str:
    """
    Remove a model; gives the sentence that says what was done.

    UsageError (2) for the built-in model, for a file of the user's own given by its path, and for what
    belongs to another program.
    """
    if name == STARTER and entries()[STARTER].path == "starter/starter.gguf":
        raise UsageError("the built-in model cannot be removed")
    added = installed.load().get(name)
    if added is not None:
        installed.remove(name)
        here = Path(added.path).exists()
        others = [other for other, model in installed.load().items() if model.path == added.path]
        if others:
            return f"forgot {name}; {added.path} stays, as {', '.join(others)}"
        if not added.owned:
            return f"forgot {name}" + (f"; {added.path} stays" if here else "")
        freed = _delete(gguf.part_paths(Path(added.path)))
        return f"deleted {name}, {freed / 1e9:.2f} GB"
    model = locate(name)
    if hub.cache_folder() not in model.path.parents:
        raise UsageError(f"{model.path} was not downloaded by llm", hint="delete the file itself")
    freed = _delete(model.parts)
    return f"deleted {name}, {freed / 1e9:.2f} GB"


def _delete(files: list[Path]) -> int:
    """Delete files, and the blobs they link to; gives the bytes that became free."""
    freed = 0
    for file in files:
        blob = file.resolve()
        try:
            freed += blob.stat().st_size
            file.unlink()
            blob.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise from_os_error(error, f"delete {file}") from error
    return freed
