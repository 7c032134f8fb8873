"""
What the scheduler works on: requests, the slots they get, the branches of their labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from llmcli.engines.llama.beams import BeamSearch
from llmcli.engines.llama.branches import Path, Rests
from llmcli.engines.llama.prefixes import Resident
from llmcli.engines.llama.writer import Writer
from llmcli.errors import InputTooLong, LlmError
from llmcli.messages import Completion, LabelScores, Piece

CPU_BATCH, GPU_BATCH = 256, 512
"""
Tokens of a decode. On a processor twice as many are multiplied no faster, and every token looks at the
cells of all: the built-in model labels an eighth fewer rows a second with 512.
"""
CELL_STEP = 256
"""llama.cpp counts cells in steps of so many (llama-kv-cache.cpp, get_n_kv)."""
LEAST_DECODE = 0.6
"""
Of a batch, in a decode that ends at such a step: all tokens look at the mask of all cells that are counted.
190 tokens behind 66 cells instead of 256: the built-in model labels 11 to 16 % more rows a second (two
cores of an EPYC), Qwen2.5-0.5B about as many.
"""
EXPECTED_ANSWER = 512
"""Tokens, or twice the prompt's, that an answer is expected to have, whatever it may have."""
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
LARGEST_SCORES, FEWEST_SCORED = 256 << 20, 32
"""
Bytes of attention scores (cells × tokens × heads, float32) that llama.cpp may lay out for answers written
without flash attention, on a processor; so many tokens at least it takes together.

Fewer than 64 queries flash attention takes one by one (ggml-cpu/ops.cpp, use_tiled): at 1,270 cells a token
of Qwen2.5-0.5B takes 1.5 times as long as with matrix products, 32 tokens take 3.8 times; at 100 cells 1.0
and 1.15 (two cores of a Xeon). For labels, read 64 tokens and more at once, it is the faster. The products'
sums depend on the cells that a sequence got, so only what begins in the first cell of a cache goes without.
"""
CACHED_SCORES, FEWEST_READ = 16 << 20, 64
"""
Bytes of attention scores that one decode of a prompt should make, and its tokens at least: at 4,000 cells 256
tokens at once take 1.2 times as long as four times 64 (Qwen2.5-0.5B; the scores leave the processor's cache).
"""
LONGEST_APART, LARGEST_APART = 8192, 256 << 20
"""Cells and bytes above which a row shares the cache of all: its own is copied whole when it begins."""
FEWEST_APART = 4
"""Rows that must have room together, each with a cache of its own."""
MOST_BEAMS = 32
"""Of one answer."""
MOST_SEARCHED = 64
"""Sequences for beam search, over all rows: each has a cache of its own, and a fork copies it whole."""
SEARCHED_MORE = 64
"""Tokens above twice its prompt's that an answer may have which is searched for, unless somebody says so."""
PREFIXES_APART = 2
"""Sequences for what rows share, where each has a cache of its own."""
WORTH_SHARING = 16
"""Tokens that two prompts must share before their beginning is evaluated on its own."""
WORTH_WAITING = 128
"""Tokens that a running prompt must be about to share before another waits for them."""
FOLLOWS_SECONDS = 0.05
"""How long the first of many prompts waits for the second before a context is made for them."""
AHEAD_SECONDS = 0.25
"""How long nothing is read ahead: a message that comes at once is read together with what is before it."""
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

    Rows of up to `longest_apart` cells can be written in a cache of their own each. `heads` of the attention,
    where answers can be written without flash attention, else 0. `single`: one text is all there is.
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
    heads: int = 0
    single: bool = False

    def flash(self, plain: bool) -> bool | None:
        """Flash attention for requests that are better off `plain` or not; None: llama.cpp's choice."""
        return False if self.flash_attention is None and plain and self.heads else self.flash_attention

    def together(self, cells: int) -> int:
        """
        Tokens that llama.cpp takes together (n_ubatch) of so many cells: it lays out scores for all of them.

        >>> limits = Limits(context=65536, cells=65536, parallel=32, threads=2, heads=32)
        >>> [limits.together(cells) for cells in (512, 8192, 8193, 60000)]
        [256, 256, 128, 32]
        """
        tokens = self.batch
        while tokens > FEWEST_SCORED and 4 * tokens * cells * self.heads > LARGEST_SCORES:
            tokens //= 2
        return tokens

    def decode(self, taken: int) -> int:
        """
        Tokens of a decode where so many cells are taken and all sequences share them.

        >>> limits = Limits(context=4096, cells=4096, parallel=32, threads=2)
        >>> [limits.decode(taken) for taken in (0, 66, 102, 103, 322)]
        [256, 190, 154, 256, 190]
        """
        up_to_step = (taken + self.batch) // CELL_STEP * CELL_STEP - taken
        return up_to_step if up_to_step >= LEAST_DECODE * self.batch else self.batch

    def piece(self, past: int) -> int:
        """
        Tokens of a prompt in one decode without flash attention, behind so many others.

        >>> limits = Limits(context=4096, cells=4096, parallel=32, threads=2, heads=14)
        >>> [limits.piece(past) for past in (0, 1000, 2000, 5000)]
        [256, 256, 149, 64]
        """
        return min(self.batch, max(FEWEST_READ, CACHED_SCORES // (4 * max(past, 1) * max(self.heads, 1))))

    def together_apart(self, cells: int, beams: int = 1) -> int:
        """
        How many sequences of so many cells can be written together, each in its own cache; 0 for too few.

        >>> limits = Limits(context=4096, cells=9000, parallel=32, threads=2, longest_apart=2048)
        >>> [limits.together_apart(cells) for cells in (200, 257, 1500, 3000)]
        [32, 15, 0, 0]
        >>> limits.together_apart(200, beams=4), limits.together_apart(600, beams=4)
        (33, 9)
        """
        if cells > self.longest_apart:
            return 0
        most = MOST_SEQUENCES - PREFIXES_APART if beams == 1 else max(MOST_SEARCHED, beams)
        parallel = min(self.parallel * beams, most)
        together = min(parallel, self.cells // padded(cells) - PREFIXES_APART)
        return together if together >= (min(parallel, FEWEST_APART) if beams == 1 else beams) else 0


@dataclass(frozen=True)
class Begun:
    """An answer that goes on elsewhere: so many of its tokens stand at the end of the prompt's."""

    writer: Writer
    tokens: int
    cached: int


@dataclass(eq=False)
class Request:
    """
    A tokenised prompt and what is wanted of it.

    Either an answer (`writer`, made once it is known how much room there is) or the scores of
    `labels`, whose tokens after the shared prompt are `rests`; or nothing: `ahead`, to be read while nobody
    asks. `many`: more like it follow. So many tokens at its beginning are `stable` in a conversation, or
    `fixed` by its template. `apart`: it may be answered beside others in a cache of its own, where they
    change no digit of it (and no time goes into their cells); `alone`: with nothing beside it, in the
    sequence that the one before has left. With flash attention at most `piece` of its tokens go into one
    decode.

    Its answer has room for `answer_tokens`, and for `further` ones once it turns out to be longer: more than
    it will need is not to be kept from others, nor laid out.
    """

    id: int
    tokens: list[int]
    answer_tokens: int
    further: int = 0
    make_writer: Callable[[int], Writer] | None = None
    labels: tuple[str, ...] = ()
    rests: Rests = ()
    stream: bool = False
    many: bool = False
    stable: int = 0
    fixed: int = 0
    piece: int = GPU_BATCH
    apart: bool = False
    alone: bool = False
    ahead: bool = False
    beams: int = 1
    wrote: Callable[[str, list[int]], None] | None = None
    begun: Begun | None = None

    def longer(self, most: int) -> Request | None:
        """The same with room for an answer up to twice as long, at most so many tokens; None without."""
        more = min(self.further, self.answer_tokens, most)
        if more <= 0:
            return None
        return replace(self, answer_tokens=self.answer_tokens + more, further=self.further - more)

    @property
    def cells(self) -> int:
        """Cells of the KV cache that it needs at most; of each one that it is written in."""
        return len(self.tokens) + self.answer_tokens * (1 if self.apart else self.beams)


@dataclass(eq=False)
class Slot:
    """
    A request that has a sequence, or one for each beam: `past` tokens are evaluated, `pending` come next.

    `cached` of its tokens were not evaluated for it; `cells` are those it may come to take beside the
    ones of the `resident` that it began with.
    """

    request: Request
    sequences: list[int]
    pending: list[int]
    past: int = 0
    cached: int = 0
    cells: int = 0
    resident: Resident | None = None
    writer: Writer | None = None
    search: BeamSearch | None = None
    scores: list[float] = field(default_factory=list)
    open_branches: int = 0

    @property
    def sequence(self) -> int:
        """Its sequence, or the first of them, which the prompt is read in."""
        return self.sequences[0]

    @property
    def following(self) -> list[tuple[int, int]]:
        """The next token of what is being written, of each beam, with its sequence."""
        if self.search is None or self.pending:
            return [(self.sequence, token) for token in self.pending]
        return [(sequence, beam.tokens[-1]) for sequence, beam in zip(self.sequences, self.search.live)]

    @property
    def evaluated(self) -> list[int]:
        """The tokens that stand in the cache."""
        return self.all_tokens[: self.past]

    @property
    def all_tokens(self) -> list[int]:
        """The tokens of the prompt and of the answer so far."""
        begun = self.request.begun
        written = self.writer.tokens if self.writer is not None else []
        return self.request.tokens + written[begun.tokens if begun else 0 :]


@dataclass(eq=False)
class Branch:
    """Labels of several tokens along one path, on a sequence of its own at the end of their prompt."""

    slot: Slot
    path: Path
    sequence: int = -1


Event = Callable[[int, "Piece | Completion | LabelScores | LlmError"], None]


def padded(cells: int) -> int:
    """As many cells as llama.cpp makes of these."""
    return -(-cells // CELL_STEP) * CELL_STEP


def too_long(tokens: int, context: int) -> InputTooLong:
    """The error for a prompt that does not fit."""
    return InputTooLong(
        f"the prompt is {tokens:,} tokens and the context is {context:,}",
        "use --truncate, or a model with a longer context",
        tokens,
        context,
    )
