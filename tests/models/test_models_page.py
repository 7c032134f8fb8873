"""docs/models.md and the README say what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmcli.doctor import hardware
from llmcli.models.entries import entries

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "models.md", ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_lines_that_install_for_a_gpu_are_the_doctors(page: Path):
    lines = set(re.findall(r"`(CMAKE_ARGS=[^`]*)`", page.read_text()))
    known = {one.install for one in (hardware.CUDA, hardware.METAL, hardware.ROCM, hardware.VULKAN)}

    assert lines
    assert lines <= known


def test_the_list_of_ones_own_that_is_shown_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    [example] = re.findall(r"```yaml\n(.*?)```", PAGES[0].read_text(), re.S)
    (tmp_path / "models.yaml").write_text(example.replace("0123…", "a" + "0" * 63))
    monkeypatch.setenv("LLMCLI_CONFIG_DIR", str(tmp_path))

    ours = entries()["ours"]
    assert ours.thinking is not None
    assert ours.thinking.off == {"enable_thinking": False}
    assert ours.weights_bytes


def test_every_model_that_a_page_pulls_is_known():
    for page in PAGES:
        for name in re.findall(r"llm models (?:pull|use) ([\w.-]+)(?=[\s`])", page.read_text()):
            assert name in entries() or name == "NAME"
