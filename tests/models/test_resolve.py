"""From a name to a file: models.yaml, paths, the hub's cache, other programs' folders."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from ggufs import tiny

from llmcli.errors import BadConfig, MissingInput, ModelError, UsageError
from llmcli.models.entries import entries
from llmcli.models.installed import Installed, add
from llmcli.models.pull import Wanted, pull
from llmcli.models.resolve import locate, resolve
from llmcli.models.scan import find_foreign, scan

MODEL = tiny("llama").pack()
SHA256 = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HOME",
        "XDG_CACHE_HOME",
        "OLLAMA_MODELS",
        "LLAMA_CACHE",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"LLMCLI_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def user_models(home: Path, text: str) -> None:
    (home / "config").mkdir(exist_ok=True)
    (home / "config" / "models.yaml").write_text(text)


# -- models.yaml -------------------------------------------------------------------


def test_a_file_that_models_yaml_names_and_that_is_not_there_is_named(home):
    user_models(home, "mine:\n  path: sub/x.gguf\n")

    for find in (locate, lambda name: pull(Wanted(name))):
        with pytest.raises(ModelError, match=r"the model mine: there is no .*/config/sub/x\.gguf"):
            find("mine")


def test_the_built_in_list_is_facts():
    known = entries()

    assert len(known) >= 13
    assert known["starter"].templates["summarize"]["mode"] == "extract"
    for name, entry in known.items():
        if name != "starter":
            assert entry.sha256
            assert entry.repo
            assert entry.licence
            assert entry.quantisation
            assert entry.weights_bytes


def test_the_built_in_list_agrees_with_its_source():
    """Every file and hash of models.yaml stands in the recorded facts, where they are at hand."""
    facts = Path(__file__).parents[3] / "shared" / "facts" / "gguf-files.yaml"
    if not facts.exists():
        pytest.skip("the recorded facts are not beside this checkout")
    text = facts.read_text()
    for name, entry in entries().items():
        if name != "starter":
            assert f"file: {entry.file}\n  sha256: {entry.sha256}\n  license: {entry.licence}" in text


def test_the_users_list_lies_over_the_built_in_one(home: Path):
    user_models(home, "qwen3-0.6b: {repo: me/mine, file: m-Q8_0.gguf}\nnew: {path: new.gguf}\n")

    assert entries()["qwen3-0.6b"].repo == "me/mine"
    assert entries()["new"].path == "new.gguf"
    assert "gemma3-1b" in entries()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a:\n  repo: me/m\n  fiel: m.gguf\n", 3, "unknown key 'fiel' (did you mean file?)"),
        ("a:\n  repo: me/m\n", 1, "needs repo and file, or url, or path"),
        ("a: {path: x.gguf, sha256: abc}\n", 1, "sha256 is not 64 hexadecimal digits"),
        ("ok: {path: x}\n../a: {path: x.gguf}\n", 2, "is not a model name"),
        ("a: {path: x}\na: {path: y}\n", 2, "'a' is given twice"),
        ("a:\n  path: x\n  context: many\n", 3, "context: expected int"),
        ("a: &x {path: y}\nb: *x\n", 1, "anchors and aliases (& and *) are not read"),
        ("a: !!python/object:os.system {}\n", 1, "is not read"),
        ("a: {path: x, templates: {title: {prompt: a, prompt: b}}}\n", 1, "'prompt' is given twice"),
        ("a: {path: x, made_for: {templates: {titel: {}}}}\n", 1, "no built-in template is called 'titel'"),
        ("a: [1, 2\n", 2, "expected"),
        ("- a\n", 1, "a mapping of names to models"),
    ],
)
def test_a_wrong_list_names_file_and_line(text: str, line: int, said: str, home: Path):
    user_models(home, text)
    with pytest.raises(BadConfig) as caught:
        entries()

    assert f"models.yaml:{line}: " in str(caught.value)
    assert said in str(caught.value)


# -- names and paths ---------------------------------------------------------------


def test_the_built_in_model_is_there():
    model = resolve("starter")

    assert model.name == "starter"
    assert model.path.name == "starter.gguf"
    assert model.entry is not None


def test_a_known_model_that_is_not_here_names_the_command():
    with pytest.raises(ModelError, match=r"llm models pull qwen3-0\.6b"):
        resolve("qwen3-0.6b")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean qwen3-0\.6b\? llm models list"):
        resolve("qwen3-0.6")


@pytest.mark.parametrize("form", ["{}", "./m.gguf", "m.gguf", "~/m.gguf"])
def test_a_path_is_a_path(form: str, home: Path, monkeypatch: pytest.MonkeyPatch):
    path = tiny().write(home / "m.gguf")
    monkeypatch.chdir(home)
    model = resolve(form.format(path))

    assert model.path.samefile(path)
    assert model.name == "m"


def test_a_path_with_nothing_there_is_missing():
    with pytest.raises(MissingInput):
        resolve("./nothing.gguf")


def test_an_added_name_is_found_and_one_whose_file_went_is_told(home: Path):
    path = tiny().write(home / "m.gguf")
    add("mine", Installed(str(path)))
    assert resolve("mine").path == path

    path.unlink()
    with pytest.raises(ModelError, match="is gone"):
        resolve("mine")


def test_wrong_bytes_are_refused_before_anybody_loads_them(home: Path):
    path = tiny().write(home / "m.gguf")
    add("mine", Installed(str(path), sha256="0" * 64))

    with pytest.raises(ModelError, match="wrong checksum"):
        resolve("mine")
    assert locate("mine").path == path


# -- the hub's cache ----------------------------------------------------------------


def in_hub(
    home: Path, repo: str, name: str, data: bytes = MODEL, revision: str = "a" * 40, main: bool = True
) -> Path:
    """Put a file into the hub's cache as huggingface_hub does."""
    folder = home / ".cache/huggingface/hub" / ("models--" + repo.replace("/", "--"))
    blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link = folder / "snapshots" / revision / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs/main").write_text(revision)
    return link


