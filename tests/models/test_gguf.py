"""The check of a GGUF before anything loads it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ggufs import F32, STRING, U32, tiny, write_hollow, write_split
from malformed import FIT, corpus, mutations

from llmcli.errors import InputOutputError, LlmError, MissingInput, ModelError, PermissionRefused
from llmcli.models import gguf
from llmcli.models.gguf_reader import TENSOR_TYPES

CASES = dict(corpus())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMCLI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def check(data: bytes, path: Path) -> LlmError | None:
    path.write_bytes(data)
    try:
        gguf.check(path)
    except LlmError as error:
        return error
    return None


def test_there_are_many_broken_files():
    assert len(CASES) >= 150
    assert len(set(CASES.values())) >= 150


@pytest.mark.parametrize("name", CASES)
def test_a_broken_file_is_refused_in_one_line(name: str, tmp_path: Path):
    before = time.process_time()
    error = check(CASES[name], tmp_path / "broken.gguf")

    assert time.process_time() - before < 2
    if name in FIT:
        assert error is None
    else:
        assert isinstance(error, ModelError), f"{name} passed"
        assert "broken.gguf" in error.message
        assert error.hint
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty", "is empty"),
        ("html", "is a web page"),
        ("lfs pointer", "git lfs pull"),
        ("zip", "is a ZIP archive"),
        ("safetensors", "is a safetensors file"),
        ("ggml of old", "before GGUF"),
        ("big-endian", "is big-endian"),
        ("version 1", "GGUF version 1"),
        ("cut at 50 %", "too early, inside its tensors (a cut download?)"),
        ("duplicate token", "two tokens have the same text, '!'"),
        ("513 layers", "llama.block_count is 513; it must be from 1 to 512"),
        ("epsilon NaN", "epsilon is nan"),
        ("alignment 16", "alignment 16 is not a power of two from 32 on"),
        ("SPM without byte tokens", "lacks 162 of the 256 byte tokens"),
        ("name not UTF-8", "metadata 'general.name' is not UTF-8"),
        ("a LoRA adapter", "a LoRA goes to --lora"),
    ],
)
def test_the_line_says_what_is_wrong(name: str, said: str, tmp_path: Path):
    assert said in str(check(CASES[name], tmp_path / "broken.gguf"))


def test_random_damage_gives_a_verdict_and_nothing_else(tmp_path: Path):
    path = tmp_path / "damaged.gguf"
    refused = sum(check(data, path) is not None for _, data in mutations(400, seed=7))

    assert refused > 200


@pytest.mark.slow
def test_five_thousand_damaged_files_give_a_verdict_and_nothing_else(tmp_path: Path):
    path = tmp_path / "damaged.gguf"
    for _, data in mutations(5000, seed=1):
        before = time.monotonic()
        check(data, path)
        assert time.monotonic() - before < 5


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3", "mamba", "lfm2"])
def test_good_models_pass_and_tell_what_they_are(architecture: str, tmp_path: Path):
    header = gguf.check(tiny(architecture, layers=7).write(tmp_path / "good.gguf"))

    assert header.architecture == architecture
    assert header.name == f"tiny {architecture}"
    assert header.block_count == 7
    assert header.embedding == 64
    assert header.context_length == 512
    assert header.quantisation == "F32"
    assert header.chat_template is not None
    assert header.parameters * 4 == header.tensor_bytes


def test_the_built_in_model_passes():
    header = gguf.check(Path(gguf.__file__).parent / "starter" / "starter.gguf")

    assert header.architecture == "llama"
    assert header.chat_template is not None


def test_what_is_no_file_is_named(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelError, match="is a named pipe"):
        gguf.check(tmp_path / "pipe.gguf")
    with pytest.raises(ModelError, match="is a folder"):
        gguf.check(tmp_path)
    with pytest.raises(ModelError, match="is a device"):
        gguf.check(Path("/dev/zero"))
    with pytest.raises(MissingInput):
        gguf.check(tmp_path / "nothing.gguf")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that cannot be read")
def test_a_file_whose_reading_fails_is_no_bug_of_ours():
    with pytest.raises(InputOutputError, match="cannot read /proc/self/mem"):
        gguf.check(Path("/proc/self/mem"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_matter_of_permission(tmp_path: Path):
    path = tiny().write(tmp_path / "secret.gguf")
    path.chmod(0)
    with pytest.raises(PermissionRefused):
        gguf.check(path)


def test_a_verdict_is_remembered_until_the_file_changes(tmp_path: Path, cache: Path):
    path = tiny().write(tmp_path / "model.gguf")
    os.utime(path, (1_600_000_000, 1_600_000_000))
    gguf.check(path)
    [note] = (cache / "gguf").iterdir()
    assert note.stat().st_mode & 0o777 == 0o600

    broken = path.read_bytes()[:-33]
    path.write_bytes(broken)
    with pytest.raises(ModelError):
        gguf.check(path)


def test_a_remembered_verdict_is_used(tmp_path: Path):
    path = tiny().write(tmp_path / "model.gguf")
    os.utime(path, (1_600_000_000, 1_600_000_000))
    gguf.check(path)
    with path.open("r+b") as file:  # damage that keeps size and times: only a second look would see it
        file.seek(4)
        file.write(b"\x63")
    os.utime(path, (1_600_000_000, 1_600_000_000))

    assert gguf.check(path).architecture == "llama"


def test_a_file_that_was_changed_a_moment_ago_is_looked_at_again(tmp_path: Path, cache: Path):
    gguf.check(tiny().write(tmp_path / "model.gguf"))

    assert not (cache / "gguf").exists()


def test_a_damaged_note_is_no_verdict(tmp_path: Path, cache: Path):
    path = tiny().write(tmp_path / "model.gguf")
    os.utime(path, (1_600_000_000, 1_600_000_000))
    gguf.check(path)
    [note] = (cache / "gguf").iterdir()
    note.write_text("{")

    assert gguf.check(path).architecture == "llama"


def test_a_split_model_is_one(tmp_path: Path):
    header = gguf.check(write_split(tmp_path)[0])

    whole = gguf.check(tiny().write(tmp_path / "whole.gguf"))
    assert header.parts == 2
    assert header.parameters == whole.parameters


def test_a_missing_part_is_named(tmp_path: Path):
    first, second = write_split(tmp_path)
    second.unlink()
    with pytest.raises(ModelError, match=r"m-00002-of-00002\.gguf, a part of the model, is missing"):
        gguf.check(first)


def test_a_later_part_names_the_first(tmp_path: Path):
    with pytest.raises(ModelError, match=r"m-00001-of-00002\.gguf"):
        gguf.check(write_split(tmp_path)[1])


def test_a_part_of_another_model_is_noticed(tmp_path: Path):
    first, second = write_split(tmp_path)
    tiny("llama", seed=9).set("split.no", 2, 0).write(second)
    with pytest.raises(ModelError):
        gguf.check(first)


def test_a_vocabulary_of_262144_is_no_burden(tmp_path: Path):
    path = write_hollow(tmp_path / "large.gguf", "llama", 262_144, layers=1)
    before = time.process_time()

    assert gguf.check(path).vocabulary == 262_144

    assert time.process_time() - before < 5  # it takes a third of a second on an idle core


def test_sizes_of_tensor_types_are_those_of_the_library():
    ctypes = pytest.importorskip("ctypes")
    found = list((Path(pytest.importorskip("llama_cpp").__file__).parent / "lib").glob("libggml-base.*"))
    library = ctypes.CDLL(str(found[0]))
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_size.restype = ctypes.c_size_t
    for number, (_, block, size) in TENSOR_TYPES.items():
        assert (library.ggml_blck_size(number), library.ggml_type_size(number)) == (block, size)


def test_quantisation_comes_from_the_tensors_where_nothing_says_it(tmp_path: Path):
    model = tiny()
    del model.metadata["general.file_type"]
    assert gguf.check(model.write(tmp_path / "m.gguf")).quantisation == "F32"


def test_heads_may_be_told_per_layer(tmp_path: Path):
    header = gguf.check(tiny("lfm2").write(tmp_path / "m.gguf"))
    assert header.kv_heads == (0, 2)


def test_a_value_of_the_architecture_is_found_by_its_short_key(tmp_path: Path):
    model = tiny().set("llama.rope.freq_base", F32, 10000.0).set("other.rope.freq_base", U32, 3)
    header = gguf.check(model.set("general.license", STRING, "mit").write(tmp_path / "m.gguf"))

    assert header.of_architecture("rope.freq_base") == 10000.0
    assert header.metadata["general.license"] == "mit"
