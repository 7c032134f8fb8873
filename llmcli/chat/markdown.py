"""
Streamed Markdown, block by block: each is printed when complete, and never again.

`Blocks` cuts what arrives into paragraphs, list items, lines of code, tables;
`rendered` draws one of them for a terminal. Neither writes anything. The text given
to them is already free of control characters, and `rendered` makes sure once more,
because Markdown itself can spell them (`&#27;`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token
from msgspec import Struct
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, ListItem, Markdown, MarkdownElement, TableElement
from rich.segment import Segment
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from llmcli.output.sanitize import sanitize

Kind = Literal["text", "item", "fence", "code", "end"]

PROSE_WIDTH = 100
"""Columns that prose is wrapped at, on a wider terminal; longer lines are hard to read."""

CODE_THEME = "ansi_dark"
"""The terminal's own sixteen colours: they fit a light background as well as a dark one."""

_LEXED_LINES = 60  # lines before a line of code that are read again to colour it
_LONGEST_LEXED = 2000  # characters; some lexers take very long over a longer line

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^`]*)$")
_HEADING = re.compile(r"^ {0,3}#{1,6}(\s|$)")
_RULE = re.compile(r"^ {0,3}([-*_])\s*(\1\s*){2,}$")
_ITEM = re.compile(r"^( {0,3})([-*+]|\d{1,9}[.)])(\s+|$)")
_INNER_FENCE = re.compile(r"^\s*(`{3,}|~{3,})")


class Block(Struct, frozen=True):
    """A complete piece of Markdown. `gap`: an empty line goes before it. `language`: of a line of code."""

    kind: Kind
    text: str
    gap: bool = True
    language: str = ""
    before: tuple[str, ...] = ()


class Blocks:
    """Cut Markdown into blocks as it arrives, the same however it is cut up on its way."""

    def __init__(self) -> None:
        self._tail = ""  # a line without its end
        self._lines: list[str] = []  # the block that grows
        self._item: re.Match[str] | None = None  # the list item that grows
        self._inner_fence = ""  # an open fence inside that item
        self._blank = False  # an empty line came since the last line
        self._fence = ""  # an open fence
        self._language = ""
        self._code: list[str] = []
        self._after_item = False
        self._loose = True  # an empty line goes before the item that grows

    @property
    def growing(self) -> str:
        """What of the text has not come out yet."""
        return "\n".join([*self._lines, self._tail])

    def feed(self, text: str) -> Iterator[Block]:
        """Take more text; give the blocks that it completes."""
        *lines, self._tail = (self._tail + text).split("\n")
        for line in lines:
            yield from self._take(line)

    def end(self) -> Iterator[Block]:
        """The text is over: what is left is complete."""
        tail, self._tail = self._tail, ""
        if tail:
            yield from self._take(tail)
        yield from self._flush()
        if self._fence:
            self._fence = ""
            yield Block("end", "", gap=False)

    def _take(self, line: str) -> Iterator[Block]:
        if self._fence:
            yield from self._take_code(line)
        elif self._item and not self._leaves_item(line):
            self._lines.append(line)
            self._blank = not line.strip()
        elif not line.strip():
            yield from self._flush()
        else:
            yield from self._begin(line)

    def _take_code(self, line: str) -> Iterator[Block]:
        marks = line.strip()
        if marks.startswith(self._fence) and not marks.strip(self._fence[0]):
            self._fence = ""
            yield Block("end", marks, gap=False)
            return
        yield Block("code", line, False, self._language, tuple(self._code[-_LEXED_LINES:]))
        self._code.append(line)

    def _leaves_item(self, line: str) -> bool:
        """Whether a line is no part of the list item that grows."""
        assert self._item is not None
        if self._inner_fence:
            if line.strip().startswith(self._inner_fence):
                self._inner_fence = ""
            return False
        if not line.strip():
            return False
        indent = len(line) - len(line.lstrip(" "))
        inside = indent >= min(len(self._item.group(0)), len(self._item.group(1)) + 2)
        if inside:
            fence = _INNER_FENCE.match(line)
            self._inner_fence = fence.group(1) if fence else ""
            return False
        return self._blank or bool(_ITEM.match(line)) or _begins_block(line)

    def _begin(self, line: str) -> Iterator[Block]:
        """A line outside of code and lists, which may begin a block or belong to the paragraph that grows."""
        fence, item = _FENCE.match(line), _ITEM.match(line)
        if fence:
            yield from self._flush()
            self._fence, self._code = fence.group(1), []
            self._language = fence.group(2).strip().split(" ")[0]
            yield Block("fence", line.strip())
        elif _RULE.match(line) and not (self._lines and set(line.strip()) == {"-"}):
            yield from self._flush()
            yield Block("text", line)
        elif item and (not self._lines or self._item or item.group(2) in ("-", "*", "+", "1.", "1)")):
            blank = self._blank
            was_item = self._after_item or bool(self._item)
            yield from self._flush()
            self._item, self._lines = item, [line]
            self._loose = blank or not was_item
        elif _HEADING.match(line):
            yield from self._flush()
            yield Block("text", line)
        else:
            if self._item:
                yield from self._flush()
            self._after_item = False
            self._lines.append(line)

    def _flush(self) -> Iterator[Block]:
        """The block that grows is complete."""
        lines, item = self._lines, self._item
        self._lines, self._item, self._inner_fence, self._blank = [], None, "", False
        self._after_item = item is not None
        while lines and not lines[-1].strip():
            lines.pop()
        if lines:
            yield Block("item" if item else "text", "\n".join(lines), gap=self._loose if item else True)


