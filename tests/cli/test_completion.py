"""The Tab key, in the real shells and without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pexpect
import pyte
import pytest
from ggufs import tiny
from platformdirs import PlatformDirs

from llmcli.chat.history import History, history_path
from llmcli.cli import candidates
from llmcli.cli.completion import PROGRAM, script, set_up
from llmcli.folders import platform_folder

HEAVY = (
    "typer",
    "rich",
    "yaml",
    "msgspec",
    "jinja2",
    "httpx",
    "huggingface_hub",
    "llama_cpp",
    "numpy",
    "platformdirs",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """One table of what can be offered, for the tests whose home is as empty as another's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def offered(cache: Path, offered_at_home, monkeypatch: pytest.MonkeyPatch):
    """What is offered after `line`, as bash asks for it."""
    monkeypatch.setenv("LLMCLI_CACHE_DIR", str(cache))
    return offered_at_home


@pytest.fixture
def offered_at_home(home: Path, work: Path, monkeypatch: pytest.MonkeyPatch):
    """The same, with a table of its own: making it takes half a second."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return lambda line: [value for value, _ in candidates.answer("bash", [line])]


def test_commands_and_templates_are_offered(offered, work: Path):
    (work / "prompts").mkdir()
    (work / "prompts/haiku.yaml").write_text("help: Write a haiku.\nprompt: 'Haiku about {{ text }}'\n")
    found = offered("llm ")

    assert {"sentiment", "summarize", "haiku", "models", "chat", "doctor"} <= set(found)
    assert offered("llm ha") == ["haiku"]
    assert offered("llm models pu") == ["pull"]


def test_a_new_template_is_offered_at_once(offered, work: Path):
    assert offered("llm poem") == []
    (work / "prompts").mkdir()
    (work / "prompts/poem.yaml").write_text("help: Write a poem.\nprompt: '{{ text }}'\n")
    assert offered("llm poem") == ["poem"]


def test_options_are_offered_once(offered):
    assert "--length" in offered("llm summarize --")
    assert "--length" not in offered("llm summarize --length short --")
    assert offered("llm summarize --len") == ["--length"]


def test_values_of_options_are_offered(offered):
    assert offered("llm summarize --length ") == ["short", "medium", "long"]
    assert offered("llm summarize --length=m") == ["medium"]
    assert "de" in offered("llm translate --to ")
    assert offered("llm sentiment --format j") == ["json", "jsonl"]


def test_models_are_offered(offered_at_home, call, tmp_path: Path):
    call("models", "add", str(tiny().write(tmp_path / "m.gguf")), "--name", "mine")

    assert offered_at_home("llm sentiment -m ") == ["starter", "mine", candidates.FILES]
    assert offered_at_home("llm models show st") == ["starter", candidates.FILES]
    assert "qwen3-0.6b" in offered_at_home("llm models pull qwen3-")


def test_what_follows_a_colon_is_offered_without_it(offered_at_home, home: Path):
    """bash takes a colon for the end of a word."""
    link = home / ".cache/huggingface/hub/models--me--M-GGUF/snapshots/1/M-Q4_0.gguf"
    link.parent.mkdir(parents=True)
    link.write_bytes(b"GGUF")

    assert offered_at_home("llm title -m hf:me/M") == ["me/M-GGUF:M-Q4_0.gguf", candidates.FILES]


def test_conversations_are_offered(offered, home: Path):
    with closing(History(history_path())) as history:
        history.start("starter", name="holiday")

    assert "holiday" in offered("llm chat --session ")
    assert "last" in offered("llm history show ")


def test_settings_and_templates_are_offered(offered):
    assert "gpu_layers" in offered("llm config set ")
    assert offered("llm prompts show senti") == ["sentiment"]


def test_files_are_left_to_the_shell(offered):
    assert offered("llm summarize ") == [candidates.FILES]


def test_a_broken_template_breaks_no_completion(offered, work: Path):
    (work / "prompts").mkdir()
    (work / "prompts/bad.yaml").write_text("help: [\n")

    assert "sentiment" in offered("llm ")


def test_it_imports_next_to_nothing(offered_at_home, llm_env, work: Path):
    offered_at_home("llm ")
    code = PROGRAM + f"; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, "bash", "llm sentiment -m "],
        env=llm_env,
        cwd=work,
        capture_output=True,
        text=True,
    )
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("variables", [{}, {"XDG_CACHE_HOME": "/x/cache", "XDG_DATA_HOME": "/x/data"}])
def test_it_finds_our_folders_where_the_rest_of_llm_does(variables, monkeypatch: pytest.MonkeyPatch):
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "LLMCLI_CACHE_DIR", "LLMCLI_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cache = platform_folder("XDG_CACHE_HOME", ".cache", "Caches")
    data = platform_folder("XDG_DATA_HOME", ".local/share", "Application Support")

    assert os.path.expanduser(cache) == PlatformDirs("llmcli").user_cache_dir  # noqa: PTH111
    config = platform_folder("XDG_CONFIG_HOME", ".config", "Application Support")
    assert os.path.expanduser(config) == PlatformDirs("llmcli").user_config_dir  # noqa: PTH111
    assert os.path.expanduser(data) == PlatformDirs("llmcli").user_data_dir  # noqa: PTH111


# -- the real shells ---------------------------------------------------------------

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--private", "-i"],
}


class Typist:
    """Types into a real shell on a pseudo-terminal, and reads its screen."""

    def __init__(self, shell: str, env: dict[str, str], folder: Path) -> None:
        self.screen = pyte.Screen(120, 40)
        self.stream = pyte.Stream(self.screen)
        self.lines = 0
        command, *args = SHELLS[shell]
        self.child = pexpect.spawn(
            command, args, env=env, cwd=str(folder), encoding="utf-8", dimensions=(40, 120)
        )

    def type(self, keys: str) -> None:
        self.child.send(keys)

    def see(self, text: str, seconds: float = 60) -> None:
        """Wait until the screen shows this."""
        until = time.monotonic() + seconds
        while text not in self.shown():
            assert time.monotonic() < until, self.shown()
            try:
                self.stream.feed(self.child.read_nonblocking(4096, timeout=0.2))
            except pexpect.TIMEOUT:
                continue

    def fresh(self) -> None:
        """Give up the line that was begun, and wait for a screen with nothing of it."""
        self.lines += 1
        self.type("\x03")
        self.type(f"clear; echo line''{self.lines}\r")
        self.see(f"line{self.lines}")

    def shown(self) -> str:
        """The screen's text, without the blanks at the ends of lines."""
        return "\n".join(line.rstrip() for line in self.screen.display).strip()


