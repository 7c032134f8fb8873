"""documents: every kind of file becomes its text, or one line that says why not."""

import io
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.documents import MAX_BYTES, decode, read_document, read_stream
from llmcli.errors import MissingInput, PermissionRefused, UnreadableInput, UsageError


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# ------------------------------------------------------------------ text


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("Grüße\nan alle".encode(), None),
        ("\ufeffGrüße\r\nan alle".encode(), None),
        ("Grüße\r\nan alle".encode("utf-16"), None),
        (b"\xfe\xff" + "Grüße\nan alle".encode("utf-16-be"), None),
        ("Grüße\nan alle".encode("utf-32"), None),
        ("Grüße\r\nan alle".encode("cp1252"), "cp1252"),
        ("Grüße\nan alle".encode("utf-16-le"), "utf-16-le"),
        ("\ufeffGrüße\nan alle".encode(), "utf-8"),
        ("Grüße\ran alle".encode(), None),
    ],
)
def test_text_is_the_same_in_every_encoding(tmp_path, data, encoding):
    assert read_document(write(tmp_path, "a.txt", data), encoding) == "Grüße\nan alle"


@given(st.text().filter(lambda text: "\0" not in text and not text.startswith("\ufeff")))
def test_utf8_text_comes_back_as_it_was_but_for_line_ends(text):
    expected = text.replace("\r\n", "\n").replace("\r", "\n")

    assert decode(text.encode("utf-8", "replace")) == expected.encode("utf-8", "replace").decode()


def test_bad_utf8_names_the_byte_and_the_remedy(tmp_path):
    with pytest.raises(UnreadableInput) as caught:
        read_document(write(tmp_path, "a.txt", b"caf\xe9 au lait"))

    assert str(caught.value).endswith(
        "a.txt is not UTF-8: byte 0xe9 at offset 3 (name its encoding, for example --encoding cp1252)"
    )


def test_utf16_without_its_mark_is_recognised(tmp_path):
    with pytest.raises(UnreadableInput, match="--encoding utf-16-le"):
        read_document(write(tmp_path, "a.txt", "Hello there".encode("utf-16-le")))


@pytest.mark.parametrize("encoding", ["no-such", "zlib", "rot13", "undefined", "a\0b"])
def test_an_unknown_encoding_is_a_usage_error(encoding):
    with pytest.raises(UsageError, match="unknown encoding"):
        decode(b"abc", encoding)


def test_an_empty_file_is_an_empty_text(tmp_path):
    assert read_document(write(tmp_path, "a.txt", b"")) == ""


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (b"GGUF\x03\x00\x00\x00", "a GGUF model"),
        (b"\x89PNG\r\n\x1a\n\x00", "a PNG image"),
        (b"\xff\xd8\xff\xe0 JFIF", "a JPEG image"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x7fELF\x02\x01", "a program"),
        (b"PK\x03\x04 ...", "a ZIP archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Word"),
        (b"{\\rtf1 Hi}", "an RTF file"),
        (b"PAR1\x15\x04", "a Parquet file"),
        (b"some\x00thing else", "a NUL at byte 4"),
    ],
)
def test_a_binary_file_is_refused_with_what_it_looks_like(tmp_path, data, looks):
    with pytest.raises(UnreadableInput, match=looks):
        read_document(write(tmp_path, "a.txt", data))


def test_a_zip_is_named_by_what_it_holds(tmp_path):
    for member, looks in [("xl/workbook.xml", "an Excel file"), ("readme", "a ZIP archive")]:
        with zipfile.ZipFile(tmp_path / "a.txt", "w") as archive:
            archive.writestr(member, "x")
        with pytest.raises(UnreadableInput, match=looks):
            read_document(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "text", ["GGUF is a file format.", "RIFF raff", "ID3 tags", "BZh, he said.", "PK or not"]
)
def test_prose_that_begins_like_a_binary_file_is_text(text):
    assert decode(text.encode()) == text


# ----------------------------------------------------------- what is opened


def test_a_missing_file_is_said_so_and_prose_is_shown_its_option(tmp_path):
    with pytest.raises(MissingInput) as caught:
        read_document(Path("I love it"))
    assert str(caught.value) == "no file 'I love it' (for text itself: --text \"I love it\")"

    with pytest.raises(MissingInput) as caught:
        read_document(Path("reprot.txt"))
    assert str(caught.value) == "no file 'reprot.txt'"


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "word " * 100])
def test_a_name_that_cannot_be_one_is_a_missing_file(name):
    with pytest.raises(MissingInput) as caught:
        read_document(Path(name))
    assert len(str(caught.value)) < 300


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(UnreadableInput, match="is a directory"):
        read_document(tmp_path)


