"""
What the scheduler works on: requests, the slots they get, the branches of their labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from llmcli.engines.llama.prefixes import Resident
from llmcli.engines.llama.writer import Writer
from llmcli.errors import InputTooLong, LlmError
from llmcli.messages import Completion, LabelScores, Piece

CPU_BATCH, GPU_BATCH = 256, 512
"""
Tokens of a decode. On a processor twice as many are multiplied no faster, and every token looks at the
cells of all: the built-in model labels an eighth fewer rows a second with 512.
"""
EXACT_PIECE = 63
"""
Tokens of a prompt in a decode with flash attention, where the answer must not depend on how it was cut.

Fewer than 64 queries llama.cpp takes one by one, each over its cells in their order; from 64 on it takes
the cells in tiles (ggml-cpu/ops.cpp, use_tiled). The last digit of a sum decides how an activation is rounded
to 8 bits, and of the built-in model's tokens in a translation more than 1 % become others.
"""
EXACT_PROMPT = 256
"""Tokens of a prompt above which it is read as fast as can be; and from 512 cells on a lone token is summed
by several threads, in another order (use_split_kv_path)."""
LARGEST_SCORES = 256 << 20
"""
Bytes of attention scores (cells × tokens of a decode × heads, float32) up to which answers are written
without flash attention, on a processor.

Fewer than 64 queries it takes one by one (ggml-cpu/ops.cpp, use_tiled): at 1,270 cells a token of
Qwen2.5-0.5B takes 1.5 times as long as with matrix products, 32 tokens take 3.8 times; at 100 cells 1.0 and
1.15 (two cores of a Xeon). For labels, read 64 tokens and more at once, it is the faster. The products' sums
depend on the cells that a sequence got, so only what begins in an empty cache of its own goes without.
"""
LONGEST_APART, LARGEST_APART = 8192, 256 << 20
"""Cells and bytes above which a row shares the cache of all: its own is copied whole when it begins."""
FEWEST_APART = 4
"""Rows that must have room together, each with a cache of its own."""
PREFIXES_APART = 2
"""Sequences for what rows share, where each has a cache of its own."""
WORTH_SHARING = 16
"""Tokens that two prompts must share before their beginning is evaluated on its own."""
WORTH_WAITING = 128
"""Tokens that a running prompt must be about to share before another waits for them."""
FOLLOWS_SECONDS = 0.05
"""How long the first of many prompts waits for the second before a context is made for them."""
RESIDENTS = 4
MOST_SEQUENCES = 256
"""LLAMA_MAX_SEQ, llama-cparams.h."""
BRANCH_SEQUENCES = 48
"""Sequences for labels of several tokens, branches at the end of a prompt: three for each row of a batch."""
FEWER_BRANCH_SEQUENCES = 8
"""The same where every sequence has a state of its own: recurrent and hybrid models."""


@dataclass(frozen=True)
class Limits:
    """
    What the scheduler may use: tokens of a sequence, cells and sequences in all, tokens of a decode.

    Rows of up to `longest_apart` cells can be written in a cache of their own each; in up to `longest_plain`
    cells answers are written without flash attention, where `flash_attention` says nothing.
    `single`: one text is all there is.
    """

    context: int
    cells: int
    parallel: int
    threads: int
    flash_attention: bool | None = None
    kv_type: str | None = None
    sequential: bool = False
    batch: int = CPU_BATCH
    longest_apart: int = 0
    longest_plain: int = 0
    single: bool = False

    def flash(self, cells: int, plain: bool) -> bool | None:
        """
        Flash attention for a cache of so many cells, better `plain` or not; None: llama.cpp's choice.

        >>> limits = Limits(context=4096, cells=9000, parallel=32, threads=2, longest_plain=8192)
        >>> [limits.flash(512, plain=True), limits.flash(512, plain=False), limits.flash(9000, plain=True)]
        [False, None, None]
        """
        if self.flash_attention is None and plain and cells <= self.longest_plain:
            return False
        return self.flash_attention

    def together_apart(self, cells: int) -> int:
        """
        How many rows of so many cells can be written together with a cache of its own each; 0 for too few.

        >>> limits = Limits(context=4096, cells=9000, parallel=32, threads=2, longest_apart=2048)
        >>> [limits.together_apart(cells) for cells in (200, 257, 1500, 3000)]
        [32, 15, 0, 0]
        """
        if cells > self.longest_apart:
            return 0
        parallel = min(self.parallel, MOST_SEQUENCES - PREFIXES_APART)
        together = min(parallel, self.cells // padded(cells) - PREFIXES_APART)
        return together if together >= min(parallel, FEWEST_APART) else 0


@dataclass(eq=False)
class Request:
    """
    A tokenised prompt and what is wanted of it.

    Either an answer (`writer`, made once it is known how much room there is) or the scores of
    `labels`, whose tokens after the shared prompt are `rests`. `many`: more like it follow. So many tokens
    at its beginning are `stable` in a conversation, or `fixed` by its template. `apart`: its answer is
    written in a cache of its own, where what else is answered changes no digit of it (and no time goes into
    other rows' cells). With flash attention at most `piece` of its tokens go into one decode.
    """

    id: int
    tokens: list[int]
    answer_tokens: int
    make_writer: Callable[[int], Writer] | None = None
    labels: tuple[str, ...] = ()
    rests: list[list[int]] = field(default_factory=list)
    stream: bool = False
    many: bool = False
    stable: int = 0
    fixed: int = 0
    piece: int = GPU_BATCH
    apart: bool = False
    wrote: Callable[[str, list[int]], None] | None = None

    @property
    def cells(self) -> int:
        """Cells of the KV cache that it needs at most."""
        return len(self.tokens) + self.answer_tokens


@dataclass(eq=False)
class Slot:
    """
    A request that has a sequence: `past` tokens are evaluated, `pending` come next.

    `cached` of its tokens were not evaluated for it; `cells` are those it may come to take beside the
    ones of the `resident` that it began with.
    """

    request: Request
    sequence: int
    pending: list[int]
    past: int = 0
    cached: int = 0
    cells: int = 0
    resident: Resident | None = None
    writer: Writer | None = None
    scores: list[float] = field(default_factory=list)
    open_branches: int = 0


@dataclass(eq=False)
class Branch:
    """One label of several tokens, on its own sequence at the end of its prompt."""

    slot: Slot
    label: int
    sequence: int = -1


Event = Callable[[int, "Piece | Completion | LabelScores | LlmError"], None]


def padded(cells: int) -> int:
    """As many cells as llama.cpp makes of these: it counts in steps of 256."""
    return -(-cells // 256) * 256


def too_long(tokens: int, context: int) -> InputTooLong:
    """The error for a prompt that does not fit."""
    return InputTooLong(
        f"the prompt is {tokens:,} tokens and the context is {context:,}",
        "use --truncate, or a model with a longer context",
        tokens,
        context,
    )