@pytest.fixture(scope="module", params=SHELLS)
def shell(request, tmp_path_factory):
    """A real shell with the completion loaded, one for all tests."""
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not here")
    home = tmp_path_factory.mktemp(name)
    (home / "report.txt").write_text("x")
    (home / "script").write_text(script(name))
    folders = {f"LLMCLI_{one}_DIR": str(home / one) for one in ("CONFIG", "DATA", "CACHE")}
    env = {**os.environ, **folders, "HOME": str(home), "TERM": "xterm", "INPUTRC": "/dev/null", "PS1": "$ "}
    subprocess.run([sys.executable, "-c", PROGRAM, "bash", "llm "], env=env, cwd=home, capture_output=True)
    typist = Typist(name, env, home)
    typist.type("source ./script; echo rea''dy\r")
    typist.see("ready")
    yield typist
    typist.child.close(force=True)


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        ("llm senti\t", "llm sentiment"),
        ("llmcli doct\t", "llmcli doctor"),
        ("llm models recom\t", "llm models recommend"),
        ("llm summarize --leng\t", "llm summarize --length"),
        ("llm summarize --length shor\t", "--length short"),
        ("llm sentiment -m star\t", "-m starter"),
        ("llm summarize repo\t", "llm summarize report.txt"),
        ("llm config set edit\t", "set editing_mode"),
        ("llm models \t\t", "recommend"),
    ],
)
def test_the_tab_key_completes(typed: str, seen: str, shell: Typist):
    shell.fresh()
    shell.type(typed)
    shell.see(seen)


@pytest.mark.parametrize("name", SHELLS)
def test_set_up_once_is_set_up_for_good(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for variable in ("XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / f".{name}rc").write_text("# mine")
    set_up(name, script(name), tmp_path)
    written = set_up(name, script(name), tmp_path)

    if name == "fish":
        assert (tmp_path / ".config/fish/completions/llm.fish") in written
    else:
        start = (tmp_path / f".{name}rc").read_text()
        assert start.startswith("# mine\n[ -f ")
        assert start.count("llmcli completion") == 1
        assert written[0].read_text() == script(name)


def test_the_shell_is_found_by_itself(llm):
    assert llm("completion", env={"SHELL": "/usr/bin/fish"}).stdout.startswith("# llm completion for fish")
    ran = llm("completion", env={"SHELL": "/bin/tcsh"})
    assert (ran.code, "llm completion bash|zsh|fish" in ran.stderr) == (2, True)
