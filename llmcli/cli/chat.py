"""`llm chat`: talk with a model in the terminal, or ask one question with --once."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli import config, engines
from llmcli.cli import opening
from llmcli.cli.door import Command, environment, new_app
from llmcli.cli.environment import Environment, to_bytes
from llmcli.cli.inputs import STDIN
from llmcli.cli.options import ModelOptions, SamplingOptions, takes
from llmcli.errors import CannotCreate, InputOutputError, PermissionRefused, UsageError
from llmcli.output.json_text import printable
from llmcli.paths import absolute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmcli.chat.conversation import Conversation
    from llmcli.chat.editor import Editor
    from llmcli.chat.history import History, Record
    from llmcli.chat.line_reader import LineReader
    from llmcli.chat.screen import Screen
    from llmcli.chat.talk import Doors, Talk
    from llmcli.engines.base import Engine
    from llmcli.messages import Sampling
    from llmcli.templates import Template

TEMPERATURE = 0.7

EXAMPLES = """
llm chat
llm chat -f report.txt "What are the three main risks?"
cat error.log | llm chat -i "What is wrong?"
llm chat --once "What is the capital of France?"
"""

app = new_app()


@dataclass(frozen=True)
class Asked:
    """What the command line says about the talk itself."""

    message: str
    once: bool
    interactive: bool
    files: tuple[str, ...]
    resume: bool
    session: str | None
    private: bool
    system: str | None
    plain: bool
    show_thinking: bool
    thinking: bool
    encoding: str | None


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Chat", help=help, **settings)


@app.command(cls=Command, epilog=EXAMPLES)
@takes(model=ModelOptions, sampling=SamplingOptions)
def chat(
    ctx: typer.Context,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="The first message.")] = "",
    once: Annotated[
        bool, _option("--once", help="Answer and exit; standard input, if piped, goes with the message.")
    ] = False,
    interactive: Annotated[
        bool, _option("-i", "--interactive", help="Read the pipe, then talk on from the terminal.")
    ] = False,
    file: Annotated[
        list[str] | None, _option("-f", "--file", metavar="FILE", help="Goes with the message; repeatable.")
    ] = None,
    resume: Annotated[bool, _option("-c", "--continue", help="Go on with the last conversation.")] = False,
    session: Annotated[
        str | None, _option("--session", metavar="NAME", help="Go on with this conversation, or begin it.")
    ] = None,
    private: Annotated[bool, _option("--private", help="Record nothing.")] = False,
    system: Annotated[str | None, _option("-s", "--system", metavar="TEXT", help="System message.")] = None,
    plain: Annotated[bool, _option("--plain", help="Answers as they are written, not drawn.")] = False,
    show_thinking: Annotated[bool, _option("--show-thinking", help="Do not fold the thinking.")] = False,
    no_thinking: Annotated[bool, _option("--no-thinking", help="The model answers at once.")] = False,
    encoding: Annotated[
        str | None, _option("--encoding", metavar="NAME", help="Of the files (default: UTF-8).")
    ] = None,
    *,
    model: ModelOptions,
    sampling: SamplingOptions,
) -> None:
    """Talk with a model. Every conversation is kept (llm history), unless --private."""
    asked = Asked(
        printable(message), once, interactive, tuple(file or ()), resume, session, private,
        system and printable(system), plain,
        show_thinking, not no_thinking, encoding,
    )  # fmt: skip
    env = environment(ctx)
    _check(asked, env)
    raise typer.Exit(_run(asked, model, sampling, env))


def _run(asked: Asked, model: ModelOptions, sampling: SamplingOptions, env: Environment) -> int:
    """Talk; gives the exit code. Ctrl-C and the like while all is being set up end it."""
    from llmcli.chat.signals import Interrupted, Leaving

    try:
        with ExitStack() as stack:
            terminal = None if asked.once else stack.enter_context(_terminal(env))
            talk = stack.enter_context(_talk(asked, model, sampling, env, terminal))
            return _once(asked, talk, env) if terminal is None else _converse(asked, talk, env, terminal)
    except Interrupted:
        return 130
    except Leaving as leaving:
        return leaving.code


def _check(asked: Asked, env: Environment) -> None:
    """Refuse what cannot work before anything is loaded."""
    if asked.session == "":  # "$NAME" with nothing in it
        raise UsageError("--session is empty", hint="give the conversation a name")
    if asked.resume and asked.session:
        raise UsageError("-c and --session name two conversations", hint="take one of them")
    if asked.private and (asked.resume or asked.session):
        raise UsageError(
            "--private keeps nothing, so there is nothing to go on with", hint="without --private"
        )
    if asked.once:
        if not (asked.message.strip() or asked.files) and env.stdin_is_terminal:
            raise UsageError("nothing to ask", hint='for example: llm chat --once "What is a quark?"')
        return
    if not env.stdout_is_terminal:
        raise UsageError("chat needs a terminal", hint='to ask one question: llm chat --once "…"')
    if not env.stdin_is_terminal and not asked.interactive:
        raise UsageError(
            "chat needs a terminal, and standard input is none",
            hint="with -i the pipe is read first, then the terminal; --once answers and exits",
        )


@contextmanager
def _terminal(env: Environment) -> Iterator[int]:
    """The descriptor that is typed at; after a pipe it is the terminal that controls this process."""
    if env.stdin_is_terminal:
        yield env.stdin.fileno()
        return
    try:
        descriptor = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError("-i needs a terminal to talk on from, and there is none") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _talk(
    asked: Asked, model: ModelOptions, sampling: SamplingOptions, env: Environment, terminal: int | None
) -> Iterator[Talk]:
    """Everything that a talk is made of; the engine begins to load here."""
    from llmcli.chat.signals import Signals
    from llmcli.chat.talk import Talk

    settings = config.load(env.environ)
    template = _template(env)
    with ExitStack() as stack:
        history = stack.enter_context(closing(_history(asked, settings.log)))
        record = _record(asked, history)
        kept = record.model if record and not model.model else ""
        reference = model.model or kept or settings.model
        doors = _doors(asked, model, env, kept)
        conversation = _conversation(asked, history, record, reference, template)
        screen = _screen(asked, env, settings.theme != "none")
        signals = stack.enter_context(Signals(terminal, screen.dumb))
        talk = Talk(
            doors, conversation, screen, signals, reference, _sampling(sampling, template),
            chosen=template.sampling.keys() | sampling.given().keys(), context=model.context,
            thinking=asked.thinking, seed=sampling.seed,
        )  # fmt: skip
        talk.show_thinking = asked.show_thinking
        stack.callback(talk.close)
        talk.start()
        yield talk


def _template(env: Environment) -> Template:
    """prompts/chat.yaml, which says how to begin a chat."""
    from llmcli.registry import find_template
    from llmcli.templates import load_template

    return load_template(find_template("chat", env.cwd))


def _sampling(options: SamplingOptions, template: Template) -> Sampling:
    from llmcli.templates import sampling_for

    given = {name: value for name, value in options.given().items() if name != "seed"}
    return sampling_for(
        template, {}, {"temperature": template.sampling.get("temperature", TEMPERATURE), **given}
    )


def _doors(asked: Asked, model: ModelOptions, env: Environment, kept: str) -> Doors:
    """`kept` is the model of the conversation that is taken up again."""
    from llmcli.chat.clipboard import copy
    from llmcli.chat.talk import Doors

    def open_engine(reference: str, context: int | None) -> Engine:
        named_by = "this conversation was with it; -m names another" if reference == kept else None
        wanted = dataclasses.replace(model, model=reference, context=context)
        chosen = opening.choose(env, wanted, named_by)
        opening.say_where(reference, env)
        return engines.open_engine(chosen.reference, chosen.options, chosen.model)

    def ask_terminal(sequence: str) -> None:
        env.stdout.write(sequence.encode())
        env.stdout.flush()

    return Doors(
        open_engine, _model_names, lambda text: copy(text, ask_terminal, env.environ),
        cwd=absolute(env.cwd), encoding=asked.encoding,
    )  # fmt: skip


def _model_names() -> list[str]:
    from llmcli.models import installed
    from llmcli.models.entries import entries
    from llmcli.models.resolve import find_entry

    here = {name for name, entry in entries().items() if find_entry(entry) is not None}
    return sorted(here | set(installed.load()))


def _history(asked: Asked, log: bool) -> History:
    from llmcli.chat.history import History, history_path

    wanted = log or asked.resume or bool(asked.session)
    try:
        return History(history_path() if wanted and not asked.private else None)
    except (PermissionRefused, InputOutputError, CannotCreate) as error:
        raise type(error)(error.message, hint="--private keeps nothing") from error


def _record(asked: Asked, history: History) -> Record | None:
    """The conversation to go on with, None for a new one."""
    from llmcli.errors import MissingInput

    if asked.resume:
        return history.find("last", kind="chat")
    if not asked.session:
        return None
    try:
        return history.find(asked.session, kind="chat")
    except MissingInput:
        history.check_name(asked.session)
        return None


def _conversation(
    asked: Asked, history: History, record: Record | None, reference: str, template: Template
) -> Conversation:
    from llmcli.chat.conversation import Conversation

    if record is None:
        system = template.system if asked.system is None else asked.system
        return Conversation(history, reference, system, asked.session or "")
    conversation = Conversation.load(history, record, reference)
    if reference != record.model:
        conversation.set_model(reference)
    if asked.system is not None:
        conversation.set_system(asked.system)
    return conversation


class _Text:
    """Standard output as a stream of text; what cannot be encoded comes out as in `Environment.write`."""

    def __init__(self, env: Environment) -> None:
        self.env = env

    def write(self, text: str) -> object:
        return self.env.stdout.write(to_bytes(text))

    def flush(self) -> None:
        self.env.stdout.flush()


def _screen(asked: Asked, env: Environment, colour: bool) -> Screen:
    from llmcli.chat.screen import Screen

    def width() -> int:
        try:
            return os.get_terminal_size(env.stdout.fileno()).columns or 80
        except (OSError, ValueError, io.UnsupportedOperation):
            return 80

    return Screen(
        _Text(env), terminal=env.stdout_is_terminal, width=width, colour=env.colour and colour,
        plain=asked.plain, dumb=env.environ.get("TERM", "dumb") == "dumb",
        notes=env.note if asked.once else None,
    )  # fmt: skip


def _attach(asked: Asked, talk: Talk, env: Environment) -> None:
    """The files and the pipe, for the first message."""
    from llmcli.chat.actions import attach, named
    from llmcli.chat.talk import Attachment
    from llmcli.chat.work import run
    from llmcli.documents import read_stream

    if asked.files:
        attach(talk, [named(name, env.cwd / name) for name in asked.files if name != STDIN])
    piped = not env.stdin_is_terminal and (asked.interactive or not _is_nothing(env))
    if piped or STDIN in asked.files:
        text = run(lambda: read_stream(env.stdin, asked.encoding), talk.signals)
        if text.strip():
            talk.attachments.append(Attachment("standard input", text, talk.count([text])[0]))


def _is_nothing(env: Environment) -> bool:
    """Standard input is /dev/null or closed: a script's, not a pipe's."""
    import stat

    try:
        return stat.S_ISCHR(os.fstat(env.stdin.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _once(asked: Asked, talk: Talk, env: Environment) -> int:
    """Answer one message."""
    from llmcli.chat import repl

    _attach(asked, talk, env)
    if not asked.message.strip() and not talk.attachments:
        raise UsageError("nothing to ask", hint='for example: llm chat --once "What is a quark?"')
    return repl.once(talk, asked.message)


def _converse(asked: Asked, talk: Talk, env: Environment, terminal: int) -> int:
    """Talk until the user leaves."""
    from llmcli.chat import actions, repl, shelf

    _attach(asked, talk, env)
    with _editor(talk, env, terminal) as editor:
        if talk.conversation.number:
            talk.engine.info  # noqa: B018 (waits for the model, whose tokens are to be counted)
            talk.measure()
            shelf.welcome_back(talk)
        elif not env.quiet:
            talk.screen.whisper("/help lists the commands, Ctrl-D leaves")
        if talk.attachments and not asked.message:
            actions.read(talk, "")
        return repl.run(talk, editor, asked.message)


@contextmanager
def _editor(talk: Talk, env: Environment, terminal: int) -> Iterator[Editor | LineReader]:
    """The line editor at this terminal; a dumb one is left to edit its lines itself."""
    if talk.screen.dumb:
        from llmcli.chat.line_reader import LineReader

        yield LineReader(talk, terminal)
        return

    from prompt_toolkit.input.vt100 import Vt100Input
    from prompt_toolkit.output.vt100 import Vt100_Output

    from llmcli.chat.editor import Editor

    keys = config.load(env.environ).editing_mode
    with os.fdopen(os.dup(terminal), encoding="utf-8") as typed:
        output = Vt100_Output.from_pty(sys.stdout, term=env.environ.get("TERM"))
        yield Editor(talk, keys, Vt100Input(typed), output)
