"""
How a child is to load the model: the options, the file's header and what models.yaml says, in one message.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmcli import machine
from llmcli.engines.base import EngineOptions
from llmcli.engines.llama import wire
from llmcli.models import gguf
from llmcli.models.checksum import known_sha256
from llmcli.models.resolve import ModelFile

SMALL = 32 << 20
"""
Bytes of a model whose copy takes no time worth speaking of: the built-in one's, 0.03 seconds.

And whose products are so small that threads wait for each other: one decode of the built-in model with two
threads labels 159, 186 and 242 rows of 30 tokens a second, two with one thread each 200, 258 and 259
together, in turn on two cores of an EPYC. Of Qwen2.5-0.5B two threads read 1.9 times as much as one.
"""
MOST_LANES = 8
"""What of a lane's time is Python's, 6 %, no two of them can do at once."""


def load_message(
    model: ModelFile, header: gguf.GgufHeader, options: EngineOptions, started: float
) -> wire.Load:
    """What a new child is told first; `started` is the date that a chat template may write."""
    entry = model.entry
    thinking = options.thinking or _thinking_of(entry)
    threads = options.threads or machine.usable_cores()
    small = model.path.stat().st_size <= SMALL
    sentencepiece = header.tokenizer == "llama"
    return wire.Load(
        path=str(model.path),
        space_prefix=bool(header.metadata.get("tokenizer.ggml.add_space_prefix", True))
        if sentencepiece
        else None,
        model_bytes=sum(part.stat().st_size for part in model.parts),
        layers=header.block_count,
        gpu_layers=options.gpu_layers,
        context=options.context,
        parallel=options.parallel,
        threads=threads,
        memory=machine.free_memory() // 2,
        cell_bytes=_cell_bytes(header),
        heads=max(header.heads, default=1),
        kv_type=options.kv_type,
        flash_attention=options.flash_attention,
        lora=options.lora,
        sequential=options.sequential,
        chat_template=options.chat_template or (entry.chat_template if entry else None),
        thinking=thinking,
        temperature_scale=options.temperature_scale
        if options.temperature_scale != 1.0 or entry is None
        else entry.temperature_scale,
        started=started,
        prefix_key=_prefix_key(model, options) if options.prefix_cache else "",
        prefix_bytes=options.prefix_cache,
        widen_with=_pays(options),
        as_f16=options.only_labels and (small or _together(options)),
        lanes=min(threads, MOST_LANES) if options.only_labels and small and _together(options) else 1,
        single=options.texts == "one",
    )


def _pays(options: EngineOptions) -> tuple[str, ...]:
    """
    With which instructions a copy as q8_0 is worth its time.

    Qwen2.5-0.5B, two cores: decodes of 256 tokens, of 32 and of one take 0.80, 0.84 and 0.94 of the time with
    AVX2 (EPYC), 0.87, 0.94 and 1.16 with VNNI (Xeon), a third with AMX.
    """
    if options.sequential or options.texts == "one":
        return ()
    return ("amx_int8", "avx2") if _together(options) else ("amx_int8",)


def _together(options: EngineOptions) -> bool:
    """Whether many texts will be worked on at a time."""
    return options.texts == "many" and options.parallel != 1 and not options.sequential


def _prefix_key(model: ModelFile, options: EngineOptions) -> str:
    """The hashes of model and adapters; nothing where one is not remembered: to read them takes long."""
    lora = options.lora
    hashes = [known_sha256(path) for path in (*model.parts, *(Path(path) for path, _ in lora))]
    scales = [str(scale) for _, scale in lora]
    return "" if None in hashes else " ".join([*map(str, hashes), *scales])


def _cell_bytes(header: gguf.GgufHeader) -> int:
    """
    Bytes of KV cache a token takes, f16: 2 × (key + value width) × layers.

    The widths are heads × head size (attention.key_length, else embedding / heads); grouped
    queries share key and value heads.
    """
    heads = max(header.heads, default=1) or 1
    kv_heads = max(header.kv_heads, default=heads) or heads
    metadata, prefix = header.metadata, f"{header.architecture}.attention."
    size = header.embedding // heads if heads else 0
    widths = [metadata.get(f"{prefix}{name}_length", size) for name in ("key", "value")]
    # What is no number, llama.cpp refuses when it loads the file.
    key, value = (width if isinstance(width, int) else size for width in widths)
    return 2 * kv_heads * (key + value) * header.block_count


def _thinking_of(entry: Any) -> dict[str, Any] | None:
    if entry is None or entry.thinking is None:
        return None
    thinking = entry.thinking
    return {
        "off": thinking.off,
        "open": thinking.open,
        "close": thinking.close,
        "answer_prefix": thinking.answer_prefix,
    }
