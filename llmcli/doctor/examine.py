"""
Everything that `llm doctor` asks, one area after the other.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli import __version__, config, machine, paths
from llmcli.doctor import hardware, probe
from llmcli.doctor.findings import Finding, problem
from llmcli.doctor.probe import Engine
from llmcli.errors import LlmError
from llmcli.registry import nearest

if TYPE_CHECKING:
    from llmcli.chat.history import History
    from llmcli.models.resolve import ModelFile

NEEDED = ("llama-cpp-python", "typer", "huggingface-hub", "httpx", "prompt-toolkit", "jinja2")
OPTIONAL = {"pypdf": "documents", "python-docx": "documents", "pyarrow": "parquet", "ray": "ray"}
OTHER_VARIABLES = frozenset(
    {
        "LLMCLI_CONFIG_DIR", "LLMCLI_DATA_DIR", "LLMCLI_CACHE_DIR", "LLMCLI_API_KEY", "LLMCLI_ALLOW_HTTP",
        "LLMCLI_AMX",
    }
)  # fmt: skip


def examine(environ: Mapping[str, str], speed: bool = True) -> Iterator[Finding]:
    """Every finding, as it is made; `speed` takes the reading of two seconds too."""
    yield from _installed()
    yield from _command(environ)
    engine = None
    try:
        engine = probe.ask()
        yield from _engine(engine)
    except LlmError as error:
        yield problem("llama.cpp", "build", error)
    yield from _graphics(engine)
    yield from _machine(environ)
    yield from _settings(environ)
    yield from _folders()
    yield from _history()
    yield from _model(environ, speed and engine is not None)


# -- what is installed ------------------------------------------------------------


def _installed() -> Iterator[Finding]:
    yield Finding("installed", "llmcli", __version__)
    yield Finding("installed", "Python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("installed", "system", platform.platform())
    for name in NEEDED:
        version = _version(name)
        if version:
            yield Finding("installed", name, version)
        else:
            yield Finding("installed", name, "is missing", "problem", f"pip install {name}", 70)
    for name, extra in OPTIONAL.items():
        yield Finding("installed", name, _version(name) or f"not there (pip install 'llmcli[{extra}]')")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _command(environ: Mapping[str, str]) -> Iterator[Finding]:
    """simonw/llm installs a command of the same name: which of them does the shell find?"""
    found = shutil.which("llm", path=environ.get("PATH"))
    if found is None:
        yield Finding(
            "installed", "llm on PATH", "not there", "note", f"add {Path(sys.executable).parent} to PATH"
        )
        return
    if _is_ours(Path(found)):
        yield Finding("installed", "llm on PATH", found)
        return
    yield Finding(
        "installed", "llm on PATH", f"{found} is another program", "note",
        "call this one llmcli, or put its folder first on PATH",
    )  # fmt: skip


def _is_ours(command: Path) -> bool:
    try:
        with command.open("rb") as file:
            return b"llmcli" in file.read(4096)
    except OSError:
        return False


# -- what it runs on -----------------------------------------------------------------


def _engine(engine: Engine) -> Iterator[Finding]:
    yield Finding("llama.cpp", "build", engine.build)
    features = " ".join(engine.features) or "none"
    yield Finding("llama.cpp", "CPU features", features, data=engine.system)
    if engine.amx is False:
        value = "is not used: this build of llama.cpp crashes in it (as GCC 12's do), or LLMCLI_AMX is 0"
        yield Finding("llama.cpp", "Intel AMX", value, "note", hardware.SOUND_AMX)
    elif engine.amx:
        yield Finding("llama.cpp", "Intel AMX", "is used")
    yield Finding("llama.cpp", "GPU support", "yes" if engine.gpu_support else "no, CPU only")
    for device in engine.devices:
        value = f"{device.name}: {device.description}"
        if device.total:
            value += f", {device.free / 1e9:.1f} of {device.total / 1e9:.1f} GB free"
        yield Finding("llama.cpp", "device", value, data={"gpu": device.gpu, "free": device.free})


def _graphics(engine: Engine | None) -> Iterator[Finding]:
    used = engine is not None and any(device.gpu for device in engine.devices)
    found = hardware.gpus()
    for gpu in found:
        if used:
            yield Finding("machine", "graphics", gpu.name)
            continue
        untested = "" if gpu.backend.tested else " (not tested by us)"
        yield Finding(
            "machine", "graphics", f"{gpu.name} is not used: llama.cpp was built without {gpu.backend.name}",
            "note", gpu.backend.install + untested,
        )  # fmt: skip
    if not found:
        yield Finding("machine", "graphics", "none found")


def _machine(environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        threads = config.load(environ).threads
    except LlmError:  # told where the settings are looked at
        threads = None
    cores, there = machine.usable_cores(), os.cpu_count() or 1
    yield Finding("machine", "cores", f"{cores} usable of {there}", data=cores)
    yield Finding(
        "machine", "threads", f"{threads or cores} ({'as set' if threads else 'one for each core'})"
    )
    total, free = machine.total_memory(), machine.free_memory()
    low = free < 1_000_000_000
    yield Finding(
        "machine", "memory", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free", "note" if low else "ok",
        "a small model only, or close something" if low else "", data={"free": free, "total": total},
    )  # fmt: skip


# -- settings and folders ---------------------------------------------------------------


def _settings(environ: Mapping[str, str]) -> Iterator[Finding]:
    from llmcli.models.entries import entries, user_file

    yield _tried("settings", "config.yaml", lambda: _config_value(environ))
    where = str(user_file()) if user_file().exists() else "no models of your own"
    yield _tried("settings", "models.yaml", lambda: f"{len(entries())} models known; {where}")
    known = {config.variable_of(key) for key in config.HELP} | OTHER_VARIABLES
    for name in sorted(environ):
        if name.startswith(config.PREFIX) and name not in known:
            close = nearest(name, known)
            remedy = f"did you mean {close}?" if close else "unset it"
            yield Finding("settings", name, "is no variable of llmcli's", "note", remedy)


def _config_value(environ: Mapping[str, str]) -> str:
    set_here = [one for one in config.settings(environ) if one.source != "default"]
    shown = ", ".join(f"{one.key}={config.as_words(one.value)}" for one in set_here)
    path = config.config_path()
    return f"{path}{'' if path.exists() else ' (not there)'}; {shown or 'all defaults'}"


def _tried(area: str, name: str, value: Callable[[], str]) -> Finding:
    try:
        return Finding(area, name, value())
    except LlmError as error:
        return problem(area, name, error)


def _folders() -> Iterator[Finding]:
    """Chats and prompts are private: their folders must be their owner's alone."""
    for name, folder in (
        ("configuration", paths.config_dir()),
        ("data", paths.data_dir()),
        ("cache", paths.cache_dir()),
    ):
        try:
            state = folder.stat()
        except FileNotFoundError:
            yield _not_made(name, folder)
            continue
        except OSError as error:
            yield Finding(
                "folders", name, f"{folder}: {error.strerror}", "problem", "check its permissions", 77
            )
            continue
        mode = stat.S_IMODE(state.st_mode)
        if state.st_uid != os.geteuid() or not os.access(folder, os.W_OK):
            yield Finding("folders", name, f"{folder} cannot be written", "problem", "check its owner", 77)
        elif mode & 0o077:
            remedy = f"chmod 700 {folder}"
            yield Finding("folders", name, f"{folder} is open to others ({mode:04o})", "note", remedy)
        else:
            yield Finding("folders", name, str(folder))


