"""`llm models`: list, fetch, look at and choose models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcli import config
from llmcli.cli.door import Command, environment, new_app
from llmcli.errors import LlmError, ModelError, UsageError
from llmcli.output.sanitize import one_line
from llmcli.paths import absolute, written_out

if TYPE_CHECKING:
    from llmcli.models.listing import Listed
    from llmcli.models.scan import Foreign

app = new_app(
    "List, download and check models.",
    example="""
    llm models list
    llm models recommend
    llm models pull qwen3-0.6b
    llm models use qwen3-0.6b
    """,
)

FREE_LICENCES = ("apache-2.0", "mit", "")  # the others have terms to read

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="As `llm models list` shows it, or a .gguf file.")]


@app.command("list", cls=Command, epilog="llm models list --here")
def list_models(
    ctx: typer.Context,
    here: Annotated[bool, typer.Option("--here", help="Only those on this machine.")] = False,
    as_json: Json = False,
) -> None:
    """List the models, and what fits into free memory."""
    from llmcli.machine import free_memory
    from llmcli.models import listing

    env = environment(ctx)
    chosen = config.load(env.environ).model
    found = [one for one in listing.list_models(free_memory()) if one.path or not here]
    if as_json:
        for one in found:
            env.write_json(_record(one, chosen))
        return
    rows = [
        (
            one.name + (" *" if one.name == chosen else ""),
            one.parameters,
            one.quantisation,
            _size(one.weights, one.about),
            _context(one),
            one.licence,
            _state(one),
        )
        for one in found
    ]
    header = ("NAME", "SIZE", "QUANT", "MEMORY", "CONTEXT", "LICENCE", "HERE")
    env.write_table(header, rows, right=(1, 3, 4))
    env.note("* answers by default; MEMORY is for the weights, CONTEXT the longest that fits (tokens)")


@app.command("pull", cls=Command, epilog="llm models pull qwen3-0.6b\nllm models pull hf:owner/repo:Q4_K_M")
def pull(
    ctx: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="NAME|hf:OWNER/REPO[:QUANT]|URL", help="What to fetch.")
    ],
    sha256: Annotated[
        list[str] | None,
        typer.Option("--sha256", metavar="HEX", help="What a URL's file must have; one for each part."),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Take whatever the URL gives.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call a URL's model.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
) -> None:
    """Download a model, and check its bytes."""
    from llmcli.cli.transfer import LineMeter
    from llmcli.models.pull import Wanted, pull

    env = environment(ctx)
    offline = offline or config.load(env.environ).offline
    wanted = Wanted(reference, tuple(sha256 or ()), trust, name, offline)
    model = pull(wanted, LineMeter(env), env.note)
    env.status("")
    env.write(f"{model.path}\n")
    if model.entry is not None and model.entry.licence not in FREE_LICENCES:
        env.note(f"its licence is {model.entry.licence!r}: https://huggingface.co/{model.entry.repo}")
    env.note(f"use it with -m {model.name}, or always: llm models use {model.name}")


@app.command("show", cls=Command, epilog="llm models show starter\nllm models show starter --template")
def show(
    ctx: typer.Context,
    name: Name,
    template: Annotated[bool, typer.Option("--template", help="Only the chat template, as it is.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a model is: size, licence, metadata."""
    from llmcli.models import facts

    env = environment(ctx)
    found = facts.describe(name, hashed=not template)
    if template:
        if not found.chat_template:
            raise ModelError(f"{name} has no chat template")
        env.write(found.chat_template.rstrip("\n") + "\n")
    elif as_json:
        env.write_json(facts.as_record(found))
    else:
        for key, value in facts.as_lines(found):
            env.write(f"{key:<14}  {one_line(value)}\n")  # metadata is a stranger's text


@app.command("path", cls=Command, epilog='cp "$(llm models path starter)" model.gguf')
def path(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Without one: the default model.")
    ] = None,
) -> None:
    """Print a model's file."""
    from llmcli.models.resolve import locate

    env = environment(ctx)
    for part in locate(name or config.load(env.environ).model).parts:
        env.write(f"{part}\n")


@app.command("use", cls=Command, epilog="llm models use qwen3-0.6b")
def use(ctx: typer.Context, name: Name) -> None:
    """Make a model the default."""
    from llmcli.engines import engine_of
    from llmcli.models import gguf
    from llmcli.models.resolve import is_path, resolve

    env = environment(ctx)
    if engine_of(name) is None:
        model = resolve(name)
        gguf.check(model.path)
        if is_path(name):
            name = str(absolute(model.path))
    config.set_value("model", name)
    env.note(f"{name} answers from now on ({config.config_path()})")
    if env.environ.get("LLMCLI_MODEL"):
        env.warn("LLMCLI_MODEL is set, and wins over it")


