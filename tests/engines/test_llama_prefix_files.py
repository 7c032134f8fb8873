"""What a template puts before a text, kept on disk: a later process does not evaluate it again."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import time
from pathlib import Path

import pytest
from ggufs import F32, STRING, Gguf, Tensor

from llmcli.engines.base import EngineOptions
from llmcli.engines.llama.engine import LlamaEngine
from llmcli.messages import Completion, Message, Prompt, Sampling
from llmcli.models.checksum import sha256_of
from llmcli.models.resolve import resolve

THINGS = ("a cat", "a train", "the sea", "bread", "a song", "snow", "work", "a book")
INTRODUCTION = " ".join(
    f"Rule {number}: a text about {thing} is positive where somebody is glad of it."
    for number, thing in enumerate(THINGS)
)
TEMPLATE = f"""\
help: Rate a text.
prompt: |
  {INTRODUCTION} {{{{ about }}}}

  {{{{ text }}}}
labels: [positive, negative]
params:
  about:
    default: ""
    help: What the text is about.
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, in which the built-in model's hash is known already."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLMCLI_CACHE_DIR", str(folder))
    sha256_of(resolve("starter").path)
    return folder


def run(text="The bread was good.", introduction=INTRODUCTION, fixed=True, **options):
    """In a process of its own: the answer, and how many tokens were evaluated for it."""
    engine = LlamaEngine(resolve("starter"), EngineOptions(**{"prefix_cache": 10**9, **options}))
    try:
        content = f"{introduction}\n\n{text}"
        prompt = Prompt((Message("user", content),), fixed=len(introduction) if fixed else None)
        [(_, answer)] = engine.generate(iter([prompt]), Sampling(max_tokens=4))  # as the commands ask
        assert isinstance(answer, Completion), answer
        return answer.text, engine.measure().tokens
    finally:
        engine.close()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, int]]:
    """A cache folder that one run has written to, and that run's answer and tokens."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("first") / "cache"
        patch.setenv("LLMCLI_CACHE_DIR", str(folder))
        sha256_of(resolve("starter").path)
        return folder, run()


@pytest.fixture
def kept(cache: Path, first: tuple[Path, tuple[str, int]]) -> Path:
    """The file that the first run has kept, in this test's cache."""
    shutil.copytree(first[0], cache, dirs_exist_ok=True)
    [file] = saved(cache)
    return file


def saved(cache: Path) -> list[Path]:
    return sorted((cache / "prefixes").glob("*")) if (cache / "prefixes").exists() else []


def test_a_second_process_evaluates_only_what_follows_the_template(first, kept):
    said, all_tokens = first[1]
    again, few_tokens = run()
    other, other_tokens = run("My train was late.")
    plain, plain_tokens = run(fixed=False, prefix_cache=0)

    assert said == again == plain
    assert other != ""
    assert all_tokens >= plain_tokens > 150
    assert few_tokens < 30 and other_tokens < 30
    assert [kept] == saved(kept.parents[1])
    assert 0o600 == stat.S_IMODE(kept.stat().st_mode)
    assert b"good" not in kept.read_bytes()


def test_what_no_template_fixed_is_never_written(cache):
    run(fixed=False)
    run(introduction="Rate this text.")
    run(prefix_cache=0)
    run(sequential=True)

    assert [] == saved(cache)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data + b"more",
        lambda data: b"GGUF" * 1000,
    ],
    ids=["a flipped bit", "another hash", "truncated", "empty", "longer", "foreign"],
)
def test_a_file_that_is_not_what_was_written_is_evaluated_anew(cache, first, kept, spoil):
    whole = kept.read_bytes()
    kept.write_bytes(spoil(whole))

    assert first[1] == run()
    assert saved(cache) == [kept] and kept.read_bytes() == whole


def test_a_file_under_anothers_name_is_not_believed(cache, kept):
    run(introduction=INTRODUCTION.replace("glad", "sad"))
    [of_other] = [file for file in saved(cache) if file != kept]
    kept.write_bytes(of_other.read_bytes())

    assert run()[1] > 150


