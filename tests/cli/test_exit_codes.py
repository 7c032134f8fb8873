"""
Every row of the exit table, through the installed command, by its real cause.

74, 130, 141 and 143 are in test_main.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ggufs import tiny, without_numbers, without_numbers_for

import llmcli

STARTER = Path(llmcli.__file__).parent / "models" / "starter" / "starter.gguf"
TEMPLATE = "help: Bad.\nprompt: 'no text'\n"


def test_0_done(llm, script):
    assert llm("title", "-m", script(default="x"), "--text", "a").code == 0


def test_1_nobody_foresaw_it(llm, script, home, tmp_path):
    """A library that is broken, here by one in front of it, is no error that llm knows."""
    (tmp_path / "jinja2.py").write_text("secret = 'a value'\nraise RuntimeError(secret)\n")

    ran = llm("title", "-m", script(default="x"), "--text", "a", env={"PYTHONPATH": str(tmp_path)})

    kept = home / "cache" / "traceback.txt"
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("llm: error: unexpected RuntimeError, a bug in llmcli")
    assert str(kept) in ran.stderr
    assert "jinja2.py" in kept.read_text()
    assert "a value" not in ran.stderr + kept.read_text()


def test_2_usage(llm):
    assert llm("title", "--bogus").code == 2


def test_3_some_rows_failed(llm, script, work):
    (work / "a.csv").write_text("text\ngood\npoison\n" + "good\n" * 30)
    model = script(default="x", fail={"poison": "UnusableAnswer: no"})

    ran = llm("title", "-m", model, "a.csv", "-o", "b.csv")

    assert ran.code == 3
    assert (work / "b.csv").read_text().startswith("text,title,error\ngood,x,\npoison,,no\n")


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b"GGUF" + bytes(range(256)) * 20])
def test_4_the_model_is_no_model(llm, work, content):
    (work / "bad.gguf").write_bytes(content)

    ran = llm("title", "-m", "./bad.gguf", "--text", "a")

    assert (ran.code, ran.stdout) == (4, "")
    assert ran.stderr.count("\n") == 1


def test_4_the_model_is_not_here(llm):
    ran = llm("title", "-m", "qwen3-0.6b", "--text", "a")

    assert ran.code == 4
    assert "llm models pull qwen3-0.6b" in ran.stderr


def test_5_the_text_exceeds_the_context(llm):
    ran = llm("sentiment", "--text", "word " * 2000)

    assert ran.code == 5
    assert "the context is 1,024" in ran.stderr


def test_65_a_file_is_not_text(llm, script, work):
    (work / "a.txt").write_bytes(b"\x89PNG\r\n\x1a\n")

    assert llm("title", "-m", script(default="x"), "a.txt").code == 65


def test_66_no_such_file(llm):
    assert llm("title", "nowhere.txt").code == 66
    assert llm("title", "-m", "./nowhere.gguf", "--text", "a").code == 66
    assert llm("title", "-m", "~nobody-of-that-name/a.gguf", "--text", "a").code == 66


def test_69_no_server_is_there(llm):
    assert llm("title", "-m", "server:http://127.0.0.1:9/v1#x", "--text", "a").code == 69


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the engine's process in /proc")
def test_70_the_engine_is_killed(llm_env, work):
    program = [Path(sys.executable).parent / "llm", "complete", "One", "--max-tokens", "300", "-n", "500"]
    parent = subprocess.Popen(
        program,
        cwd=work,
        env=llm_env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    parent.stdout.readline()
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    _, errors = parent.communicate(timeout=20)

    assert children
    assert parent.returncode == 70
    assert b"SIGKILL" in errors


def test_73_the_output_cannot_be_made(llm, script):
    assert llm("title", "-m", script(default="x"), "--text", "a", "-o", "no/such/out.txt").code == 73


def test_75_another_process_holds_the_job(llm, llm_env, script, work):
    (work / "a.csv").write_text("text\n" + "".join(f"row {number}\n" for number in range(400)))
    words = ["title", "-m", script(default="x", delay=0.2), "a.csv", "-o", "b.csv"]
    program = Path(sys.executable).parent / "llm"
    first = subprocess.Popen([program, *words], cwd=work, env=llm_env, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while not any(work.glob("b.csv.*")) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.2)
        ran = llm(*words)
    finally:
        first.kill()
        first.wait()

    assert ran.code == 75
    assert str(first.pid) in ran.stderr


def test_76_the_json_is_cut(llm):
    ran = llm("extract", "--fields", "name,date", "--max-tokens", "2", "--text", "Ann called.")

    assert ran.code == 76
    assert "--max-tokens" in ran.stderr


def test_76_the_model_answers_nothing(llm, work):
    """A weight that is no number, as of a file that was made wrong: whoever meets it gets nothing."""
    without_numbers_for("@", tiny("llama")).write(work / "nan.gguf")

    ran = llm("title", "-m", "./nan.gguf", "--text", "a @ b")

    assert ran.code == 76
    assert "degenerate" in ran.stderr


def test_4_the_model_answers_nobody(llm, work):
    without_numbers(tiny("llama")).write(work / "nan.gguf")

    ran = llm("title", "-m", "./nan.gguf", "--text", "a")

    assert ran.code == 4
    assert "no numbers (NaN) for any text" in ran.stderr


def test_77_no_permission(llm, script, work):
    (work / "a.txt").write_text("a")
    (work / "a.txt").chmod(0)

    assert llm("title", "-m", script(default="x"), "a.txt", powerless=True).code == 77


def test_77_a_folder_that_may_not_be_searched(llm, script, work):
    (work / "closed").mkdir(mode=0)

    ran = llm("title", "-m", script(default="x"), "closed/a.txt", powerless=True)

    assert (ran.code, ran.stderr) == (77, "llm: error: cannot read closed/a.txt: Permission denied\n")


def test_77_a_folder_that_may_not_be_written_to(llm, work):
    (work / "prompts").mkdir(mode=0o555)

    ran = llm("prompts", "new", "haiku", "--here", powerless=True)

    assert (ran.code, ran.stdout) == (77, "")
    assert ran.stderr == "llm: error: cannot write prompts/haiku.yaml: Permission denied\n"


def test_77_a_model_that_may_not_be_read_any_more(llm, work):
    """What is remembered of a file that was checked before does not count as reading it."""
    model = work / "model.gguf"
    shutil.copyfile(STARTER, model)
    os.utime(model, (1_700_000_000, 1_700_000_000))  # what is new is not remembered
    assert llm("sentiment", "-m", "./model.gguf", "--text", "a").code == 0
    model.chmod(0)

    ran = llm("sentiment", "-m", "./model.gguf", "--text", "a", powerless=True)

    assert (ran.code, ran.stdout) == (77, "")
    assert "model.gguf" in ran.stderr


def test_66_and_77_a_lora_adapter(llm, work):
    (work / "tone.gguf").touch(mode=0)

    missing = llm("title", "--lora", "nowhere.gguf:0.5", "--text", "a")
    closed = llm("title", "--lora", "tone.gguf", "--text", "a", powerless=True)

    assert (missing.code, closed.code) == (66, 77)
    assert missing.stderr == ("llm: error: no LoRA adapter 'nowhere.gguf' (--lora FILE, or FILE:SCALE)\n")


def test_78_a_template_is_broken(llm, work):
    (work / "prompts").mkdir()
    (work / "prompts" / "bad.yaml").write_text(TEMPLATE)

    assert llm("bad", "--text", "a").code == 78
    assert llm("prompts", "check", "prompts/bad.yaml").code == 78


def test_78_the_settings_are_broken(llm, home):
    (home / "config").mkdir(parents=True)
    (home / "config" / "config.yaml").write_text("modle: x\n")

    ran = llm("title", "--text", "a")

    assert ran.code == 78
    assert "did you mean model?" in ran.stderr
