"""`llm models pull`: the hub, web addresses, two processes at once, full disks."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import LLM
from ggufs import tiny, write_split
from servers import Fault, FaultyServer, HubServer

MODEL = tiny("llama").pack()
OTHER = tiny("llama", seed=2).pack()
SHA256 = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture
def models(call, home: Path, monkeypatch: pytest.MonkeyPatch):
    """`llm models …` with the hub at `hub`, plain http allowed, and a cache of its own."""

    def run(*args, hub: str = "http://127.0.0.1:9", env=()):
        ours = {"HF_ENDPOINT": hub, "HF_HOME": str(home / "hf"), "LLMCLI_ALLOW_HTTP": "1", "NO_PROXY": "*"}
        for name, value in {**ours, **dict(env)}.items():
            monkeypatch.setenv(name, value)
        return call("models", *map(str, args))

    return run


@pytest.fixture
def hub():
    files = {
        "me/Good-GGUF": {"good-Q8_0.gguf": OTHER, "good-Q4_K_M.gguf": MODEL, "mmproj-good.gguf": b"x"},
        "me/Large-GGUF": {"large-Q8_0.gguf": MODEL, "large-Q6_K.gguf": OTHER},
        "me/Wrong-GGUF": {"wrong-Q4_K_M.gguf": MODEL},
        "me/Text": {"README.md": b"#"},
    }  # fmt: skip
    with HubServer(files, wrong=frozenset({"wrong-Q4_K_M.gguf"})) as server:
        yield server


# -- the hub -----------------------------------------------------------------------


def test_a_model_of_the_hub_is_fetched_checked_and_told(models, hub: HubServer):
    ran = models("pull", "hf:me/Good-GGUF", hub=hub.address)

    assert ran.code == 0, ran.err
    assert Path(ran.out.strip()).read_bytes() == MODEL
    assert "taking good-Q4_K_M.gguf" in ran.err
    assert models("path", "hf:me/Good-GGUF:Q4_K_M", hub=hub.address).out == ran.out


def test_the_hub_is_asked_for_the_model_and_nothing_else(models, hub: HubServer):
    models("pull", "hf:me/Good-GGUF:Q4_K_M", hub=hub.address)

    assert {path.split("/")[1:4][-1] for _, path in hub.asked} == {"me", "resolve"}


def test_a_quantisation_can_be_named(models, hub: HubServer):
    ran = models("pull", "hf:me/Good-GGUF:Q8_0", hub=hub.address)

    assert Path(ran.out.strip()).read_bytes() == OTHER


def test_without_the_usual_one_the_nearest_is_taken_and_told(models, hub: HubServer):
    ran = models("pull", "hf:me/Large-GGUF", hub=hub.address)

    assert "it has no Q4_K_M; taking the nearest, large-Q6_K.gguf" in ran.err
    assert Path(ran.out.strip()).read_bytes() == OTHER


def test_what_is_here_is_not_fetched_again(models, hub: HubServer):
    models("pull", "hf:me/Good-GGUF:Q4_K_M", hub=hub.address)
    models("pull", "hf:me/Good-GGUF:Q4_K_M", hub=hub.address)

    assert len(hub.downloads) == 1


def test_wrong_bytes_are_deleted(models, hub: HubServer, home: Path):
    ran = models("pull", "hf:me/Wrong-GGUF", hub=hub.address)

    assert ran.code == 4
    assert "wrong checksum" in ran.err
    assert ran.out == ""
    assert not [path for path in (home / "hf").rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    assert models("path", "hf:me/Wrong-GGUF", hub=hub.address).code == 4


@pytest.mark.parametrize(
    ("reference", "code", "said"),
    [
        ("hf:me/Nothing", 2, "the hub has no repository me/Nothing"),
        ("hf:me/Good-GGUF:Q2_K", 2, "me/Good-GGUF has no Q2_K (it has Q4_K_M, Q8_0)"),
        ("hf:me/Text", 2, "me/Text has no GGUF files"),
        ("hf:nonsense", 2, "is not of the form hf:owner/repo:quant"),
        ("qwen3-0.6", 2, "did you mean qwen3-0.6b?"),
    ],
)
def test_what_cannot_be_pulled_says_why(reference: str, code: int, said: str, models, hub: HubServer):
    ran = models("pull", reference, hub=hub.address)

    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_without_a_network_the_error_is_69(models):
    ran = models("pull", "hf:me/Good-GGUF:Q4_K_M")

    assert ran.code == 69
    assert ran.err.count("\n") == 1


def test_offline_asks_nobody(models, hub: HubServer):
    ran = models("pull", "hf:me/Good-GGUF:Q4_K_M", "--offline", hub=hub.address)

    assert ran.code == 69
    assert "--offline forbids" in ran.err
    assert not hub.asked


def test_a_known_name_is_held_against_its_known_hash(models, hub: HubServer, home: Path):
    config = home / "config"
    config.mkdir(parents=True)
    entry = "mine:\n  repo: me/Good-GGUF\n  file: good-Q4_K_M.gguf\n  sha256: "
    (config / "models.yaml").write_text(entry + SHA256)
    assert models("pull", "mine", hub=hub.address).code == 0

    (config / "models.yaml").write_text(entry + "a" + "0" * 63)
    ran = models("pull", "mine", hub=hub.address)
    assert ran.code == 4
    assert "another good-Q4_K_M.gguf by now" in ran.err


def test_a_file_that_went_bad_is_fetched_again(models, hub: HubServer):
    path = Path(models("pull", "hf:me/Good-GGUF:Q4_K_M", hub=hub.address).out.strip())
    blob = path.resolve()
    blob.chmod(0o644)
    blob.write_bytes(OTHER)
    used = models("show", "hf:me/Good-GGUF:Q4_K_M", hub=hub.address)
    assert "WRONG" in used.out

    ran = models("pull", "hf:me/Good-GGUF:Q4_K_M", hub=hub.address)
    assert ran.code == 0
    assert "fetching it again" in ran.err
    assert Path(ran.out.strip()).read_bytes() == MODEL


def test_a_split_model_comes_with_all_its_parts(models, home: Path, tmp_path: Path):
    first, second = (path.read_bytes() for path in write_split(tmp_path))
    files = {"m-00001-of-00002.gguf": first, "m-00002-of-00002.gguf": second}
    with HubServer({"me/Split": files}) as server:
        ran = models("pull", "hf:me/Split", hub=server.address)

        assert ran.code == 0, ran.err
        assert len(models("path", "hf:me/Split", hub=server.address).out.splitlines()) == 2


def test_plain_http_to_the_hub_needs_permission(models, hub: HubServer):
    ran = models("pull", "hf:me/Good-GGUF", hub=hub.address, env={"LLMCLI_ALLOW_HTTP": ""})

    assert ran.code == 2
    assert "HF_ENDPOINT" in ran.err
    assert not hub.asked


def test_two_processes_fetch_a_model_once(llm_env, hub: HubServer, home: Path, work: Path):
    hub.open.clear()
    env = {
        **llm_env,
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home / "hf"),
        "LLMCLI_ALLOW_HTTP": "1",
        "NO_PROXY": "*",
    }
    command = [LLM, "models", "pull", "hf:me/Good-GGUF:Q4_K_M"]
    folders = [work / "one", work / "other"]
    both = []
    for folder in folders:
        folder.mkdir()
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            both.append(subprocess.Popen(command, env=env, cwd=work, stdout=out, stderr=err))
    while not waiting(folders) and all(process.poll() is None for process in both):
        time.sleep(0.02)
    hub.open.set()

    assert [process.wait(60) for process in both] == [0, 0], [(f / "err").read_text() for f in folders]
    assert (folders[0] / "out").read_text() == (folders[1] / "out").read_text()
    assert len(hub.downloads) == 1
    assert waiting(folders) == 1


def waiting(folders: list[Path]) -> int:
    """How many have said that they wait for the other."""
    return sum("waiting for it" in (folder / "err").read_text() for folder in folders)


# -- a web address -----------------------------------------------------------------


@pytest.fixture
def server():
    with FaultyServer(MODEL) as server:
        yield server


def test_a_web_address_becomes_a_name(models, server: FaultyServer, home: Path):
    url = server.add(Fault(), "Tiny-Q8_0.gguf")
    ran = models("pull", url, "--sha256", SHA256)

    assert ran.code == 0, ran.err
    assert Path(ran.out.strip()) == home / "data/models/Tiny-Q8_0.gguf"
    assert models("path", "tiny-q8_0").out == ran.out
    assert "tiny-q8_0" in models("list").out
    assert [(home / place).stat().st_mode & 0o777 for place in ("data", "data/models")] == [0o700, 0o700]
    assert Path(ran.out.strip()).stat().st_mode & 0o777 == 0o600


def test_every_part_of_a_split_model_from_a_web_address_is_held_against_its_hash(
    models, home: Path, tmp_path: Path
):
    parts = write_split(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{web.server_port}/{parts[0].name}"
        ran = models("pull", address, "--trust", "--name", "two")
        web.shutdown()
    assert ran.code == 0, ran.err
    assert models("verify", "two").out.startswith("two: right")

    later = home / "data/models" / parts[1].name
    data = bytearray(later.read_bytes())
    data[-1] ^= 1
    later.write_bytes(data)
    assert f"wrong: {later.name} SHA-256" in models("verify", "two").out


def test_an_address_whose_file_would_take_anothers_place_is_refused(models, server: FaultyServer):
    assert models("pull", server.add(Fault(), "a/model.gguf"), "--trust", "--name", "a").code == 0
    ran = models("pull", server.add(Fault(), "b/model.gguf"), "--trust", "--name", "b")
    assert (ran.code, "is here already, from" in ran.err) == (2, True)
    assert models("verify", "a").code == 0


def test_a_web_address_needs_a_checksum_or_trust(models, server: FaultyServer):
    url = server.add(Fault())
    ran = models("pull", url)
    assert ran.code == 2
    assert "--sha256" in ran.err
    assert "--trust" in ran.err

    assert models("pull", url, "--trust", "--name", "trusted").code == 0
    assert models("verify", "trusted").out.startswith("trusted: right: SHA-256 " + SHA256)


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (Fault(flip=1000), 4, "wrong checksum"),
        (Fault(redirect="file:///etc/passwd"), 69, "which is no web address"),
        (Fault(statuses=[404]), 66, "there is nothing at"),
        (Fault(statuses=[403]), 77, "refuses"),
        (Fault(length=10**16), 74, "GB are free"),
    ],
)
def test_each_failure_has_its_exit_code_and_keeps_the_old_file(
    fault: Fault, code: int, said: str, models, server, home
):
    old = home / "data/models/model.gguf"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    ran = models("pull", server.add(fault), "--sha256", SHA256)

    assert ran.code == code
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert old.read_bytes() == b"old"


def test_a_redirect_from_a_public_to_a_private_address_is_refused(models, server: FaultyServer):
    """The first address must be public for the rule to hold; a proxy stands for the public web here."""
    fault = Fault(redirect="http://10.0.0.1/model.gguf")
    proxy = {"http_proxy": server.address, "NO_PROXY": "10.0.0.1", "no_proxy": "10.0.0.1"}
    server.faults["/public.gguf"] = fault
    ran = models("pull", "http://models.example/public.gguf", "--trust", env=proxy)

    assert ran.code == 69
    assert "is a private address" in ran.err


def test_a_full_disk_is_74_and_the_download_goes_on_later(
    llm_env, server: FaultyServer, work: Path, home: Path
):
    url = server.add(Fault())
    env = {**llm_env, "LLMCLI_ALLOW_HTTP": "1", "NO_PROXY": "*"}
    command = [LLM, "models", "pull", url, "--sha256", SHA256]

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    full = subprocess.run(command, env=env, cwd=work, capture_output=True, text=True, preexec_fn=small_disk)
    assert full.returncode == 74, full.stderr
    assert "the disk is full" in full.stderr
    assert (home / "data/models/model.gguf.part").stat().st_size == 200_000

    again = subprocess.run(command, env=env, cwd=work, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert server.faults["/0/model.gguf"].requests[-1] == "bytes=200000-"


def test_a_killed_download_is_gone_on_with(llm_env, server: FaultyServer, work: Path, home: Path):
    fault = Fault(hold=200_000)
    url = server.add(fault)
    env = {**llm_env, "LLMCLI_ALLOW_HTTP": "1", "NO_PROXY": "*"}
    command = [LLM, "models", "pull", url, "--sha256", SHA256]
    process = subprocess.Popen(command, env=env, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    part = home / "data/models/model.gguf.part"
    while not (part.exists() and part.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    there = part.stat().st_size

    fault.go_on.set()
    again = subprocess.run(command, env=env, cwd=work, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert fault.requests[-1] == f"bytes={there}-"


def test_a_checksum_must_look_like_one(models, server: FaultyServer):
    assert "64 hexadecimal digits" in models("pull", server.add(Fault()), "--sha256", "abc").err


def test_a_downloaded_file_can_be_removed(models, server: FaultyServer, home: Path):
    models("pull", server.add(Fault()), "--sha256", SHA256)
    ran = models("rm", "model")

    assert ran.code == 0
    assert not (home / "data/models/model.gguf").exists()
    assert models("path", "model").code == 2


def test_a_name_in_use_is_not_taken_over_and_a_shared_file_stays(models, tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "one.gguf").write_bytes(MODEL)
    (tmp_path / "served" / "two.gguf").write_bytes(OTHER)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert models("pull", f"{url}/one.gguf", "--trust", "--name", "x1").code == 0
        taken = models("pull", f"{url}/two.gguf", "--trust", "--name", "x1")
        assert models("pull", f"{url}/one.gguf", "--trust", "--name", "x2").code == 0
        server.shutdown()

    assert taken.code == 2 and "x1 is the name of" in taken.err
    kept = models("rm", "x1")
    assert "stays, as x2" in kept.err
    assert models("path", "x2").code == 0
    assert "deleted x2" in models("rm", "x2").err