def _begins_block(line: str) -> bool:
    return bool(_FENCE.match(line) or _HEADING.match(line) or _RULE.match(line) or line.startswith(">"))


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────


def rendered(block: Block, console: Console) -> str:
    """A block as the console shows it, escape sequences included, ending in a newline."""
    if block.kind in ("fence", "end"):
        # The marks stay, dimmed: code between them can be copied without a border or padding.
        return _drawn(Text(block.text or "```", style="dim"), console, soft_wrap=True)
    if block.kind == "code":
        return _drawn(_highlighted(block), console, soft_wrap=True)
    return _drawn(_Safe(_Markdown(block.text)), console)


def _drawn(what: object, console: Console, soft_wrap: bool = False) -> str:
    with console.capture() as capture:
        console.print(what, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False)
    return capture.get()


def _highlighted(block: Block) -> Text:
    line = block.text.expandtabs(4)
    if not block.language or len(line) > _LONGEST_LEXED:
        return Text(line)
    syntax = Syntax("", block.language, theme=CODE_THEME)
    coloured = syntax.highlight("\n".join([*block.before, line]))
    coloured.rstrip()
    lines = coloured.split("\n", allow_blank=True)
    found = lines[len(block.before)] if len(lines) > len(block.before) else Text("")
    return found if found.plain == line.rstrip() else Text(line)


class _Code(CodeBlock):
    """Code inside a list or a quotation: no background, no padding."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(
            str(self.text).rstrip(), self.lexer_name, theme=CODE_THEME, word_wrap=True,
            background_color="default",
        )  # fmt: skip


class _Heading(Heading):
    """A heading on the left, whatever its level."""

    LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _Item(ListItem):
    """A list item; a numbered one has the full stop it was written with."""

    def render_number(
        self, console: Console, options: ConsoleOptions, number: int, last_number: int
    ) -> RenderResult:
        """The number, then the lines of the item beside it."""
        mark = f" {number}. "
        lines = console.render_lines(self.elements, options.update(width=options.max_width - len(mark)))
        style = console.get_style("markdown.item.number", default="none")
        for at, line in enumerate(lines):
            yield Segment(mark, style) if at == 0 else Segment(" " * len(mark))
            yield from line
            yield Segment.line()


class _Table(TableElement):
    """A table whose cells are folded where they are too wide: nothing of them is left out."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for drawn in super().__rich_console__(console, options):
            if isinstance(drawn, Table):
                for column in drawn.columns:
                    column.overflow = "fold"
            yield drawn


class _Markdown(Markdown):
    """Markdown that hides nothing: tags, images and link targets are shown as they are written."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements, "fence": _Code, "code_block": _Code, "heading_open": _Heading,
        "list_item_open": _Item, "table_open": _Table,
    }  # fmt: skip

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme=CODE_THEME, hyperlinks=False)
        parser = MarkdownIt().enable(["strikethrough", "table"])
        # `List<String>` is no tag to us, and `&#27;` must not become an escape character.
        parser.disable(["html_inline", "html_block", "entity", "image", "autolink"])
        self.parsed = parser.parse(text)
        _keep_line_breaks(self.parsed)


def _keep_line_breaks(tokens: Iterable[Token]) -> None:
    """A model that ends a line means it: verses, addresses."""
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        _keep_line_breaks(token.children or ())


class _Safe:
    """Another renderable without control characters, and without the spaces that pad its lines."""

    def __init__(self, inner: Markdown) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = any(token.type == "table_open" for token in self.inner.parsed)
        if not wide:
            options = options.update(width=min(options.max_width, PROSE_WIDTH))
        segments = [segment for segment in console.render(self.inner, options) if not segment.control]
        for line in _without_blank_ends(list(Segment.split_lines(segments))):
            yield from line
            yield Segment.line()


def _without_blank_ends(lines: list[list[Segment]]) -> list[list[Segment]]:
    trimmed = [_trimmed(line) for line in lines]
    while trimmed and not trimmed[-1]:
        trimmed.pop()
    while trimmed and not trimmed[0]:
        trimmed.pop(0)
    return trimmed


def _trimmed(line: list[Segment]) -> list[Segment]:
    clean = [Segment(sanitize(segment.text, terminal=True), segment.style) for segment in line]
    while clean and not clean[-1].text.strip(" "):
        clean.pop()
    if clean:
        clean[-1] = Segment(clean[-1].text.rstrip(" "), clean[-1].style)
    return clean
