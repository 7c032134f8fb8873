"""The command reference and the templates' reserved names agree with the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llmcli.cli.door import HOUSE_OPTIONS
from llmcli.cli.options import parameters
from llmcli.cli.text import GROUPS
from llmcli.templates.keys import GLOBAL_OPTIONS

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_command_reference_is_what_the_commands_say(llm_env):
    code = "import reference, sys; sys.stdout.write(reference.page())"
    written = subprocess.run(
        [sys.executable, "-c", code], cwd=DOCS, env=llm_env, capture_output=True, text=True, check=True
    )

    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert written.stdout == page, "python docs/reference.py brings it up to date"


def test_no_template_can_take_the_name_of_a_shared_option():
    infos = [
        parameter.annotation.__metadata__[0] for group in GROUPS.values() for parameter in parameters(group)
    ]
    words = [word for info in infos for word in (info.default, *(info.param_decls or ()))]
    words += [word for names, _, _, _ in HOUSE_OPTIONS for word in names]
    options = [option for word in words for option in str(word).split("/") if option.startswith("--")]
    names = {option[2:].replace("-", "_") for option in options}

    assert len(names) > 30
    assert names <= GLOBAL_OPTIONS