def _not_made(name: str, folder: Path) -> Finding:
    """It will be made when it is needed, where that is allowed."""
    parent = next(above for above in folder.parents if above.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        return Finding("folders", name, f"{folder} (not made yet)")
    value = f"{folder} cannot be made: {parent} cannot be written"
    return Finding("folders", name, value, "problem", "check its owner", 77)


def _history() -> Iterator[Finding]:
    """The chats, where there are some: a damaged file keeps the next from beginning."""
    from llmcli.chat.history import History, history_path

    path = history_path()
    try:
        there = path.exists()
    except OSError:  # the folder's own line has said it
        return
    if there:
        yield _tried("folders", "history", lambda: _opened(History(path), path))


def _opened(history: History, path: Path) -> str:
    with closing(history):
        number = sum(1 for _ in history.conversations())
    return f"{path}: {number:,} conversation{'' if number == 1 else 's'}"


# -- the model ----------------------------------------------------------------------------


def _model(environ: Mapping[str, str], speed: bool) -> Iterator[Finding]:
    from llmcli.engines import engine_of
    from llmcli.models import gguf
    from llmcli.models.resolve import resolve

    try:
        settings = config.load(environ)
        if engine_of(settings.model) is not None:
            yield Finding("model", "default", f"{settings.model} (not a file: not asked)")
            return
        model = resolve(settings.model)
        header = gguf.check(model.path)
    except LlmError as error:
        yield problem("model", "default", error)
        return
    yield _verified(settings.model, model)
    if not header.chat_template and not (model.entry and model.entry.chat_template):
        yield Finding(
            "model", "chat template", "none", "problem", "another model, or chat_template in models.yaml", 4
        )
    if speed:
        yield _speed(model, settings)


def _verified(name: str, model: ModelFile) -> Finding:
    """A hash that models.yaml or the hub knows was held against the file already; the package's is now."""
    from llmcli.models import checksum

    verified = "its checksum is right"
    if model.sha256 is None:
        expected = checksum.packaged_sha256(model.path)
        if expected is not None and expected != checksum.sha256_of(model.path):
            value = f"{model.path} is not the file that was installed"
            return Finding("model", "default", value, "problem", "pip install --force-reinstall llmcli", 4)
        verified = verified if expected else "no checksum is known to hold it against"
    return Finding("model", "default", f"{name}: {model.path}, a whole GGUF, {verified}")


def _speed(model: ModelFile, settings: config.Config) -> Finding:
    from llmcli.doctor.speed import measure
    from llmcli.engines.base import EngineOptions

    options = EngineOptions(
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
    )
    try:
        found = measure(model, options)
    except LlmError as error:
        return problem("model", "speed", error)
    value = (
        f"loaded in {found.load:.1f} s; reads about {found.read:,.0f} and writes about {found.write:,.0f} "
        "tokens a second, one text at a time"
    )
    if not found.write:
        return Finding("model", "speed", f"{value}: it writes nothing", "problem", "llm models verify", 76)
    return Finding(
        "model", "speed", value, data={"load": found.load, "read": found.read, "write": found.write}
    )