def test_a_file_of_the_hub_is_found_by_its_quantisation_or_name(home: Path):
    q4 = in_hub(home, "me/Model-GGUF", "Model-Q4_K_M.gguf")
    q8 = in_hub(home, "me/Model-GGUF", "Model-Q8_0.gguf", MODEL + b"8")

    assert resolve("hf:me/Model-GGUF:Q4_K_M").path == q4
    assert resolve("hf:me/Model-GGUF:q8_0").path == q8
    assert resolve("hf:me/Model-GGUF").path == q4
    assert resolve("hf:me/Model-GGUF:Model-Q8_0.gguf").path == q8
    assert resolve("hf:me/Model-GGUF").sha256 == SHA256


def test_the_main_revision_comes_first(home: Path):
    in_hub(home, "me/M", "M-Q4_0.gguf", MODEL, "b" * 40, main=False)
    newer = in_hub(home, "me/M", "M-Q4_0.gguf", MODEL + b"2", "c" * 40)

    assert resolve("hf:me/M").path == newer


def test_a_known_model_is_found_in_the_hubs_cache(home: Path):
    user_models(home, f"mine: {{repo: me/M, file: M-Q4_0.gguf, sha256: {SHA256}}}\n")
    link = in_hub(home, "me/M", "M-Q4_0.gguf")

    assert resolve("mine").path == link
    assert resolve("hf:me/M:Q4_0").entry is not None


def test_of_several_revisions_the_known_one_is_taken(home: Path):
    user_models(home, f"mine: {{repo: me/M, file: M-Q4_0.gguf, sha256: {SHA256}}}\n")
    known = in_hub(home, "me/M", "M-Q4_0.gguf", MODEL, "b" * 40, main=False)
    in_hub(home, "me/M", "M-Q4_0.gguf", MODEL + b"2", "c" * 40)

    assert resolve("mine").path == known


def test_damage_in_the_hubs_cache_is_noticed(home: Path):
    link = in_hub(home, "me/M", "M-Q4_0.gguf")
    link.resolve().write_bytes(MODEL[:-1] + b"!")

    with pytest.raises(ModelError, match="wrong checksum"):
        resolve("hf:me/M")


def test_what_the_hub_s_cache_lacks_names_the_command():
    with pytest.raises(ModelError, match="llm models pull hf:me/M:Q4_0"):
        resolve("hf:me/M:Q4_0")


# -- other programs -------------------------------------------------------------------


def in_ollama(models: Path, place: str, data: bytes = MODEL) -> Path:
    """Put a model into Ollama's folder as it does: a manifest and blobs."""
    digest = hashlib.sha256(data).hexdigest()
    blob = models / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    manifest = models / "manifests" / place
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{digest}",
        "size": len(data),
    }
    other = {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64, "size": 3}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [other, layer]}))
    return blob