@app.command("add", cls=Command, epilog="llm models add ~/Downloads/model.gguf --name mine")
def add(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .gguf file; it stays where it is.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What to call it.")] = None,
) -> None:
    """Give a file of yours a name."""
    from llmcli.models import gguf, installed
    from llmcli.models.entries import entries
    from llmcli.registry import NAME, NAME_RULE

    env = environment(ctx)
    path = absolute(written_out(file))
    gguf.check(path)
    name = name or path.name.lower().removesuffix(".gguf")
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a model name", hint=f"--name: {NAME_RULE}")
    if name in entries():
        raise UsageError(f"{name} is the name of a known model", hint="give another with --name")
    installed.refuse_taken(name, path)
    installed.add(name, installed.Installed(str(path)))
    env.write(f"{name}\n")


@app.command("rm", cls=Command, epilog="llm models rm qwen3-0.6b")
def remove(ctx: typer.Context, name: Name) -> None:
    """Delete a download, or forget a file of yours."""
    from llmcli.models.remove import remove

    environment(ctx).note(remove(name))


@app.command("verify", cls=Command, epilog="llm models verify\nllm models verify qwen3-0.6b")
def verify(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Without: all that are here.")
    ] = None,
) -> None:
    """Read every byte again and check it."""
    from llmcli.cli.transfer import LineMeter
    from llmcli.models import facts

    env = environment(ctx)
    meter = LineMeter(env)
    bad = []
    for name in names or facts.names_here():
        try:
            problem, said = facts.verify_again(name, meter)
        except LlmError as error:
            if names is not None and len(names) == 1:
                raise
            problem, said = True, str(error)
        env.status("")
        env.write(f"{name}: {said}\n")
        if problem:
            bad.append(name)
    if bad:
        raise ModelError(f"{', '.join(bad)}: not as it should be", hint=facts.remedy(bad))


@app.command("scan", cls=Command, epilog="llm models scan\nllm summarize -m ollama:llama3.2 report.txt")
def scan(ctx: typer.Context, as_json: Json = False) -> None:
    """List the models that other programs have here.

    Looks at Ollama, LM Studio, the hub, llama.cpp and GPT4All; what it lists can be used with -m.
    """
    from llmcli.models.scan import TITLES, scan

    env = environment(ctx)
    found = [_with_quantisation(model) for model in scan()]
    if as_json:
        for model in found:
            fields = ("program", "reference", "size", "quantisation", "sha256")
            env.write_json({**{name: getattr(model, name) for name in fields}, "path": str(model.path)})
        return
    rows = [
        (model.reference, f"{model.size / 1e9:.2f} GB", model.quantisation, TITLES[model.program])
        for model in found
    ]
    env.write_table(("MODEL", "SIZE", "QUANT", "FROM"), rows, right=(1,))
    if not found:
        env.note(f"no models of {', '.join(TITLES.values())} here")


@app.command("recommend", cls=Command, epilog="llm models recommend")
def recommend(ctx: typer.Context, as_json: Json = False) -> None:
    """Say which models to begin with here, and why."""
    from llmcli.machine import free_memory
    from llmcli.models.recommend import recommend

    env = environment(ctx)
    found = recommend(free_memory())
    if as_json:
        for one in found:
            fields = ("use", "model", "reason", "here")
            env.write_json({name: getattr(one, name) for name in fields})
        return
    for one in found:
        get = "it is here" if one.here else f"llm models pull {one.model}"
        env.write(f"{one.use}: {one.model} ({get})\n  {one.reason}\n")
    env.note("chosen by size and memory alone; how well a model does your task, try on your own texts")


# -- small things ----------------------------------------------------------------


def _with_quantisation(model: Foreign) -> Foreign:
    """A found model, its quantisation read from the file where its name does not tell."""
    from msgspec.structs import replace

    from llmcli.errors import LlmError
    from llmcli.models import gguf

    if model.quantisation:
        return model
    try:
        return replace(model, quantisation=gguf.check(model.path).quantisation)
    except LlmError:
        return replace(model, quantisation="broken")


def _size(size: int | None, about: bool) -> str:
    if size is None:
        return ""
    shown = f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
    return f"about {shown}" if about else shown


def _context(one: Listed) -> str:
    if one.problem or (one.context is None and one.path):
        return ""
    if one.context is None:
        return "fits"
    return f"{one.context:,}" if one.context else "too large"


def _state(one: Listed) -> str:
    if one.problem:
        return f"broken: {one.problem}"
    if one.path is None:
        return "no"
    return one.source if one.source in ("built in", "yours") else "yes"


def _record(one: Listed, chosen: str) -> dict[str, Any]:
    return {
        "name": one.name,
        "source": one.source,
        "default": one.name == chosen,
        "path": str(one.path) if one.path else None,
        "parameters": one.parameters or None,
        "quantisation": one.quantisation or None,
        "licence": one.licence or None,
        "weights_bytes": one.weights,
        "about": one.about,
        "context_that_fits": one.context,
        "error": one.problem,
    }