def test_a_file_without_permission_is_refused(tmp_path):
    path = write(tmp_path, "a.txt", b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(PermissionRefused):
        read_document(path)


def test_a_fifo_is_read_to_its_end(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    threading.Thread(target=lambda: fifo.write_bytes(b"from a pipe"), daemon=True).start()

    assert read_document(fifo) == "from a pipe"


def test_dev_stdin_is_read():
    code = (
        "from pathlib import Path; from llmcli.documents import *; print(read_document(Path('/dev/stdin')))"
    )

    done = subprocess.run([sys.executable, "-c", code], input=b"hello", stdout=subprocess.PIPE, check=True)

    assert done.stdout == b"hello\n"


def test_a_file_of_ten_gigabytes_is_refused_at_once(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(10_000_000_000)

    with pytest.raises(UnreadableInput, match=r"10,000 MB: one text may be at most 32 MB"):
        read_document(path)


def test_an_endless_stream_is_refused_at_the_cap():
    with Path("/dev/zero").open("rb") as stream, pytest.raises(UnreadableInput, match="at most 32 MB"):
        read_stream(stream)
    assert MAX_BYTES == 32_000_000


# ------------------------------------------------------------- formats


def test_html_becomes_readable_text(tmp_path):
    page = """<!doctype html><html><head><title>Ignored</title><style>p {}</style></head><body>
    <h1>The  Caf\xe9</h1><p>Hot &amp; <b>strong</b><br>tea.</p><script>alert("<p>no</p>")</script>
    <ul><li>milk</li><li>su<i>gar</i></li></ul><table><tr><th>Day<th>Cups<tr><td>Mon<td>3</table>
    <pre>a
      b</pre><p>End"""

    expected = (
        "# The Café\n\nHot & strong\ntea.\n\n- milk\n- sugar\n\nDay | Cups\nMon | 3\n\na\n      b\n\nEnd"
    )
    assert read_document(write(tmp_path, "a.html", page.encode())) == expected
    latin = page.replace("<head>", '<head><meta charset="iso-8859-1">').encode("latin-1")
    assert read_document(write(tmp_path, "b.HTM", latin)) == expected


def test_html_that_is_broken_or_tricky_keeps_its_words(tmp_path):
    pages = {
        "<title>News</title><p>Hi": "# News\n\nHi",
        "a < b and 5<6 <!-- gone > --> &lt;p&gt; <3": "a < b and 5<6 <p> <3",
        "<script>if (a<b) x = '<!--'</script>after<STYLE>p</style> it": "after it",
        '<img alt="a > b"> <a title="x>y">link</a> <p class=\'q>r\'>para': "a > b link\n\npara",
        "<p>open <b": "open",
        "<template><p>no</p><template></template>no</template>yes": "yes",
        "<![CDATA[x]]>kept": "kept",
        "": "",
    }
    for page, text in pages.items():
        assert read_document(write(tmp_path, "a.html", page.encode())) == text


HOSTILE_HTML = {
    "open quotes": '<a "' * 50_000 + ">",
    "equals": "<a b=" * 50_000 + ">",
    "templates": "<svg>" * 50_000 + "</svg>" * 50_000,
    "blanks": "<p>" + " " * 250_000 + "x",
    "unclosed tags": "<div" * 50_000,
    "nested": "<div>" * 50_000 + "deep",
    "unclosed comments": "<!--" * 50_000,
    "unclosed scripts": "<script>" * 50_000,
    "attributes": "<a " + "b=c " * 50_000,
    "entities": "&#" * 50_000,
    "declarations": "<![" * 50_000,
    "closing": "</" * 50_000,
}


@pytest.mark.parametrize("name", HOSTILE_HTML)
def test_hostile_html_is_read_in_seconds(tmp_path, name):
    began = time.process_time()
    read_document(write(tmp_path, "a.html", HOSTILE_HTML[name].encode()))
    assert time.process_time() - began < 5


def pdf_of(*pages: str) -> bytes:
    """A small real PDF with one line of Helvetica a page."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    kids = []
    for text in pages:
        content = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode() if text else b""
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        font = b"<< /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font %s >> >>" % (len(objects), font)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def test_a_pdf_is_read_page_by_page_from_a_file_and_from_a_stream(tmp_path):
    pytest.importorskip("pypdf")
    data = pdf_of("Hello page one.", "And page two.")

    assert read_document(write(tmp_path, "a.pdf", data)) == "Hello page one.\n\nAnd page two."
    assert read_stream(io.BytesIO(data)) == "Hello page one.\n\nAnd page two."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a pdf", "is not a PDF"),
        (b"%PDF-1.4\n garbage", "cannot be read"),
        (pdf_of(""), "holds no text in its 1 pages"),
        (pdf_of("Hi")[:200], "cannot be read"),
    ],
)
def test_a_bad_pdf_is_one_line(tmp_path, data, reason, capfd):
    pytest.importorskip("pypdf")
    with pytest.raises(UnreadableInput, match=reason) as caught:
        read_document(write(tmp_path, "a.pdf", data))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_word_file_is_read_in_order(tmp_path):
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_heading("Tea", 1)
    document.add_paragraph("Hot and strong.")
    document.add_paragraph("milk", style="List Bullet")
    document.add_paragraph("sugar", style="List Bullet")
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Mon", "3"
    document.add_paragraph("End")
    document.save(tmp_path / "a.docx")

    text = read_document(tmp_path / "a.docx")

    assert text == "# Tea\n\nHot and strong.\n\n- milk\n- sugar\nMon | 3\n\nEnd"
    assert read_stream(io.BytesIO((tmp_path / "a.docx").read_bytes())) == text


WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
RUN = "<w:r><w:t>{}</w:t></w:r>"


@pytest.mark.parametrize(
    ("inside", "read"),
    [
        (f"<w:ins>{RUN.format('new')}</w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>", "new"),
        (f"<w:moveFrom>{RUN.format('moved')}</w:moveFrom>{RUN.format('here')}", "here"),
        (f"<w:sdt><w:sdtContent>{RUN.format('controlled')}</w:sdtContent></w:sdt>", "controlled"),
        (f"<w:hyperlink>{RUN.format('linked')}</w:hyperlink>", "linked"),
        ("<w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t><w:noBreakHyphen/></w:r>", "a\tb\nc-"),
        (
            f"<w:r><w:pict><w:txbxContent><w:p>{RUN.format('in a box')}</w:p></w:txbxContent></w:pict></w:r>",
            "\n\nin a box",
        ),
    ],
)  # fmt: skip
def test_a_word_file_is_read_wherever_its_words_stand(tmp_path, inside, read):
    docx = pytest.importorskip("docx")
    document = docx.Document()
    paragraph = document.add_paragraph("Before ")
    for element in docx.oxml.parse_xml(f"<w:p {WORD}>{inside}</w:p>"):
        paragraph._p.append(element)
    document.save(tmp_path / "a.docx")

    assert read_document(tmp_path / "a.docx") == ("Before " + read if read[0] != "\n" else "Before" + read)


def test_a_word_files_tables_headers_and_footers_are_read(tmp_path):
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "Lease"
    document.sections[0].footer.paragraphs[0].text = "Confidential"
    table = document.add_table(rows=2, cols=3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    table.cell(1, 0).add_table(1, 1).cell(0, 0).text = "nested"
    block = docx.oxml.parse_xml(
        f"<w:sdt {WORD}><w:sdtContent><w:p>{RUN.format('controlled')}</w:p></w:sdtContent></w:sdt>"
    )
    document.element.body.insert(0, block)
    document.save(tmp_path / "a.docx")

    assert read_document(tmp_path / "a.docx") == (
        "Lease\n\ncontrolled\n\nwide | \nnested |  | \n\nConfidential"
    )


def test_a_bad_word_file_is_one_line(tmp_path):
    pytest.importorskip("docx")
    with pytest.raises(UnreadableInput, match="not a Word file"):
        read_document(write(tmp_path, "a.docx", b"PK\x03\x04 broken"))


@pytest.mark.parametrize("icon", ['<svg class="icon"/>', "<svg />", "<svg><math/></svg>", "<math/>"])
def test_a_page_goes_on_behind_a_picture_without_an_end_tag(tmp_path, icon):
    assert read_document(write(tmp_path, "a.html", f"<p>one</p>{icon}<p>two</p>".encode())) == "one\n\ntwo"


@pytest.mark.parametrize(("library", "name"), [("pypdf", "a.pdf"), ("docx", "a.docx")])
def test_without_the_extra_one_line_names_the_install_command(tmp_path, library, name):
    path = write(tmp_path, name, b"%PDF-1.4" if library == "pypdf" else b"PK\x03\x04")
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        f"from pathlib import Path\nfrom llmcli.documents import read_document\n"
        f"try: read_document(Path({str(path)!r}))\nexcept Exception as e: print(type(e).__name__, e)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("UnreadableInput")
    assert done.stdout.endswith("(pip install 'llmcli[documents]')\n")
