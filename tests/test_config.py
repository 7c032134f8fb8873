"""Settings: the file, the variables, the defaults, and changing one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llmcli import config
from llmcli.errors import BadConfig, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMCLI_CONFIG_DIR", str(tmp_path))
    return tmp_path


def test_without_a_file_the_defaults_hold():
    assert config.load({}) == config.Config()
    assert config.load({}).model == "starter"


def test_a_variable_wins_over_the_file_and_the_file_over_the_default(folder: Path):
    (folder / "config.yaml").write_text("model: mine\nthreads: 4\n")
    settings = config.load({"LLMCLI_THREADS": "2"})

    assert (settings.model, settings.threads, settings.context) == ("mine", 2, None)
    sources = {one.key: one.source for one in config.settings({"LLMCLI_THREADS": "2"})}
    assert sources["model"] == str(folder / "config.yaml")
    assert sources["threads"] == "LLMCLI_THREADS"
    assert sources["context"] == "default"


@pytest.mark.parametrize(
    ("words", "value"),
    [("yes", True), ("On", True), ("1", True), ("false", False), ("off", False), ("0", False)],
)
def test_yes_and_no_have_many_words(words: str, value: bool):
    assert config.load({"LLMCLI_LOG": words}).log is value


@pytest.mark.parametrize(("words", "value"), [("", None), ("on", True), ("no", False)])
def test_a_yes_or_no_may_be_left_to_llm(words: str, value: bool | None):
    assert config.load({"LLMCLI_FLASH_ATTENTION": words}).flash_attention is value


@pytest.mark.parametrize(("words", "value"), [("yes", True), ("on", True), ("No", False), ("false", False)])
def test_the_file_knows_the_same_words(folder: Path, words: str, value: bool):
    (folder / "config.yaml").write_text(f"log: {words}\n")

    assert config.load({}).log is value


def test_gpu_layers_are_a_number_or_a_word():
    assert config.load({"LLMCLI_GPU_LAYERS": "12"}).gpu_layers == 12
    assert config.load({"LLMCLI_GPU_LAYERS": "all"}).gpu_layers == "all"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("# mine\nmodle: x\n", 2, "unknown key 'modle' (did you mean model?)"),
        ("model: x\nthreads: many\n", 2, "threads: not a whole number: 'many'"),
        ("threads: 0\n", 1, "threads: 0 is below 1"),
        ("threads: 100000\n", 1, "threads: 100000 is above 1024"),
        ("context: 99999999999999999999\n", 1, "context: 99999999999999999999 is above 2147483647"),
        ("gpu_layers: 9999999999\n", 1, "gpu_layers: 9999999999 is above 2147483647"),
        ("theme: pink\n", 1, "theme: not one of auto, dark, light, none: 'pink'"),
        ("kv_type: q9_9\n", 1, "kv_type: not one of f32, f16, q8_0, q5_1, q5_0, q4_1, q4_0: 'q9_9'"),
        ("log: 3\n", 1, "log: not yes or no: 3"),
        ("flash_attention: fast\n", 1, "flash_attention: not yes or no: 'fast'"),
        ("gpu_layers: some\n", 1, "gpu_layers: not a number, auto or all: 'some'"),
        ("gpu_layers: -1\n", 1, "gpu_layers: -1 is below 0"),
        ("model: [a]\n", 1, "model: not a word: ['a']"),
        ("model: ''\n", 1, "model: nothing is given"),
        ("model: x\nmodel: y\n", 2, "'model' is given twice"),
        ("- model\n", 1, "lines of the form `key: value`"),
        ("model: 'x\n", 2, "found unexpected end of stream"),
        ("model: *x\n", 1, "anchors and aliases (& and *) are not read"),
        ("model: " + "[" * 30_000 + "]" * 30_000, 1, "nested deeper than"),
    ],
)
def test_a_wrong_file_names_the_line(text: str, line: int, said: str, folder: Path):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(BadConfig) as caught:
        config.load({})

    assert f"config.yaml:{line}: " in str(caught.value)
    assert said in str(caught.value)


def test_a_wrong_variable_is_named():
    with pytest.raises(BadConfig, match="LLMCLI_THREADS: not a whole number: 'two'"):
        config.load({"LLMCLI_THREADS": "two"})


def test_a_value_of_several_lines_is_left_to_its_owner(folder):
    written = 'model: "a\n  b"\n'
    (folder / "config.yaml").write_text(written)

    with pytest.raises(BadConfig, match="the old value of model has not a line of its own"):
        config.set_value("model", "starter")
    with pytest.raises(BadConfig):
        config.unset("model")

    assert (folder / "config.yaml").read_text() == written


def test_a_setting_is_changed_and_the_rest_of_the_file_stays(folder: Path):
    (folder / "config.yaml").write_text("# what I like\nmodel: a   # small\nthreads: 2\n# end")
    config.set_value("model", "qwen3-0.6b")
    config.set_value("log", "off")

    text = (folder / "config.yaml").read_text()
    assert text == "# what I like\nmodel: qwen3-0.6b\nthreads: 2\n# end\nlog: false\n"
    assert config.load({}).model == "qwen3-0.6b"
    assert (folder / "config.yaml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "model", ["server:http://127.0.0.1:8080/v1#name", "no", "8", "~", "a: b", 'it\'s "x"', "ö"]
)
def test_a_value_comes_back_as_it_was_given(model: str):
    config.set_value("model", model)

    assert config.load({}).model == model


def test_a_setting_can_be_unset(folder: Path):
    config.set_value("model", "a")
    config.set_value("threads", "3")
    config.unset("model")

    assert (folder / "config.yaml").read_text() == "threads: 3\n"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("modle", "x", "did you mean model?"),
        ("threads", "0", "0 is below 1"),
        ("theme", "pink", "not one of"),
    ],
)
def test_a_value_that_would_be_refused_is_not_written(key: str, value: str, said: str, folder: Path):
    with pytest.raises(UsageError) as caught:
        config.set_value(key, value)

    assert said in str(caught.value)
    assert not (folder / "config.yaml").exists()


def test_a_broken_file_is_not_made_worse(folder: Path):
    (folder / "config.yaml").write_text("model: [\n")
    with pytest.raises(BadConfig):
        config.set_value("threads", "2")

    assert (folder / "config.yaml").read_text() == "model: [\n"


def test_a_link_to_the_file_stays_a_link(folder: Path, tmp_path: Path):
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "llm.yaml"
    real.write_text("threads: 1\n")
    (folder / "config.yaml").symlink_to(real)
    config.set_value("threads", "2")

    assert real.read_text() == "threads: 2\n"


def test_readers_never_see_half_a_file(folder: Path):
    config.set_value("model", "x" * 3000)
    stop = threading.Event()
    problems = []

    def read() -> None:
        while not stop.is_set():
            try:
                config.load({})
            except BadConfig as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        config.set_value("model", f"{number}" * 2000)
    stop.set()
    reader.join()
    assert not problems
