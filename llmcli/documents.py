"""
A file, or a stream of bytes, as its text.

Plain text and Markdown are decoded here: UTF-8, UTF-16 and UTF-32 by their byte order
mark, anything else by its name; CRLF becomes LF; what is not text is refused with what
it looks like. HTML, PDF and Word go to `document_formats`. One file is one text here: lines and
rows (CSV, JSONL, Parquet) are read by `llmcli.rows`. Knows nothing of tokens or of the command line.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import stat
import zipfile
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from llmcli import document_formats
from llmcli.errors import LlmError, MissingInput, UnreadableInput, UsageError, from_os_error
from llmcli.registry import nearest

MAX_BYTES = 32_000_000  # of one text; some 8 million tokens, far beyond any context window
_SNIFFED = 8192  # bytes at the start that are looked at to tell what a file is

_BOMS = (  # the longer one first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_SIGNATURES = (
    (b"GGUF", "a GGUF model"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a sound, video or WebP file"),
    (b"ID3", "an MP3 file"),
    (b"OggS", "an Ogg file"),
    (b"fLaC", "a FLAC file"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\x00", "a Windows program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
    (b"\xd0\xcf\x11\xe0", "an old Word, Excel or PowerPoint file"),
    (b"{\\rtf", "an RTF file"),
    (b"%!PS", "a PostScript file"),
)
_ZIP_MEMBERS = (  # the first member that is found tells what the ZIP is
    ("xl/workbook.xml", "an Excel file"),
    ("ppt/presentation.xml", "a PowerPoint file"),
    ("META-INF/container.xml", "an EPUB book"),
    ("content.xml", "an OpenDocument file"),
)
_TEXT_SIGNATURES = (b"{\\rtf", b"%!PS")  # text, but not to be read as it stands
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
NEIGHBOURS = 5000  # files that are looked at for the one that was meant
_REMEDIES = {
    "an Excel file": "save it as .csv",
    "an RTF file": "save it as .docx or .txt",
    "an old Word, Excel or PowerPoint file": "save it as .docx",
}


# -------------------------------------------------------------- one text


def read_document(path: Path, encoding: str | None = None) -> str:
    """
    The text of a file.

    `encoding` is a Python codec name such as cp1252; None means UTF-8, or what a byte order
    mark (in HTML also a `<meta charset>`) says. A FIFO or /dev/stdin is read to its end.
    Raises MissingInput, PermissionRefused, UnreadableInput (not text, a directory, too large),
    UsageError (no such encoding), InputOutputError.
    """
    with open_bytes(path) as stream:
        status = os.fstat(stream.fileno())
        if stat.S_ISREG(status.st_mode) and status.st_size > MAX_BYTES:
            raise _too_large(f"{shown(path)} is {status.st_size / 1e6:,.0f} MB")
        return read_stream(stream, encoding, shown(path), path.suffix.lower())


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading. Raises MissingInput, PermissionRefused, UnreadableInput (a directory)."""
    if "\0" in str(path):
        raise _missing(path)
    try:
        return path.open("rb")
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR):
            raise _missing(path) from None
        raise _reading_failed(error, shown(path)) from error


def read_stream(
    stream: BinaryIO, encoding: str | None = None, where: str = "standard input", suffix: str = ""
) -> str:
    """
    The text of a stream of bytes, read to its end; `suffix` (".html") says what it is where bytes do not.

    Raises UnreadableInput, UsageError, InputOutputError.
    """
    data = bytearray()
    while len(data) <= MAX_BYTES:
        try:
            block = stream.read(min(1 << 20, MAX_BYTES + 1 - len(data)))
        except OSError as error:
            raise _reading_failed(error, where) from error
        if not block:
            return to_text(bytes(data), encoding, where, suffix)
        data += block
    raise _too_large(f"{where} is too large")


def to_text(data: bytes, encoding: str | None = None, where: str = "the text", suffix: str = "") -> str:
    """
    The text of a whole file's bytes: PDF and Word by their first bytes, HTML by `suffix`, else `decode`.

    Raises UnreadableInput and UsageError.
    """
    if suffix == ".pdf" or data.startswith(b"%PDF-"):
        return document_formats.pdf_text(data, where)
    if suffix == ".docx" or (data.startswith(b"PK\x03\x04") and _zip_holds(data, "word/document.xml")):
        return document_formats.docx_text(data, where)
    if suffix in (".html", ".htm", ".xhtml"):
        encoding = encoding or (None if _bom(data)[0] else document_formats.html_charset(data))
        return document_formats.html_text(decode(data, encoding, where))
    return decode(data, encoding, where)


