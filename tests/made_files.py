"""Real files of the kinds that people have, made small: PDF and docx by hand, others by libraries that write them."""

import zipfile
from collections.abc import Iterable
from copy import copy
from pathlib import Path

from openpyxl import Workbook
from pptx import Presentation
from pypdf import PdfReader, PdfWriter

from scripts.newcomer import assembled

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
OPEN = "http://schemas.openxmlformats.org"
CONTENT_TYPES = f"""<Types xmlns="{OPEN}/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Override PartName="/word/document.xml"
 ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
RELATIONS = f"""<Relationships xmlns="{OPEN}/package/2006/relationships"><Relationship Id="r1"
 Type="{OPEN}/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>"""


def make_pdf(path: Path, *pages: str, times: int = 1) -> Path:
    """Each text on a page, all of them so many times; an empty page has nothing drawn on it, like a scan."""
    kids = " ".join([f"{3 + 2 * n} 0 R" for n in range(len(pages))] * times)
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages) * times} >>"]
    font = "<< /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    for n, text in enumerate(pages):
        drawn = f"BT /F 12 Tf 20 100 Td ({text}) Tj ET" if text else ""
        page = f"/Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Resources {font} /Contents {4 + 2 * n} 0 R"
        objects += [f"<< {page} >>", f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream"]
    path.write_bytes(assembled(objects))
    return path


def lock_pdf(path: Path, password: str) -> Path:
    """The PDF, encrypted; with an empty password everybody may open it, and only changes are locked."""
    writer = PdfWriter(clone_from=PdfReader(path))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    writer.write(path)
    return path


def make_docx(path: Path, heading: str, paragraphs: Iterable[str], more: dict[str, str] | None = None) -> Path:
    """A heading and paragraphs (texts, or runs as they are); `more` are further parts of the archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in {"[Content_Types].xml": CONTENT_TYPES, "_rels/.rels": RELATIONS, **(more or {})}.items():
            archive.writestr(name, content)
        with archive.open("word/document.xml", "w", force_zip64=True) as document:
            style = '<w:pPr><w:pStyle w:val="Heading1"/></w:pPr>'
            document.write(f'<w:document xmlns:w="{WORD}"><w:body>'.encode())
            document.write(f"<w:p>{style}<w:r><w:t>{heading}</w:t></w:r></w:p>".encode())
            for paragraph in paragraphs:
                document.write(f"<w:p><w:r><w:t>{paragraph}</w:t></w:r></w:p>".encode())
            document.write(b"</w:body></w:document>")
    return path


def make_bomb(path: Path) -> Path:
    """A docx of 17 parts, all of which are the same 64 MB of zeros (D. Fifield, A better zip bomb, 2019)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("word/part0.xml", bytes(64 << 20))
        for number in range(1, 17):
            part = copy(archive.filelist[0])
            part.filename = f"word/part{number}.xml"
            archive.filelist.append(part)
    return path


def make_pptx(path: Path, *slides: tuple[str, str]) -> Path:
    """A slide for each (title, body)."""
    deck = Presentation()
    for title, body in slides:
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = title, body
    deck.save(path)
    return path


def make_xlsx(path: Path, sheets: dict[str, list[list[object]]]) -> Path:
    book = Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def make_hollow(path: Path, size: int) -> Path:
    """A file of so many null bytes that take no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return path
