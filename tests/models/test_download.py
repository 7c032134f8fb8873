"""Downloads from a web address, with a server that fails in every way that was thought of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from ggufs import tiny
from servers import Fault, FaultyServer, closed_port

from llmcli.errors import (
    BackendUnreachable,
    LlmError,
    MissingInput,
    ModelError,
    PermissionRefused,
    UsageError,
)
from llmcli.models.download import download
from llmcli.models.meter import Silent
from llmcli.models.network import is_private

DATA = tiny("llama").pack()
OLD = b"the old good file"


def sampled(values: Sequence[int], every: int) -> list[object]:
    """All of them, but most only with the slow tests."""
    return [
        value if at % every == 0 else pytest.param(value, marks=pytest.mark.slow)
        for at, value in enumerate(values)
    ]


FIRST = sampled(range(10), every=5)
PERCENT = sampled(range(2, 100, 7), every=4)


@pytest.fixture(autouse=True)
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMCLI_ALLOW_HTTP", "1")
    monkeypatch.setenv("LLMCLI_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with FaultyServer(DATA) as server:
        yield server


def fetch(server: FaultyServer, fault: Fault, target: Path, sha256: str | None = "") -> LlmError | None:
    """Download over an old file; whatever happens, what stands there is right or the old."""
    target.write_bytes(OLD)
    url = server.add(fault)
    try:
        download(url, target, server.sha256 if sha256 == "" else sha256, Silent(), pause=0)
    except LlmError as error:
        assert target.read_bytes() == OLD
        return error
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir() if path.name.startswith("m.gguf")] == ["m.gguf"]
    return None


def resumes(fault: Fault) -> int:
    return len(fault.requests) - 1


def refetched(fault: Fault) -> int:
    return fault.sent - len(DATA)


@pytest.mark.parametrize("first", FIRST)
def test_a_connection_that_ends_at_any_percent_is_resumed_there(
    first: int, server: FaultyServer, tmp_path: Path
):
    for percent in range(first, 100, 10):
        fault = Fault(drops=[percent / 100, None])
        assert fetch(server, fault, tmp_path / "m.gguf") is None
        assert refetched(fault) <= (1 << 20) * resumes(fault)


@pytest.mark.parametrize("first", FIRST)
def test_a_server_that_ignores_range_is_read_from_the_start(first: int, server: FaultyServer, tmp_path: Path):
    for percent in range(first, 100, 10):
        fault = Fault(drops=[percent / 100, None], ignore_range=True)
        assert fetch(server, fault, tmp_path / "m.gguf") is None


@pytest.mark.parametrize("percent", PERCENT)
def test_a_file_that_changes_on_the_way_is_read_from_the_start(
    percent: int, server: FaultyServer, tmp_path: Path
):
    fault = Fault(drops=[percent / 100, None], etags=['"one"', '"two"'])
    assert fetch(server, fault, tmp_path / "m.gguf") is None
    assert fault.requests[-1] != fault.requests[0]


@pytest.mark.parametrize("percent", PERCENT)
def test_a_server_that_joins_two_files_is_caught(percent: int, server: FaultyServer, tmp_path: Path):
    fault = Fault(drops=[percent / 100, None], etags=['"one"', '"two"'], ignore_if_range=True)
    assert fetch(server, fault, tmp_path / "m.gguf") is None
    assert fault.requests[-1] is None


@pytest.mark.parametrize("percent", PERCENT)
def test_a_server_that_has_forgotten_the_rest_is_asked_for_all(
    percent: int, server: FaultyServer, tmp_path: Path
):
    fault = Fault(drops=[percent / 100, None], statuses=[200, 416, 200])
    assert fetch(server, fault, tmp_path / "m.gguf") is None


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_server_that_is_busy_is_asked_again(status: int, server: FaultyServer, tmp_path: Path):
    assert fetch(server, Fault(statuses=[status, status, 200]), tmp_path / "m.gguf") is None


@pytest.mark.parametrize("place", sampled(range(0, len(DATA), len(DATA) // 40), every=6))
def test_one_wrong_bit_anywhere_is_refused_and_nothing_kept(place: int, server: FaultyServer, tmp_path: Path):
    error = fetch(server, Fault(flip=place), tmp_path / "m.gguf")

    assert isinstance(error, ModelError)
    assert "wrong checksum" in str(error)
    assert not (tmp_path / "m.gguf.part").exists()


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.8, 0.999])
def test_a_length_that_is_too_small_is_found_out(share: float, server: FaultyServer, tmp_path: Path):
    error = fetch(server, Fault(length=-int(len(DATA) * share)), tmp_path / "m.gguf")

    assert error is not None
    assert error.exit_code in (4, 69)


@pytest.mark.parametrize("more", [1, 1000, 10**6, 10**15])
def test_a_length_that_is_too_large_ends(more: int, server: FaultyServer, tmp_path: Path):
    error = fetch(server, Fault(length=more), tmp_path / "m.gguf")

    assert error is None or error.exit_code in (4, 69, 74)


def test_a_length_that_no_disk_has_is_refused_before_the_download(server: FaultyServer, tmp_path: Path):
    fault = Fault(length=10**16)
    error = fetch(server, fault, tmp_path / "m.gguf")

    assert error is not None
    assert error.exit_code == 74
    assert "GB are free" in str(error)


def test_a_file_without_a_length_is_read_to_its_end(server: FaultyServer, tmp_path: Path):
    assert fetch(server, Fault(chunked=True), tmp_path / "m.gguf") is None


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://example.org/m.gguf", "gopher://x/", "javascript:alert(1)", "http://", "//"],
)
def test_a_redirect_to_what_is_no_web_address_is_refused(target: str, server: FaultyServer, tmp_path: Path):
    error = fetch(server, Fault(redirect=target), tmp_path / "m.gguf")

    assert error is not None
    assert error.exit_code in (2, 69)


def test_a_redirect_is_followed(server: FaultyServer, tmp_path: Path):
    last = Fault()
    middle = Fault(redirect=server.add(last))
    assert fetch(server, Fault(redirect=server.add(middle)), tmp_path / "m.gguf") is None


def test_redirects_in_a_circle_end(server: FaultyServer, tmp_path: Path):
    fault = Fault()
    fault.redirect = server.address + "/0/model.gguf"
    error = fetch(server, fault, tmp_path / "m.gguf")

    assert isinstance(error, BackendUnreachable)
    assert "more than 5 times" in str(error)
    assert len(fault.requests) == 6


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, MissingInput), (410, MissingInput), (401, PermissionRefused), (403, PermissionRefused)],
)
def test_a_refusal_is_not_asked_again(status: int, kind: type, server: FaultyServer, tmp_path: Path):
    fault = Fault(statuses=[status])
    assert isinstance(fetch(server, fault, tmp_path / "m.gguf"), kind)
    assert len(fault.requests) == 1


def test_a_server_that_never_finishes_is_given_up(server: FaultyServer, tmp_path: Path):
    fault = Fault(drops=[0.5, 0.5])
    error = fetch(server, fault, tmp_path / "m.gguf")

    assert isinstance(error, BackendUnreachable)
    assert "the same command goes on from here" in str(error)
    assert (tmp_path / "m.gguf.part").stat().st_size == len(DATA) // 2


def test_a_second_command_goes_on_where_the_first_ended(server: FaultyServer, tmp_path: Path):
    fault = Fault(drops=[0.5] * 7 + [None])
    assert fetch(server, fault, tmp_path / "m.gguf") is not None
    url = server.address + "/0/model.gguf"
    download(url, tmp_path / "m.gguf", server.sha256, Silent(), pause=0)

    assert (tmp_path / "m.gguf").read_bytes() == DATA
    assert refetched(fault) == 0


def test_a_part_of_another_address_is_not_gone_on_with(server: FaultyServer, tmp_path: Path):
    fetch(server, Fault(drops=[0.5]), tmp_path / "m.gguf")
    fault = Fault()
    assert fetch(server, fault, tmp_path / "m.gguf") is None
    assert fault.requests == [None]


def test_where_nothing_listens_is_said(tmp_path: Path):
    with pytest.raises(BackendUnreachable, match="broke off"):
        download(f"http://127.0.0.1:{closed_port()}/m.gguf", tmp_path / "m.gguf", None, Silent(), pause=0)


def test_a_planted_link_is_not_written_through(server: FaultyServer, tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "m.gguf.part").symlink_to(precious)
    assert isinstance(fetch(server, Fault(), tmp_path / "m.gguf"), PermissionRefused)

    (tmp_path / "m.gguf.part").unlink()
    os.link(precious, tmp_path / "m.gguf.part")
    assert isinstance(fetch(server, Fault(), tmp_path / "m.gguf"), PermissionRefused)
    assert precious.read_text() == "mine"


def test_a_link_of_the_target_s_name_is_replaced(server: FaultyServer, tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "l.gguf").symlink_to(precious)
    download(server.add(Fault()), tmp_path / "l.gguf", server.sha256, Silent(), pause=0)

    assert precious.read_text() == "mine"
    assert (tmp_path / "l.gguf").read_bytes() == DATA
    assert not (tmp_path / "l.gguf").is_symlink()


def test_what_is_trusted_must_still_be_a_whole_model(server: FaultyServer, tmp_path: Path):
    assert fetch(server, Fault(), tmp_path / "m.gguf", None) is None
    assert isinstance(fetch(server, Fault(flip=0), tmp_path / "m.gguf", None), ModelError)
    assert isinstance(fetch(server, Fault(length=-2000), tmp_path / "m.gguf", None), ModelError)


def test_plain_http_needs_permission(server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LLMCLI_ALLOW_HTTP")
    with pytest.raises(UsageError, match="plain http"):
        download(server.add(Fault()), tmp_path / "m.gguf", None, Silent(), pause=0)
    with pytest.raises(UsageError, match="is this machine"):
        download("https://127.0.0.1/m.gguf", tmp_path / "m.gguf", None, Silent(), pause=0)
    with pytest.raises(UsageError, match="carries a password"):
        download("https://me:word@example.org/m.gguf", tmp_path / "m.gguf", None, Silent(), pause=0)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1",
     "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "100.64.0.1"],
)  # fmt: skip
def test_private_addresses_are_known(address: str):
    assert is_private(address)


def test_public_addresses_are_known():
    assert not is_private("93.184.216.34")
    assert not is_private("2606:2800:220:1:248:1893:25c8:1946")
