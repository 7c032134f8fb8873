"""`llm models`, as a user runs it (what it downloads is tested in tests/models)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from ggufs import STRING, tiny

from llmcli.models import listing
from llmcli.models.recommend import recommend

GB = 1_000_000_000


@pytest.fixture
def llm(call, home: Path, work: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `llm` in this process, in `work`, as somebody whose home is `home`."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    return lambda *args: call(*map(str, args))


def test_the_list_shows_what_is_here_and_what_is_known(llm):
    ran = llm("models", "list")
    rows = {line.split("\t")[0]: line.split("\t") for line in ran.out.splitlines()}

    assert ran.code == 0
    assert rows["NAME"] == ["NAME", "SIZE", "QUANT", "MEMORY", "CONTEXT", "LICENCE", "HERE"]
    assert rows["starter *"][6] == "built in"
    assert rows["qwen3-0.6b"][3] == "about 0.4 GB"
    assert rows["qwen3-0.6b"][6] == "no"


def test_the_list_can_be_only_what_is_here(llm):
    assert [line.split("\t")[0] for line in llm("models", "list", "--here").out.splitlines()] == [
        "NAME",
        "starter *",
    ]


def test_the_list_as_json(llm):
    records = [json.loads(line) for line in llm("models", "list", "--json").out.splitlines()]

    assert records[0]["name"] == "starter"
    assert records[0]["default"] is True
    assert records[0]["about"] is False
    assert all(record["error"] is None for record in records)


def test_what_does_not_fit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LLMCLI_CONFIG_DIR", str(tmp_path))
    small = {one.name: one for one in listing.list_models(2 * GB)}
    large = {one.name: one for one in listing.list_models(64 * GB)}

    assert (small["qwen3-8b"].context, large["qwen3-8b"].context) == (0, None)
    assert small["starter"].context == 1024


def test_a_broken_file_is_a_line_of_the_list(llm, tmp_path: Path):
    path = tiny().write(tmp_path / "m.gguf")
    llm("models", "add", path)
    path.write_bytes(path.read_bytes()[:-500])
    ran = llm("models", "list", "--here")

    assert ran.code == 0
    assert "broken: m.gguf is not a valid GGUF" in ran.out


def test_a_file_of_ones_own_gets_a_name(llm, tmp_path: Path):
    path = tiny().write(tmp_path / "My Model.gguf")
    assert llm("models", "add", path, "--name", "mine").out == "mine\n"

    assert llm("models", "path", "mine").out == f"{path}\n"
    assert "mine" in llm("models", "list", "--here").out
    assert llm("models", "verify", "mine").code == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("broken.gguf",), "is not a valid GGUF"),
        (("nothing.gguf",), "no model file"),
        (("good.gguf", "--name", "starter"), "the name of a known model"),
        (("good.gguf", "--name", "a b"), "is not a model name"),
        (("good.gguf", "--name", "../x"), "is not a model name"),
    ],
)
def test_what_cannot_be_added_says_why(args, said: str, llm, work: Path):
    tiny().write(work / "good.gguf")
    (work / "broken.gguf").write_bytes(b"GGUF")
    ran = llm("models", "add", *args)

    assert ran.code in (2, 4, 66)
    assert said in ran.err


def test_a_name_is_not_given_twice(llm, work: Path):
    tiny().write(work / "a.gguf")
    tiny().write(work / "b.gguf")
    llm("models", "add", "a.gguf", "--name", "mine")

    assert "mine is the name of" in llm("models", "add", "b.gguf", "--name", "mine").err
    assert llm("models", "add", "a.gguf", "--name", "mine").code == 0


def test_removing_a_name_leaves_the_file(llm, tmp_path: Path):
    path = tiny().write(tmp_path / "m.gguf")
    llm("models", "add", path)
    ran = llm("models", "rm", "m")

    assert "stays" in ran.err
    assert path.exists()
    assert llm("models", "path", "m").code == 2


@pytest.mark.parametrize(("name", "code"), [("starter", 2), ("qwen3-0.6b", 4), ("nonsense", 2)])
def test_what_cannot_be_removed_says_why(name: str, code: int, llm):
    ran = llm("models", "rm", name)

    assert (ran.code, ran.err.count("\n")) == (code, 1)


def test_a_file_given_by_its_path_is_never_deleted(llm, work: Path):
    path = tiny().write(work / "m.gguf")

    assert llm("models", "rm", "./m.gguf").code == 2
    assert path.exists()


def test_a_model_becomes_the_default(llm, work: Path):
    tiny().write(work / "m.gguf")
    llm("models", "add", "m.gguf", "--name", "mine")
    assert llm("models", "use", "mine").code == 0

    assert llm("config", "show", "model").out == "mine\n"
    assert "mine *" in llm("models", "list").out
    assert llm("models", "path").out == f"{work / 'm.gguf'}\n"


def test_a_path_becomes_the_default_from_every_folder(llm, work: Path):
    path = tiny().write(work / "m.gguf")
    llm("models", "use", "./m.gguf")

    assert llm("config", "show", "model").out == f"{path.resolve()}\n"


@pytest.mark.parametrize(("name", "code"), [("qwen3-0.6b", 4), ("starer", 2), ("./no.gguf", 66)])
def test_what_is_not_here_does_not_become_the_default(name: str, code: int, llm):
    assert llm("models", "use", name).code == code
    assert llm("config", "show", "model").out == "starter\n"


def test_a_server_can_be_the_default(llm):
    llm("models", "use", "server:http://127.0.0.1:8080/v1#x")

    assert llm("config", "show", "model").out == "server:http://127.0.0.1:8080/v1#x\n"


def test_the_built_in_model_is_shown(llm):
    ran = llm("models", "show", "starter")

    for said in (
        "llama",
        "8,192",
        "apache-2.0",
        "1,024 tokens",
        "chat template",
        "general.architecture = llama",
    ):
        assert said in ran.out
    record = json.loads(llm("models", "show", "starter", "--json").out)
    path = Path(llm("models", "path", "starter").out.strip())
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {"positive", "spam"} <= set(record["made_for"]["labels"])


def test_a_model_that_is_not_here_is_shown_as_known(llm):
    ran = llm("models", "show", "qwen3-0.6b")

    assert "no: llm models pull qwen3-0.6b" in ran.out
    assert json.loads(llm("models", "show", "qwen3-0.6b", "--json").out)["here"] is False


def test_the_chat_template_is_printed_as_it_is(llm, work: Path):
    tiny(template="{# a #}\n{{ 'x' }}").write(work / "m.gguf")

    assert llm("models", "show", "./m.gguf", "--template").out == "{# a #}\n{{ 'x' }}\n"


def test_control_characters_of_a_strangers_file_are_escaped(llm, work: Path):
    evil = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\u202e\r\n"
    model = tiny().set("general.name", STRING, evil).set("general.license", STRING, evil)
    model.set(f"evil.{evil}", STRING, evil).write(work / "m.gguf")
    ran = llm("models", "show", "./m.gguf")

    assert ran.code == 0
    assert not set(ran.out) & set("\x1b\x07\r\u202e")


def test_verify_reads_every_byte_again(llm, work: Path, home: Path):
    ran = llm("models", "verify")
    assert ran.out.startswith("starter: a whole GGUF")

    path = tiny().write(work / "m.gguf")
    registry = home / "data/models/installed.json"
    registry.parent.mkdir(parents=True)
    registry.write_text(json.dumps({"mine": {"path": str(path), "sha256": "0" * 64}}))
    ran = llm("models", "verify", "mine")
    assert ran.code == 4
    assert "mine: wrong: SHA-256" in ran.out


def test_recommendations_fit_and_have_a_reason(llm):
    records = [json.loads(line) for line in llm("models", "recommend", "--json").out.splitlines()]

    assert [record["use"] for record in records] == ["chat", "labels", "translation"]
    assert all(record["reason"] for record in records)


def test_less_memory_recommends_a_smaller_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LLMCLI_CONFIG_DIR", str(tmp_path))
    sizes = {one.name: one.weights or 0 for one in listing.list_models(GB)}
    chat = [recommend(free)[0].model for free in (64 * GB, 16 * GB, 8 * GB, 2 * GB, GB // 2, GB // 10)]

    assert chat[0] == "qwen3.6-27b"
    assert chat[-1] == "starter"
    assert [sizes[name] for name in chat] == sorted((sizes[name] for name in chat), reverse=True)


def test_a_scan_of_nothing_says_so(llm):
    ran = llm("models", "scan")

    assert ran.code == 0
    assert "no models of Ollama" in ran.err


def test_a_scanned_model_can_be_used_at_once(llm, home: Path):
    folder = home / ".lmstudio/models/me/tiny"
    folder.mkdir(parents=True)
    path = tiny().write(folder / "tiny.gguf")
    (folder / "broken.gguf").write_bytes(b"GGUF")
    rows = [line.split("\t") for line in llm("models", "scan").out.splitlines()]
    assert rows[1:] == [
        ["lmstudio:me/tiny/broken", "0.00 GB", "broken", "LM Studio"],
        ["lmstudio:me/tiny/tiny", "0.00 GB", "F32", "LM Studio"],
    ]

    assert llm("models", "path", "lmstudio:tiny/tiny").out == f"{path}\n"
    assert llm("models", "rm", "lmstudio:tiny/tiny").code == 2
    assert path.exists()
    ran = llm("sentiment", "-m", "lmstudio:tiny/tiny", "--text", "Nice.")
    assert ran.out.strip() in ("positive", "neutral", "negative"), ran.err


def test_a_damaged_list_of_names_says_what_to_do(llm, home: Path):
    registry = home / "data/models/installed.json"
    registry.parent.mkdir(parents=True)
    registry.write_text("{")
    ran = llm("models", "list")

    assert ran.code == 78
    assert "delete it, then add your models again" in ran.err


def test_a_file_is_nothing_to_pull(llm, work: Path):
    ran = llm("models", "pull", str(tiny().write(work / "m.gguf")))

    assert ran.code == 2 and f"llm models add {work}/m.gguf" in ran.err


def test_verify_of_what_is_not_here_is_a_usage_error(llm):
    assert llm("models", "verify", "nosuch").code == 2
    assert llm("models", "verify", "gemma3-270m").code == 4


def test_a_name_that_is_gone_says_who_names_it(llm, work: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
    llm("models", "add", str(tiny().write(work / "m.gguf")), "--name", "good")
    llm("models", "use", "good")
    llm("models", "rm", "good")

    told = llm("sentiment", "--text", "x").err
    assert "no model is called 'good'" in told and f"{home}/config/config.yaml names it" in told
    monkeypatch.setenv("LLMCLI_MODEL", "typo")
    told = llm("sentiment", "--text", "x").err
    assert "LLMCLI_MODEL names it" in told


def test_a_path_that_is_not_utf_8_is_refused_by_name(llm, work: Path):
    path = work / "caf\udce9.gguf"
    tiny().write(path)

    for words in (
        ("models", "add", path, "--name", "x"),
        ("models", "use", path),
        ("sentiment", "-m", path, "--text", "x"),
    ):
        ran = llm(*map(str, words))
        assert ran.code in (2, 65) and "UTF-8" in ran.err, ran.err


def test_a_context_that_the_model_cannot_have_is_told(llm):
    ran = llm("title", "--context", "4096", "--text", "The new station opens in spring.")

    assert ran.code == 0 and "starter has at most 1,024 tokens of context" in ran.err


def test_verify_goes_on_after_a_model_that_is_gone(llm, work: Path):
    for name in ("aaa", "bbb"):
        llm("models", "add", str(tiny().write(work / f"{name}.gguf")))
    (work / "aaa.gguf").unlink()
    ran = llm("models", "verify")

    assert ran.code == 4
    assert "aaa: " in ran.out and "is gone" in ran.out and "bbb: a whole GGUF" in ran.out
