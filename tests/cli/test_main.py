"""The program's edge: finding commands, help, errors and exit codes."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmcli import __version__
from llmcli.cli.main import COMMANDS

LLM = Path(sys.executable).parent / "llm"
FULL = Path("/dev/full")
HEAVY = {"llama_cpp", "numpy", "yaml", "jinja2", "prompt_toolkit", "httpx", "huggingface_hub"}
AVOIDED = {"pydantic", "msgspec", "rich", "sqlite3", "asyncio"}


def test_bare_llm_prints_help(call):
    said = call()

    assert (said.code, said.err) == (0, "")
    assert said.out == call("--help").out


def test_help_lists_commands_in_their_groups_and_ends_with_examples(call):
    out = call("--help").out

    text, rest = out.split("Conversation:")
    conversation, management = rest.split("Management:")
    assert "  sentiment " in text
    assert "  complete " in text
    assert "  chat " in conversation
    assert "  models " in management
    assert "llm chat" in out.split("Examples:")[1].splitlines()[-1]


def test_help_loads_no_heavy_module():
    code = """
import sys
from llmcli.cli.environment import from_system
from llmcli.cli.main import run
run(["--help"], from_system())
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "Usage: llm" in done.stdout
    assert not (HEAVY | AVOIDED) & set(done.stderr.split())


@pytest.mark.slow
def test_help_takes_at_most_a_third_longer_than_its_libraries():
    libraries, ours = [], []
    for _ in range(9):
        for times, command in (
            (libraries, [sys.executable, "-c", "import typer, rich"]),
            (ours, [LLM, "--help"]),
        ):
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - start)

    assert statistics.median(ours) <= 1.3 * statistics.median(libraries)


def test_a_text_command_does_without_pydantic(script):
    code = f"""
import sys
from llmcli.cli.environment import from_system
from llmcli.cli.main import run
run(["sentiment", "-m", {script(scores="hash")!r}, "--text", "x"], from_system())
print(*{{name.partition(".")[0] for name in sys.modules}}, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"pydantic", "llama_cpp", "numpy", "prompt_toolkit"} & set(done.stderr.split())


def test_a_template_in_the_projects_folder_is_a_command(call, work):
    (work / "prompts").mkdir()
    (work / "prompts" / "haiku.yaml").write_text("help: Write a haiku.\nprompt: 'Haiku: {{ text }}'\n")

    assert "  haiku      Write a haiku." in call("--help").out
    assert "Usage: llm haiku" in call("haiku", "--help").out


def test_a_broken_template_breaks_nothing_but_itself(call, work):
    (work / "prompts").mkdir()
    (work / "prompts" / "bad.yaml").write_text("prompt: [\n")

    assert "  sentiment " in call("--help").out
    said = call("bad", "--text", "x")
    assert said.code == 78
    assert "bad.yaml:" in said.err


@pytest.mark.parametrize("command", [*COMMANDS, "summarize", "label"])
def test_every_help_ends_with_an_example(call, command):
    said = call(command, "--help")

    assert said.code == 0
    assert "\n  llm " in said.out.split("\nExample")[1]


def test_the_version_names_the_package_not_the_command(call):
    assert f"llmcli {__version__}\n" == call("-V").out


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["sumarize"], "no command 'sumarize' (did you mean summarize?)"),
        (["what is rust?"], "no command 'what is rust?' (to ask it: llm chat --once \"what is rust?\")"),
        (["--bogus"], "no such option: --bogus"),
        (["zzz"], "no command 'zzz' (llm --help lists the commands)"),
        (["title", "--sed", "1", "--text", "x"], "no such option: --sed (did you mean --seed?)"),
        (
            ["--json", "title"],
            "no such option: --json (options stand after the command: llm COMMAND --json)",
        ),
        (["title", "--seed", "x"], "invalid value for '--seed': 'x' is not a whole number"),
        (["title", "--top-p", "2"], "invalid value for '--top-p': 2 is above 1"),
        (["complete", "x", "--seed", "9" * 20], "is above 9223372036854775807"),
        (["complete", "x", "--top-k", "9" * 10], "is above 2147483647"),
        (["title", "--context", "9" * 20, "--text", "x"], "is above 2147483647"),
        (["title", "--limit", "9" * 20, "--lines"], "is above 9223372036854775807"),
        (["title", "--gpu-layers", "9" * 20, "--text", "x"], "not a number (auto, all or a number)"),
        (["title", "--truncate", "all"], "'all' is not one of head, tail, middle"),
        (["title", "--seed"], "option '--seed' requires an argument (see llm title --help)"),
        (["title", "-x"], "no such option: -x (see llm title --help)"),
        (["models", "lst"], "no command 'lst' (did you mean list?)"),
        (["models", "zzzzzz"], "no command 'zzzzzz' (llm models --help lists the commands)"),
        (["models", "show"], "missing argument 'NAME' (see llm models show --help)"),
        (["complete", "a", "b"], "unexpected: b (see llm complete --help)"),
        (
            ["title", "--lines", "--input-format", "csv"],
            "--lines and --input-format csv contradict each other",
        ),
    ],
)
def test_a_usage_error_is_one_line(call, args, line):
    said = call(*args)

    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("llm: error: ")
    assert said.err.count("\n") == 1
    assert line in said.err


def test_a_file_in_the_place_of_a_command_suggests_a_command(call, work):
    (work / "report.txt").write_text("Hello.")

    assert "llm summarize report.txt" in call("report.txt").err


def test_control_characters_in_an_error_are_escaped(call):
    said = call("\x1b[2J\u202e")

    assert "\x1b" not in said.err
    assert "\u202e" not in said.err


def test_a_bug_is_one_line_that_says_where_the_traceback_is(call, script, home):
    class Broken:
        """A standard input that fails as no stream should."""

        def read(self, size):
            raise ZeroDivisionError("".join(["sec", "ret"]))

    said = call("title", "-m", script(default="ok"), stdin=Broken())

    assert said.code == 1
    kept = home / "cache" / "traceback.txt"
    assert f"llm: error: unexpected ZeroDivisionError, a bug in llmcli (traceback: {kept}" in said.err
    assert "secret" not in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_full_disk_is_74():
    with FULL.open("wb") as full:
        done = subprocess.run([LLM, "-V"], stdout=full, stderr=subprocess.PIPE, check=False)

    assert done.returncode == 74
    assert done.stderr == b"llm: error: cannot write to standard output: No space left on device\n"


def test_a_closed_standard_output_is_74():
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", str(LLM), "-V"], stderr=subprocess.PIPE, check=False
    )

    assert done.returncode == 74
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_quietly(llm_env, script, asked, number, code):
    words = ["title", "-q", "-m", script(default="never", delay=60, log="asked.jsonl"), "--text", "x"]
    pipe = subprocess.PIPE
    with subprocess.Popen([LLM, *words], env=llm_env, stdout=pipe, stderr=pipe) as child:
        while not asked() and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)

    assert (code, b"", b"") == (child.returncode, out, err)


def test_ctrl_c_while_the_program_is_imported_leaves_no_traceback(tmp_path, llm_env):
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")

    done = subprocess.run(
        [sys.executable, "-m", "llmcli", "--help"],
        env={**llm_env, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_help_is_a_command_too(call):
    assert call("help").out == call("help", "help").out == call("--help").out
    assert call("help", "models", "pull").out == call("models", "pull", "--help").out
    assert call("models", "help", "pull").out == call("models", "pull", "--help").out
