"""`llm doctor`: what is installed, what it can use, what is wrong and what to do about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.cli.door import Command, environment, new_app

if TYPE_CHECKING:
    from llmcli.doctor.findings import Finding

app = new_app(no_args_is_help=False)


@app.command(cls=Command, epilog="llm doctor\nllm doctor --json")
def doctor(
    ctx: typer.Context,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure the model for 2 s.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """
    Check this machine and this installation.

    Ends with 0 where nothing is broken, else with the exit code of the first problem.
    """
    from llmcli.doctor.examine import examine

    env = environment(ctx)
    env.status("looking around")
    findings = []
    area = ""
    for found in examine(env.environ, speed):
        findings.append(found)
        if not as_json:
            env.write(("" if found.area == area else f"{found.area}\n") + _line(found), flush=True)
            area = found.area
    env.status("")
    problems = [found for found in findings if found.level == "problem"]
    if as_json:
        record = {"ok": not problems, "findings": [_record(found) for found in findings]}
        env.write(json.dumps(record, ensure_ascii=False, indent=2) + "\n")
    elif problems:
        env.note(f"{len(problems)} problem{'s' * (len(problems) > 1)}, marked with ✗ above")
    if problems:
        raise typer.Exit(problems[0].exit_code)


MARKS = {"ok": "  ", "note": "! ", "problem": "✗ "}


def _line(found: Finding) -> str:
    line = f"  {MARKS[found.level]}{found.name}: {found.value}\n"
    return line + (f"      → {found.remedy}\n" if found.remedy else "")


def _record(found: Finding) -> dict[str, object]:
    fields = ("area", "name", "value", "level", "remedy", "data")
    return {name: getattr(found, name) for name in fields}
