"""
HTML, PDF and Word as readable text: headings, lists and tables in the manner of Markdown.

Given whole files as bytes by `documents`; opens no file and follows no link. HTML needs
the standard library alone; PDF and Word need the extra `documents`.
"""

from __future__ import annotations

import html
import importlib
import io
import logging
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from llmcli.document_word import word_text
from llmcli.errors import UnreadableInput

_INSTALL = "pip install 'llmcli[documents]'"
_MAX_UNPACKED = 200_000_000  # bytes inside a .docx, which is a ZIP: a bomb is refused before it is read

# ------------------------------------------------------------------ HTML


def _names(line: str) -> frozenset[str]:
    return frozenset(line.split())


_RAW = _names("script style iframe noembed noframes xmp")  # no tag but their own end counts inside them
_DROPPED = _names("template noscript svg math select") | _RAW
_SELF_CLOSING = _names("svg math")  # of another language than HTML: there `<svg/>` has no end tag
_BLOCKS = _names(
    "address article aside blockquote body dd details dialog div dl dt fieldset figcaption figure footer "
    "form h1 h2 h3 h4 h5 h6 head header hr html li main nav ol p pre section summary table tbody td tfoot "
    "th thead title tr ul"
)
_TIGHT = _names("li tr dt dd td th tbody thead tfoot")  # one newline between them, not two
_TAG = re.compile(r"""<(/?)([a-zA-Z][^\s/>]*)((?:[^>"']|"[^"]*"|'[^']*')*)>""")
_ALT = re.compile(r"""\salt\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+))""", re.IGNORECASE)
_LONGEST_TAG = 1000  # characters in which a `>` inside quotes is looked for
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)


def html_charset(data: bytes) -> str | None:
    """The encoding that a page's `<meta charset>` names in its first 4 kB, where Python knows it."""
    found = _CHARSET.search(data[:4096])
    if not found:
        return None
    name = found.group(1).decode("ascii", "replace").lower()
    # As browsers read it: pages that claim Latin-1 are Windows-1252.
    name = {"iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252"}.get(name, name)
    if name.startswith(("utf-16", "utf-32")):  # cannot be: the tag itself was found as single bytes
        return None
    try:
        "a".encode(name)
    except (LookupError, UnicodeError):
        return None
    return name


def html_text(source: str) -> str:
    """
    The words of a page, without scripts and styles.

    >>> html_text("<h1>Tea</h1><p>Hot &amp; <b>strong</b>.<ul><li>milk<li>sugar</ul><script>x()</script>")
    '# Tea\\n\\nHot & strong.\\n\\n- milk\\n- sugar'
    """
    page = _Page()
    for text, tag, rest in _markup(source):
        if tag:
            page.tag(tag, rest)
        else:
            page.words(html.unescape(text))
    return page.text()


def _markup(source: str) -> Iterator[tuple[str, str, str]]:
    """
    (text, "", "") and ("", tag, its attributes) in turn; the tag of an end is "/p".

    The standard library's parser takes time quadratic in the length of unclosed markup (0.2 MB of
    "<!--": 30 s) and asserts on "<![<![" (Python 3.11); this one looks at everything once.
    """
    position = 0
    while (start := source.find("<", position)) >= 0:
        following = source[start + 1 : start + 4]
        if following == "!--":
            end = source.find("-->", start + 2)
            tag = rest = ""
        elif following[:1] in ("!", "?"):
            end = source.find(">", start)
            tag = rest = ""
        elif following.removeprefix("/")[:1].isalpha():
            tag, rest, end = _tag_at(source, start)
        else:
            yield source[position : start + 1], "", ""
            position = start + 1
            continue
        yield source[position:start], "", ""
        if end < 0:
            position = len(source)
            break
        position = source.index(">", end) + 1
        if tag:
            yield "", tag, rest
        if tag in _RAW:
            close = re.compile(f"</{tag}", re.IGNORECASE).search(source, position)
            position = close.start() if close else len(source)
    yield source[position:], "", ""


def _tag_at(source: str, start: int) -> tuple[str, str, int]:
    """The tag that begins at `start`: name, attributes, and where its `>` is (-1: nowhere)."""
    end = source.find(">", start)
    if end < 0:
        return "", "", -1
    found = _TAG.match(source, start, end + 1) or _TAG.match(source, start, start + _LONGEST_TAG)
    if found:
        return (found[1] + found[2]).lower(), found[3], found.end() - 1
    name, _, rest = source[start + 1 : end].partition(" ")
    return name.lower(), rest, end