def test_a_link_or_a_pipe_in_the_place_of_a_file_is_not_followed(kept, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    kept.rename(elsewhere)
    kept.symlink_to(elsewhere)
    assert run()[1] > 150
    kept.unlink()
    os.mkfifo(kept)

    assert run()[1] > 150
    assert elsewhere.exists()


def test_other_settings_have_files_of_their_own(cache, kept):
    assert run(kv_type="q8_0", flash_attention=True)[1] > 150
    assert run(introduction=INTRODUCTION[5:])[1] > 150

    assert 3 == len(saved(cache))
    assert run()[1] < 30


def adapter(path: Path, scale: float) -> Path:
    """A LoRA of rank 1 for one matrix of the built-in model, old enough to have its hash remembered."""
    weights = [
        Tensor(f"blk.0.attn_q.weight.lora_{side}", shape, struct.pack("<256f", *[scale] * 256))
        for side, shape in (("a", (256, 1)), ("b", (1, 256)))
    ]
    made = Gguf(
        {
            "general.type": (STRING, "adapter"),
            "general.architecture": (STRING, "llama"),
            "adapter.type": (STRING, "lora"),
            "adapter.lora.alpha": (F32, 1.0),
        },
        weights,
    )
    made.write(path)
    os.utime(path, (time.time() - 60,) * 2)
    sha256_of(path)
    return path


def test_an_adapter_has_files_of_its_own(kept, tmp_path):
    one, other = adapter(tmp_path / "one.gguf", 0.01), adapter(tmp_path / "other.gguf", 0.02)

    assert run(lora=((str(one), 1.0),))[1] > 150
    assert run(lora=((str(other), 1.0),))[1] > 150
    assert run(lora=((str(one), 0.5),))[1] > 150
    assert run(lora=((str(one), 1.0),))[1] < 30


def test_the_least_recently_used_makes_room(cache, kept):
    size = kept.stat().st_size
    room = {"prefix_cache": 5 * size // 2}  # for two of about this size
    run(introduction=INTRODUCTION.replace("cat", "dog"), **room)
    [second] = [file for file in saved(cache) if file != kept]
    assert run(**room)[1] < 30  # the first is used again
    run(introduction=INTRODUCTION.replace("cat", "cow"), **room)

    assert kept in saved(cache) and second not in saved(cache)
    assert 2 == len(saved(cache))
    run(introduction=INTRODUCTION.replace("cat", "pig"), prefix_cache=size // 2)
    assert 2 == len(saved(cache))


def test_a_cache_that_cannot_be_written_is_no_failure(cache):
    (cache / "prefixes").write_text("not a folder")

    assert run() == run()
    assert "not a folder" == (cache / "prefixes").read_text()


def test_a_command_reads_what_the_one_before_has_kept(llm, llm_env, work):
    (work / "prompts").mkdir()
    (work / "prompts" / "rate.yaml").write_text(TEMPLATE)
    llm("models", "show", "starter")  # its hash is known from then on
    kept = Path(llm_env["LLMCLI_CACHE_DIR"])

    first = llm("rate", "--text", "I love this bread.", "--json")
    [file] = saved(kept)
    os.utime(file, (1, 1))
    second = llm("rate", "--text", "I love this bread.", "--json")

    assert first.code == 0 and first.stdout == second.stdout
    assert [file] == saved(kept)
    assert file.stat().st_mtime > 1  # it was used


def test_a_chat_and_a_freely_written_parameter_are_never_kept(llm, llm_env, work):
    (work / "prompts").mkdir()
    (work / "prompts" / "rate.yaml").write_text(TEMPLATE)
    llm("models", "show", "starter")

    llm("rate", "--about", "my landlord", "--text", "I love this bread.")
    llm("chat", INTRODUCTION, stdin="Hello.\n")
    llm("complete", "--max-tokens", "4", stdin=INTRODUCTION)
    llm("rate", "--text", "I love this bread.", env={"LLMCLI_PREFIX_CACHE": "0"})

    assert [] == saved(Path(llm_env["LLMCLI_CACHE_DIR"]))
