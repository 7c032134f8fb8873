"""`llm history`: list, show, search, export, rename and delete past conversations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmcli.chat.history import History, Record, history_path
from llmcli.cli.door import Command, environment, new_app
from llmcli.cli.environment import Environment
from llmcli.cli.options import LARGEST, ModelOptions, file_of, takes
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.chat.history import Entry

app = new_app(
    "List, search, show and delete past conversations. They never leave this machine.",
    example="""
    llm history list
    llm history search train station
    llm history show 12
    llm history export 12 --format md -o talk.md
    """,
)

Reference = Annotated[str, typer.Argument(metavar="CONVERSATION", help="Its number, its name, or last.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@contextmanager
def _opened() -> Iterator[History]:
    path = history_path()
    with closing(History(path if path.exists() else None)) as history:
        yield history


@app.command("list", cls=Command, epilog="llm history list -n 5")
def list_conversations(
    ctx: typer.Context,
    number: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, max=LARGEST, help="The latest N (default: all).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List conversations, the latest used first."""
    env = environment(ctx)
    with _opened() as history:
        records = list(history.conversations(number or -1))
    if as_json:
        for record in records:
            env.write_json(_fields(record))
        return
    if not records:
        env.note("no conversation is kept yet")
    from llmcli.chat.export import moment

    rows = [
        (str(one.id), moment(one.updated), one.name or "-", str(one.messages), one.model, one.heading)
        for one in records
    ]
    env.write_table(("ID", "USED", "NAME", "MESSAGES", "MODEL", "TITLE"), rows, right=(0, 3), cut=(4, 2))


@app.command("show", cls=Command, epilog="llm history show last")
def show(
    ctx: typer.Context,
    conversation: Reference,
    every: Annotated[bool, typer.Option("--all", help="Also what was taken back or answered anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a conversation."""
    from llmcli.chat import export

    env = environment(ctx)
    record, entries = _found(conversation)
    kept = [entry for entry in entries if every or entry.place != "undone"]
    if as_json:
        for entry in kept:
            env.write_json(export.message_fields(entry))
        return
    env.write(export.as_markdown(record, kept))


@app.command("search", cls=Command, epilog='llm history search "train station" berlin')
def search(
    ctx: typer.Context,
    words: Annotated[
        list[str], typer.Argument(metavar="WORDS", help='All must occur; "a phrase" as it stands.')
    ],
    number: Annotated[
        int, typer.Option("-n", metavar="N", min=1, max=LARGEST, help="At most N messages.")
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Find messages by their words."""
    env = environment(ctx)
    with _opened() as history:
        hits = history.search(" ".join(f'"{word}"' if " " in word else word for word in words), number)
    if as_json:
        for hit in hits:
            fields = {"id": hit.conversation, "name": hit.name, "title": hit.title, "role": hit.role}
            env.write_json({**fields, "created": hit.created, "snippet": hit.snippet})
        return
    if not hits:
        env.note("nothing found")
    from llmcli.chat.export import moment

    rows = [(str(h.conversation), moment(h.created), h.name or "-", h.role, h.snippet) for h in hits]
    env.write_table(("ID", "WHEN", "NAME", "ROLE", "TEXT"), rows, right=(0,), cut=(2,))


@app.command("export", cls=Command, epilog="llm history export 12 --format json -o talk.json")
def export_conversation(
    ctx: typer.Context,
    conversation: Reference,
    format: Annotated[
        Literal["md", "json"] | None, typer.Option("--format", help="Default: md, or FILE's ending.")
    ] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write there.")] = None,
) -> None:
    """Write a conversation as Markdown or JSON."""
    from llmcli.chat.export import FORMATS
    from llmcli.cli.results import destination

    env = environment(ctx)
    record, entries = _found(conversation)
    text = FORMATS[format or ("json" if (output or "").endswith(".json") else "md")](record, entries)
    with destination(file_of(output), env) as write:
        write(text)


@app.command("rename", cls=Command, epilog="llm history rename 12 trip\nllm history rename 12")
@takes(model=ModelOptions)
def rename(
    ctx: typer.Context,
    conversation: Reference,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="For --session; without it the model writes a title.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="Its title.")] = None,
    *,
    model: ModelOptions,
) -> None:
    """Name a conversation, or title it."""
    env = environment(ctx)
    if name is None and title is None:
        entries = _found(conversation)[1]
        title = _written_title(entries, model, env)
        env.note(f"titled: {title}")
    with _opened() as history:
        history.rename(history.find(conversation).id, name=name, title=title)


def _written_title(entries: list[Entry], model: ModelOptions, env: Environment) -> str:
    """The model's own title for the beginning of a conversation."""
    from llmcli.chat.titles import tidy, title_prompt
    from llmcli.cli import opening
    from llmcli.messages import Completion

    prompt, sampling = title_prompt([entry.content for entry in entries], env.cwd)
    with opening.opened(env, opening.choose(env, model)) as engine:
        for item in engine.stream(prompt, sampling):
            if isinstance(item, Completion):
                return tidy(item.text)
    return ""


@app.command("delete", cls=Command, epilog="llm history delete 12 13 --yes")
def delete(
    ctx: typer.Context,
    conversations: Annotated[list[str], typer.Argument(metavar="CONVERSATION…", help="Numbers or names.")],
    yes: Yes = False,
) -> None:
    """Delete conversations for good."""
    env = environment(ctx)
    with _opened() as history:
        records = [history.find(one) for one in conversations]
        what = ", ".join(f"{one.id} ({one.heading[:40]})" for one in records)
        if _agreed(f"delete {what}?", yes, env):
            history.delete([one.id for one in records])
            env.note(f"deleted {what}")


@app.command("purge", cls=Command, epilog="llm history purge --yes")
def purge(ctx: typer.Context, yes: Yes = False) -> None:
    """Delete every conversation and every typed line for good."""
    env = environment(ctx)
    with _opened() as history:
        number = sum(1 for _ in history.conversations())
        if _agreed(f"delete all {number} conversations?", yes, env):
            history.purge()
            env.note(f"deleted {number}")


@app.command("path", cls=Command, epilog="llm history path")
def path(ctx: typer.Context) -> None:
    """Print where the history is kept."""
    environment(ctx).write(f"{history_path()}\n")


def _found(reference: str) -> tuple[Record, list[Entry]]:
    with _opened() as history:
        record = history.find(reference)
        return record, history.entries(record.id)


def _agreed(question: str, yes: bool, env: Environment) -> bool:
    """Ask, where somebody is there to answer."""
    if yes:
        return True
    if not (env.stdin_is_terminal and env.stderr_is_terminal):
        raise UsageError(
            f"{question[:-1]}: nobody is there to confirm it", hint="--yes does it without asking"
        )
    env.complain(f"{question} y/N")
    return env.stdin.readline().strip().lower() in (b"y", b"yes")


def _fields(record: Record) -> dict[str, object]:
    return {
        "id": record.id, "name": record.name, "title": record.title, "kind": record.kind,
        "model": record.model, "messages": record.messages, "first": record.first,
        "created": record.created, "updated": record.updated,
    }  # fmt: skip
