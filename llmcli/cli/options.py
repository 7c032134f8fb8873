"""
The options that commands share, as frozen dataclasses: one field is one option, with its help and group.

`takes` gives a command the options of some of these groups and hands it the filled dataclasses:

    @app.command(cls=Command)
    @takes(model=ModelOptions, sampling=SamplingOptions)
    def chat(ctx: typer.Context, model: ModelOptions, sampling: SamplingOptions, once: str = "") -> None:
        options = model.engine_options()
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from llmcli.errors import UsageError
from llmcli.kv_types import KvType

if TYPE_CHECKING:
    from llmcli.config import Config
    from llmcli.engines.base import EngineOptions
    from llmcli.messages import Sampling

Format = Literal["text", "json", "jsonl", "csv", "tsv"]
Cut = Literal["head", "tail", "middle"]

LARGEST = 2**31 - 1  # llama.cpp counts tokens and layers in 32 bits
LARGEST_LONG = 2**63 - 1  # of a seed, of a number of rows


def _option(*names: str, group: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=group, help=help, **settings)


_model = partial(_option, group="Model")
_sampling = partial(_option, group="Sampling")
_input = partial(_option, group="Input")
_output = partial(_option, group="Output")
_rows = partial(_option, group="Rows (.csv .tsv .jsonl .parquet)")


@dataclass(frozen=True)
class ModelOptions:
    """Which model answers, and how it is loaded."""

    model: Annotated[
        str | None,
        _model(
            "-m", "--model", metavar="MODEL",
            help="A name from `llm models list`, a .gguf file, hf:owner/repo:quant, or server:URL#name.",
        ),
    ] = None  # fmt: skip
    context: Annotated[
        int | None,
        _model(
            "--context", metavar="N", min=1, max=LARGEST,
            help="Context window, in tokens (default: what is needed).",
        ),
    ] = None  # fmt: skip
    parallel: Annotated[
        int | None,
        _model("--parallel", metavar="N", min=1, max=256, help="Texts that are worked on together."),
    ] = None
    threads: Annotated[
        int | None, _model("--threads", metavar="N", min=1, max=1024, help="Processor threads.")
    ] = None
    gpu_layers: Annotated[
        str | None, _model("--gpu-layers", metavar="auto|all|N", help="Layers on the GPU (default: auto).")
    ] = None
    kv_type: Annotated[
        KvType | None,
        _model("--kv-type", metavar="TYPE", help="Numbers of the KV cache: f16, q8_0, …."),
    ] = None
    lora: Annotated[
        list[str] | None,
        _model("--lora", metavar="FILE[:SCALE]", help="A LoRA adapter to apply; repeatable."),
    ] = None
    sequential: Annotated[
        bool, _model("--sequential", help="One text at a time: slower, the same answer on every run.")
    ] = False

    def engine_options(self, settings: Config) -> EngineOptions:
        """These options as an engine takes them; what none gives is as the settings say."""
        from llmcli.engines.base import EngineOptions

        return EngineOptions(
            context=self.context or settings.context,
            parallel=self.parallel or settings.parallel,
            threads=self.threads or settings.threads,
            gpu_layers=settings.gpu_layers if self.gpu_layers is None else _gpu_layers(self.gpu_layers),
            kv_type=self.kv_type or settings.kv_type,
            flash_attention=settings.flash_attention,
            prefix_cache=settings.prefix_cache * 10**6,
            lora=tuple(_lora(value) for value in self.lora or ()),
            sequential=self.sequential,
        )


@dataclass(frozen=True)
class SamplingOptions:
    """How the answer is drawn; None leaves it to the template or the command."""

    temperature: Annotated[
        float | None,
        _sampling("--temperature", metavar="X", min=0, max=10, help="0 takes the likeliest token each time."),
    ] = None
    top_p: Annotated[
        float | None,
        _sampling("--top-p", metavar="X", min=0, max=1, help="Draw from the likeliest tokens of this mass."),
    ] = None
    top_k: Annotated[
        int | None,
        _sampling("--top-k", metavar="N", min=0, max=LARGEST, help="Draw from the N likeliest tokens."),
    ] = None
    max_tokens: Annotated[
        int | None,
        _sampling("--max-tokens", metavar="N", min=1, max=LARGEST, help="Longest answer, in tokens."),
    ] = None
    seed: Annotated[
        int | None,
        _sampling(
            "--seed", metavar="N", min=0, max=LARGEST_LONG, help="The same seed draws the same answer."
        ),
    ] = None

    beams: Annotated[
        int | None,
        _sampling(
            "--beams",
            metavar="N",
            min=1,
            max=32,
            help="At temperature 0: follow N answers, give the likeliest.",
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """The fields of Sampling that the command line sets."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def sampling(self, default: Sampling) -> Sampling:
        """A command's default sampling with what the command line sets."""
        from msgspec.structs import replace

        return replace(default, **self.given())


@dataclass(frozen=True)
class InputOptions:
    """What is read."""

    text: Annotated[
        list[str] | None, _input("--text", metavar="TEXT", help="This text itself; repeatable.")
    ] = None
    lines: Annotated[bool, _input("--lines", help="Each line of the input is a text of its own.")] = False
    field: Annotated[
        str | None,
        _input("--field", metavar="NAME", help="The text's column (default: text, or the only one)."),
    ] = None
    encoding: Annotated[
        str | None, _input("--encoding", metavar="NAME", help="Of the files (default: UTF-8).")
    ] = None
    truncate: Annotated[
        Cut | None,
        _input("--truncate", metavar="head|tail|middle", help="Cut this out of a text over the context."),
    ] = None