def test_ollamas_models_are_found_by_their_names(home: Path):
    models = home / ".ollama/models"
    blob = in_ollama(models, "registry.ollama.ai/library/llama3.2/latest")
    in_ollama(models, "registry.ollama.ai/library/llama3.2/1b", MODEL + b"1")
    own = in_ollama(models, "registry.ollama.ai/me/mine/q4", MODEL + b"2")
    far = in_ollama(models, "hf.co/me/Model-GGUF/Q8_0", MODEL + b"3")

    assert resolve("ollama:llama3.2").path == blob
    assert resolve("ollama:llama3.2:latest").sha256 == SHA256
    assert resolve("ollama:me/mine:q4").path == own
    assert resolve("ollama:hf.co/me/Model-GGUF:Q8_0").path == far
    assert {model.program for model in scan()} == {"ollama"}
    assert find_foreign("ollama:hf.co/me/Model-GGUF:Q8_0").quantisation == "Q8_0"


def test_a_damaged_manifest_hides_only_its_model(home: Path):
    models = home / ".ollama/models"
    in_ollama(models, "registry.ollama.ai/library/good/latest")
    for name, text in (
        ("a", "{"),
        ("b", "[]"),
        ("c", '{"layers": 3}'),
        ("d", '{"layers": [{"mediaType": 1}]}'),
    ):
        bad = models / f"manifests/registry.ollama.ai/library/{name}/latest"
        bad.parent.mkdir(parents=True)
        bad.write_text(text)

    assert [model.reference for model in scan()] == ["ollama:good:latest"]


def test_ollamas_folder_can_be_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(home / "big disk"))
    in_ollama(home / "big disk", "registry.ollama.ai/library/far/latest")

    assert resolve("ollama:far").name == "ollama:far:latest"


def test_lm_studios_folder_is_found(home: Path):
    folder = home / ".lmstudio/models/publisher/Repo-GGUF"
    folder.mkdir(parents=True)
    path = tiny().write(folder / "Repo-Q4_K_M.gguf")
    (folder / "mmproj-Repo.gguf").write_bytes(b"x")

    for name in ("publisher/Repo-GGUF/Repo-Q4_K_M", "Repo-Q4_K_M", "Repo-GGUF", "publisher/Repo-GGUF"):
        assert resolve(f"lmstudio:{name}").path == path
    assert [model.quantisation for model in scan()] == ["Q4_K_M"]


def test_lm_studios_home_can_be_elsewhere(home: Path):
    (home / ".lmstudio-home-pointer").write_text(str(home / "elsewhere") + "\n")
    folder = home / "elsewhere/models/p/r"
    folder.mkdir(parents=True)
    tiny().write(folder / "m.gguf")

    assert [model.reference for model in scan()] == ["lmstudio:p/r/m"]


@pytest.mark.skipif(os.uname().sysname == "Darwin", reason="the folders of Linux")
def test_llama_cpps_and_gpt4alls_folders_are_found(home: Path):
    for folder in (".cache/llama.cpp", ".local/share/nomic.ai/GPT4All", ".cache/gpt4all"):
        (home / folder).mkdir(parents=True)
        tiny().write(home / folder / f"m-{folder.count('/')}-{len(folder)}.gguf")

    assert [model.program for model in scan()] == ["llamacpp", "gpt4all", "gpt4all"]
    assert resolve("llamacpp:m-1-16").path.parent.name == "llama.cpp"


def test_the_hubs_models_are_listed(home: Path):
    in_hub(home, "me/Model-GGUF", "sub/Model-Q4_K_M.gguf")

    [model] = scan()
    assert model.reference == "hf:me/Model-GGUF:sub/Model-Q4_K_M.gguf"
    assert resolve(model.reference).path.exists()


def test_a_name_that_means_several_is_refused(home: Path):
    for publisher in "ab":
        folder = home / f".lmstudio/models/{publisher}/repo"
        folder.mkdir(parents=True)
        tiny().write(folder / "m.gguf")

    with pytest.raises(UsageError, match="means several models"):
        resolve("lmstudio:m")


def test_a_name_that_another_program_lacks_suggests_the_nearest(home: Path):
    in_ollama(home / ".ollama/models", "registry.ollama.ai/library/llama3.2/latest")

    with pytest.raises(UsageError, match=r"did you mean ollama:llama3\.2:latest"):
        resolve("ollama:llama3.1")


def test_a_scan_changes_nothing(home: Path):
    in_ollama(home / ".ollama/models", "registry.ollama.ai/library/llama3.2/latest")
    in_hub(home, "me/M", "M-Q4_0.gguf")
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    scan()

    assert {path: path.lstat().st_mtime_ns for path in home.rglob("*")} == before


def test_nothing_anywhere_is_no_error():
    assert scan() == []
