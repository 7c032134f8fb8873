"""
A Word document (.docx), opened by python-docx, as readable text in the manner of Markdown.

Read from the XML itself, since python-docx's own `text` leaves out what stands in tracked insertions, content
controls, text boxes and tables within tables. What a tracked change deletes is left out. Headers come first,
footers, footnotes and endnotes last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"  # the same text box again
_GONE = {f"{_W}del", f"{_W}moveFrom", f"{_W}instrText", _FALLBACK}
_BOX = f"{_W}txbxContent"
_PIECES = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_NOTE_MARKS = {f"{_W}footnoteReference", f"{_W}endnoteReference"}
_NOTES = ("footnotes", "endnotes")


def word_text(document: Any) -> str:
    """The paragraphs and tables of a python-docx Document, a blank line after each."""
    headers, footers = _furniture(document)
    lines = [*headers, *_blocks(document.element.body, document), *footers, *_notes(document)]
    return "\n".join(lines)


def _furniture(document: Any) -> tuple[list[str], list[str]]:
    """The lines of headers and of footers, those of several sections that are equal once."""
    found: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for section in document.sections:
        for kind in ("", "first_page_", "even_page_"):
            for lines, name in zip(found, ("header", "footer")):
                part = getattr(section, kind + name)
                if not part.is_linked_to_previous:
                    lines.update(dict.fromkeys(filter(None, _blocks(part._element, part))))
    return list(found[0]), list(found[1])


def _notes(document: Any) -> Iterator[str]:
    """Footnotes and endnotes, marked as in the text."""
    for relation in document.part.rels.values():
        kind = relation.reltype.rpartition("/")[2]
        if kind not in _NOTES or relation.is_external:
            continue
        from docx.oxml import parse_xml

        for note in parse_xml(relation.target_part.blob):
            text = " ".join(" ".join(_words(note)).split())
            if text and note.get(f"{_W}type") is None:  # the others are the lines above the notes
                yield f"[^{note.get(f'{_W}id')}] {text}\n"


def _blocks(parent: Any, owner: Any) -> Iterator[str]:
    """The lines of paragraphs and tables, also of those in content controls and tracked insertions."""
    for child in parent:
        if child.tag == f"{_W}p":
            yield from _paragraph(child, owner)
        elif child.tag == f"{_W}tbl":
            yield from (" | ".join(row) for row in _rows(child))
            yield ""
        elif child.tag not in _GONE:
            yield from _blocks(child, owner)


def _paragraph(element: Any, owner: Any) -> Iterator[str]:
    text = "".join(_words(element)).strip()
    if text:
        yield _styled(text, _style(element, owner))
    for box in _inside(element, _BOX):
        yield from _blocks(box, owner)


def _styled(text: str, style: str) -> str:
    heading = re.fullmatch(r"Heading ([1-6])", style)
    if heading or style == "Title":
        return "#" * (int(heading.group(1)) if heading else 1) + " " + " ".join(text.split()) + "\n"
    return f"- {text}" if style.startswith("List") else f"{text}\n"


def _style(element: Any, owner: Any) -> str:
    from docx.text.paragraph import Paragraph

    style = Paragraph(element, owner).style
    return str(style.name) if style is not None else ""


def _rows(table: Any) -> Iterator[list[str]]:
    """The cells of each row; a table within a cell is part of the cell's words."""
    for row in _inside(table, f"{_W}tr"):
        yield [" ".join(" ".join(_words(cell, boxes=True)).split()) for cell in _inside(row, f"{_W}tc")]


def _inside(parent: Any, tag: str) -> Iterator[Any]:
    """The nearest elements of a kind, also those in content controls and tracked insertions."""
    for child in parent:
        if child.tag == tag:
            yield child
        elif child.tag not in _GONE:
            yield from _inside(child, tag)


def _words(element: Any, boxes: bool = False) -> Iterator[str]:
    """The pieces of text under an element, in order; between two paragraphs a blank."""
    for child in element:
        if child.tag == f"{_W}t":
            yield child.text or ""
        elif child.tag in _PIECES:
            yield _PIECES[child.tag]
        elif child.tag in _NOTE_MARKS:
            yield f"[^{child.get(f'{_W}id')}]"
        elif child.tag not in _GONE and (boxes or child.tag != _BOX):
            yield from _words(child, boxes)
            if child.tag == f"{_W}p":
                yield " "