@dataclass(frozen=True)
class OutputOptions:
    """What is written, and where."""

    output: Annotated[
        str | None,
        _output("-o", "--output", metavar="FILE", help="Write there; the format comes from its ending."),
    ] = None
    format: Annotated[
        Format | None, _output("--format", metavar="text|json|jsonl|csv|tsv", help="(default: text)")
    ] = None
    json: Annotated[bool, _output("--json", help="One JSON object a text, one a line.")] = False
    as_name: Annotated[
        str | None, _output("--as", metavar="NAME", help="Name of the result (default: the command's).")
    ] = None
    probabilities: Annotated[
        bool, _output("--probabilities", help="With labels, in CSV and TSV: a column for each label.")
    ] = False
    stream: Annotated[
        bool, _output("--stream", help="Print the answer as it is written (as on a terminal).")
    ] = False
    show_thinking: Annotated[
        bool, _output("--show-thinking", help="Let the model think, and show it on standard error.")
    ] = False
    log: Annotated[bool, _output("--log", help="Keep text and answer in `llm history` (not of rows).")] = (
        False
    )
    dry_run: Annotated[bool, _output("--dry-run", help="Show the prompt and its tokens, ask nothing.")] = (
        False
    )

    @property
    def file(self) -> str | None:
        """The file to write; None for standard output."""
        return file_of(self.output)


@dataclass(frozen=True)
class RowOptions:
    """How a batch of rows is run."""

    limit: Annotated[
        int | None, _rows("--limit", metavar="N", min=1, max=LARGEST_LONG, help="Only the first N rows.")
    ] = None
    max_errors: Annotated[
        int | None, _rows("--max-errors", metavar="N", min=0, help="Stop when more rows fail.")
    ] = None
    retry_errors: Annotated[
        bool, _rows("--retry-errors", help="Ask again for the rows that failed last time.")
    ] = False
    keep_journal: Annotated[
        bool, _rows("--keep-journal", help="Keep the journal beside the output when all is done.")
    ] = False
    sidecar: Annotated[
        bool, _rows("--sidecar", help="Write OUT.provenance.json: model, template and parameters.")
    ] = False
    input_format: Annotated[
        Literal["csv", "tsv", "jsonl", "parquet"] | None,
        _rows(
            "--input-format", metavar="csv|tsv|jsonl|parquet",
            help="Of standard input, or of a file whose ending does not say it.",
        ),
    ] = None  # fmt: skip
    delimiter: Annotated[
        str | None, _rows("--delimiter", metavar="CHAR", help="Between CSV cells (default: found out).")
    ] = None
    quote: Annotated[
        str | None, _rows("--quote", metavar="CHAR", help='Around CSV cells (default: "); "" for none.')
    ] = None
    no_header: Annotated[
        bool, _rows("--no-header", help="CSV begins with a row: its columns are called 1, 2, 3.")
    ] = False
    error_as: Annotated[str, _rows("--error-as", metavar="NAME", help="Name of the error column.")] = "error"
    on: Annotated[
        Literal["ray"] | None,
        _rows("--on", metavar="ray", help="Run on a Ray cluster, local or at RAY_ADDRESS."),
    ] = None
    copies: Annotated[
        int | None, _rows("--copies", metavar="N", min=1, help="Model copies on the cluster.")
    ] = None
    cpus: Annotated[
        float | None,
        _rows("--cpus", metavar="X", min=0, help="Processors of each copy (default: its share)."),
    ] = None
    gpus: Annotated[
        float | None, _rows("--gpus", metavar="X", min=0, help="GPUs of each copy (default: its share).")
    ] = None


def parameters(group: type) -> list[inspect.Parameter]:
    """The fields of an options group as the parameters of a command's function."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(group)
    ]


def file_of(output: str | None) -> str | None:
    """The file that -o names; None for standard output, by whatever name: its redirection is the shell's."""
    return None if output in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1") else output


def collect(group: type, values: dict[str, Any]) -> Any:
    """Take the fields of an options group out of `values` and build it."""
    return group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})


def changed(group: Any) -> list[str]:
    """The names of the options that differ from their defaults."""
    return [field.name for field in dataclasses.fields(group) if getattr(group, field.name) != field.default]


def takes(**groups: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace these parameters of a command's function by the options that their groups hold."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in signature.parameters.items()
            if name not in groups
        ]
        shared = [parameter for group in groups.values() for parameter in parameters(group)]

        @wraps(function)
        def command(**values: Any) -> Any:
            collected = {name: collect(group, values) for name, group in groups.items()}
            return function(**values, **collected)

        give_signature(command, [*own, *shared])
        return command

    return decorate


def give_signature(function: Callable[..., Any], params: list[inspect.Parameter]) -> None:
    """Let Typer read these parameters as the function's own."""
    function.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
    function.__annotations__ = {param.name: param.annotation for param in params}


def _gpu_layers(value: str) -> int | Literal["auto", "all"]:
    if value == "auto" or value == "all":
        return value  # type: ignore[return-value]
    if value.isdecimal() and int(value) <= LARGEST:
        return int(value)
    raise UsageError(f"--gpu-layers {value}: not a number", hint="auto, all or a number")


def _lora(value: str) -> tuple[str, float]:
    """
    Split FILE:SCALE; without a scale it is 1.

    >>> _lora("tone.gguf:0.5")
    ('tone.gguf', 0.5)
    """
    path, _, words = value.rpartition(":")
    try:
        scale = float(words)
    except ValueError:
        path, scale = value, 1.0
    if not path or not math.isfinite(scale):
        raise UsageError(f"--lora {value!r} is no adapter", hint="--lora FILE, or FILE:SCALE")
    return path, scale