class _Page:
    """Collects the words of a page; a gap is how many newlines come before the next ones."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._title = ""
        self._has_heading = False
        self._gap = 0
        self._space = False  # white space was seen since the last word
        self._dropped = ""  # the open element whose text is not shown, and how deep it is nested
        self._depth = 0
        self._in_title = False
        self._pre = 0
        self._prefix = ""
        self._cells = 0

    def tag(self, name: str, rest: str) -> None:
        """A start tag, or an end tag when its name begins with a slash."""
        if name in _SELF_CLOSING and rest.endswith("/"):
            return
        if self._dropped:
            self._depth += {self._dropped: 1, "/" + self._dropped: -1}.get(name, 0)
            if self._depth == 0:
                self._dropped = ""
        elif name.startswith("/"):
            self._close(name[1:])
        elif name in _DROPPED:
            self._dropped, self._depth = name, 1
        elif name == "br":
            self._gap = max(self._gap, 1)
        elif name == "img" and (alt := _ALT.search(rest)):
            self.words(f" {html.unescape(alt[1] or alt[2] or alt[3] or '')} ")
        elif name in _BLOCKS:
            self._open_block(name)

    def _open_block(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cells += 1
            if self._cells > 1:
                self._add_text(" | ")
            return
        self._break(tag)
        self._in_title = tag == "title"
        self._has_heading |= tag == "h1"
        if tag == "tr":
            self._cells = 0
        if tag == "pre":
            self._pre += 1
        if tag == "li":
            self._prefix = "- "
        elif len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self._prefix = "#" * int(tag[1]) + " "

    def _close(self, tag: str) -> None:
        if tag == "pre":
            self._pre = max(0, self._pre - 1)
        if tag in _BLOCKS and tag not in ("td", "th"):
            self._in_title = False
            self._break(tag)
            self._prefix = ""

    def _break(self, tag: str) -> None:
        self._gap = max(self._gap, 1 if tag in _TIGHT else 2)
        self._space = False

    def words(self, data: str) -> None:
        """Text between two tags."""
        if self._dropped or not data:
            return
        if self._in_title:
            self._title += data
            return
        if self._pre:
            self._add_text(data.strip("\n") if self._gap else data)
            return
        if data[0].isspace():
            self._space = True
        words = data.split()
        if words:
            self._add_text((" " if self._space and not self._gap else "") + " ".join(words))
            self._space = data[-1].isspace()

    def _add_text(self, text: str) -> None:
        if self._out and self._gap:
            self._out.append("\n" * self._gap)
        self._out.append(self._prefix + text)
        self._gap, self._prefix = 0, ""

    def text(self) -> str:
        """All of it, without blanks at line ends; the page's title first where it has no h1."""
        title = " ".join(self._title.split())
        if title and not self._has_heading:
            self._out.insert(0, f"# {title}\n\n")
        return "\n".join(line.rstrip() for line in "".join(self._out).split("\n")).strip()


# ------------------------------------------------------------- PDF, Word


def pdf_text(data: bytes, where: str) -> str:
    """The text of a PDF's pages, a blank line between two. Raises UnreadableInput."""
    pypdf = _library("pypdf", f"{where} is a PDF")
    if b"%PDF-" not in data[:1024]:
        raise UnreadableInput(f"{where} is not a PDF, whatever its name says")
    log = logging.getLogger("pypdf")
    if not log.handlers:
        log.addHandler(logging.NullHandler())  # its warnings would go to standard error
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableInput(f"{where} is encrypted", hint="save a copy without its password")
        pages = [page.extract_text().strip() for page in reader.pages]
    except UnreadableInput:
        raise
    except Exception as error:  # pypdf raises KeyError, RecursionError and more on broken files
        raise UnreadableInput(f"{where} is a PDF that cannot be read: {_one_line(error)}") from error
    text = "\n\n".join(page for page in pages if page)
    if pages and not text:
        raise UnreadableInput(
            f"{where} holds no text in its {len(pages):,} pages, only pictures", hint="run OCR over it first"
        )
    return _clean(text)


def docx_text(data: bytes, where: str) -> str:
    """The words of a Word file (.docx), see `document_word`. Raises UnreadableInput."""
    docx = _library("docx", f"{where} is a Word file")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MAX_UNPACKED:
                raise UnreadableInput(f"{where} unpacks to more than {_MAX_UNPACKED // 1_000_000} MB")
        return _clean(word_text(docx.Document(io.BytesIO(data))))
    except UnreadableInput:
        raise
    except Exception as error:  # python-docx raises KeyError, lxml errors and more on broken files
        raise UnreadableInput(f"{where} is not a Word file that can be read: {_one_line(error)}") from error


def _library(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UnreadableInput(f"{what}, and reading it needs one more package", hint=_INSTALL) from None


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]


def _clean(text: str) -> str:
    """Without lone surrogates, NULs and runs of blank lines, which PDF extraction leaves."""
    text = re.sub("[\0\ud800-\udfff]", "\ufffd", text).replace("\r\n", "\n")
    return re.sub(r"\n{3,}", "\n\n", text).strip()
