"""CONTRIBUTING's recipes, followed to the letter in a copy of the project."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from documented import commands, files, section

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what the recipes change, with an environment whose `llm` is the copy's."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("llmcli", "prompts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    shutil.copy(ROOT / "models.yaml", folder)
    venv.create(folder / ".venv", symlinks=True)
    [site] = (folder / ".venv").glob("lib/python*/site-packages")
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "clone.pth").write_text("\n".join([str(folder), *libraries]))
    program = folder / ".venv" / "bin" / "llm"
    program.write_text(f"#!{program.parent}/python\nfrom llmcli.cli.main import main\nmain()\n")
    program.chmod(0o755)
    return folder


@pytest.fixture
def do(clone, llm_env):
    """Run a line in the clone with its environment active."""
    env = {**llm_env, "PATH": f"{clone}/.venv/bin:{llm_env['PATH']}"}

    def run(line):
        return subprocess.run(
            line, shell=True, cwd=clone, env=env, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.parametrize("title", ["Add a template", "Add an engine"])
def test_a_recipe_works(clone, do, title):
    recipe = section(GUIDE, title)
    for name, text in files(recipe).items():
        (clone / name).write_text(text, encoding="utf-8")
    for command, expected in commands(recipe):
        done = do(command)
        assert (done.stdout, done.stderr) == (expected, ""), command
    for name in files(recipe):
        if name.startswith("tests/"):
            done = do(f"python -m pytest -q -p no:cacheprovider {name}")
            assert done.returncode == 0, done.stdout