def decode(data: bytes, encoding: str | None = None, where: str = "the text") -> str:
    """
    Bytes as text, with LF line ends and without a byte order mark.

    >>> decode(b"\\xef\\xbb\\xbfa\\r\\nb"), decode("é".encode("cp1252"), "cp1252")
    ('a\\nb', 'é')

    Raises UnreadableInput where the bytes are binary or are not of that encoding (with
    the byte's offset), UsageError where there is no such encoding.
    """
    _refuse_binary(data, encoding, where)
    mark, marked = _bom(data)
    chosen = check_encoding(encoding) or marked or "utf-8"
    start = len(mark) if encoding is None else 0
    if _keeps_newlines(chosen) and b"\0" in data:
        raise UnreadableInput(f"{where} is binary, not text: a NUL at byte {data.index(0):,}")
    try:
        text = data[start:].decode(chosen)
    except UnicodeDecodeError as error:
        raise _not_encoded(data, start + error.start, chosen, encoding, where) from None
    except UnicodeError as error:  # punycode and its like do not say where
        raise UnreadableInput(f"{where} is not {chosen}: {error}") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def check_encoding(encoding: str | None) -> str | None:
    """The encoding, when Python knows it as one for text. Raises UsageError."""
    if encoding is None:
        return None
    try:
        b" ".decode(encoding)
    except UnicodeDecodeError:  # a space alone is half a character of UTF-16
        return encoding
    except (LookupError, ValueError):
        hint = "for example utf-8, utf-16, cp1252, latin-1, shift_jis"
        raise UsageError(f"unknown encoding {encoding!r}", hint=hint) from None
    return encoding


def shown(path: Path) -> str:
    """A path as messages name it: short, on one line."""
    name = str(path)
    return name if len(name) <= 80 else f"{name[:60]}…{name[-15:]}"


# ------------------------------------------------------------ what is it?


def _keeps_newlines(encoding: str) -> bool:
    """Whether the byte 10 is a newline, and nothing else, in this encoding."""
    try:
        return "a\n".encode(encoding) == b"a\n"
    except (LookupError, UnicodeError):
        return False


def _bom(data: bytes) -> tuple[bytes, str | None]:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return mark, encoding
    return b"", None


def _refuse_binary(data: bytes, encoding: str | None, where: str) -> None:
    """Raise UnreadableInput where the beginning is that of a known binary file, or of unmarked UTF-16."""
    mark, marked = _bom(data)
    wide = mark and marked != "utf-8"
    looks = "" if wide else _looks_like(data)
    if looks:
        raise UnreadableInput(f"{where} is not text: it looks like {looks}", hint=_REMEDIES.get(looks, ""))
    if not encoding and not wide and (name := _looks_like_utf16(data)):
        what = f"{where} looks like UTF-16 without its byte order mark"
        raise UnreadableInput(what, hint=f"--encoding {name}")


def _looks_like(data: bytes) -> str:
    """
    The kind of a binary file by its first bytes; "" for what may be text.

    A signature of letters proves nothing alone: a text may begin with "GGUF" or "RIFF".
    """
    if data.startswith(b"PK\x03\x04"):
        return next((name for member, name in _ZIP_MEMBERS if _zip_holds(data, member)), "a ZIP archive")
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            proof = (
                not signature.isascii()
                or signature in _TEXT_SIGNATURES
                or _CONTROLS.search(data, 0, _SNIFFED)
            )
            return name if proof else ""
    return ""


def _looks_like_utf16(data: bytes) -> str:
    """utf-16-le or -be where every second byte of the beginning is a NUL, as it is in Latin script."""
    start = data[:_SNIFFED]
    even, odd = start[0::2], start[1::2]
    if len(start) < 4:
        return ""
    if odd.count(0) > 0.6 * len(odd) and even.count(0) < 0.1 * len(even):
        return "utf-16-le"
    if even.count(0) > 0.6 * len(even) and odd.count(0) < 0.1 * len(odd):
        return "utf-16-be"
    return ""


def _zip_holds(data: bytes, member: str) -> bool:
    try:
        return member in zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return member.encode() in data[:_SNIFFED]  # the beginning of a stream: names stand there too


# ---------------------------------------------------------------- errors


def is_prose(name: str) -> bool:
    """
    Whether a file's name is more like a text that was given in its place.

    >>> is_prose("I love it"), is_prose("report.txt"), is_prose("reports/may")
    (True, False, False)
    """
    return " " in name or ("." not in name and "/" not in name)


def neighbour(path: Path) -> str:
    """Advice for a file that is not there: the one in its folder that was probably meant; or nothing."""
    try:
        names = [one.name for one in islice(path.parent.iterdir(), NEIGHBOURS)]
    except (OSError, ValueError):
        return ""
    close = nearest(path.name, names)
    return f"did you mean {shown(Path(close))}?" if close else ""


def _missing(path: Path) -> MissingInput:
    name = shown(path).replace("\0", "\\x00")
    advice = f'for text itself: --text "{name}"' if is_prose(name) else neighbour(path)
    return MissingInput(f"no file '{name}'", hint=advice)


def _reading_failed(error: OSError, where: str) -> LlmError:
    if isinstance(error, IsADirectoryError):
        return UnreadableInput(f"{where} is a directory", hint="name its files")
    return from_os_error(error, f"read {where}")


def _too_large(what: str) -> UnreadableInput:
    limit = f"one text may be at most {MAX_BYTES // 1_000_000} MB"
    return UnreadableInput(f"{what}: {limit}", hint="--lines reads each line as a text of its own")


def _not_encoded(data: bytes, offset: int, chosen: str, asked: str | None, where: str) -> UnreadableInput:
    hint = "" if asked else "name its encoding, for example --encoding cp1252"
    name = chosen.upper() if chosen.startswith("utf") else chosen
    return UnreadableInput(f"{where} is not {name}: byte 0x{data[offset]:02x} at offset {offset:,}", hint)
