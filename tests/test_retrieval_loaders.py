"""Files of every kind, whole and broken, through the real child process."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.documents import Reading, read_documents
from retrieval.files import FileError
from retrieval.passage import Document
from retrieval.reader import Limits, Reader
from scripts.serving import computed, is_running
from tests.made_files import OPEN, lock_pdf, make_bomb, make_docx, make_hollow, make_pdf, make_pptx, make_xlsx

SLOW = [") Tj 0 -12 Td (".join(["word " * 12] * 50)]
"""A page which makes a PDF of 130 KB that takes minutes, when its table of contents names it 20,000 times."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    """A folder with a file of every kind, read."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "leave").mkdir()
    (folder / "note.txt").write_bytes("Erste Zeile\r\nzweite 😀\r\n".encode())
    (folder / "bom.md").write_bytes(b"\xef\xbb\xbf# Marked\n\ntext")
    (folder / "page.html").write_text(
        "<title>Opening\n hours</title><body><script>no()</script><h1>Hours</h1><p>Nine to <b>five</b>.</p>"
    )
    (folder / "old.htm").write_bytes('<meta charset="latin-1"><p>Türen</p>'.encode("latin-1"))
    (folder / "deep.html").write_text("<div>" * 20_000 + "at the bottom")
    make_pdf(folder / "leave" / "policy.pdf", "Thirty days.", "", "Forty after ten years.")
    lock_pdf(make_pdf(folder / "no-printing.pdf", "Read me."), password="")
    make_docx(folder / "contract.docx", "The contract", ["Signed in May."])
    make_pptx(folder / "deck.pptx", ("Plan", "Build it"), ("Risk", "It rains"))
    make_xlsx(folder / "b.xlsx", {"Parts": [["code", "note", "on"], ["007", None, date(2024, 5, 1)]], "None": [["NA"]]})
    (folder / "prices.csv").write_bytes(b"\xef\xbb\xbfdoor;price;\noak;1,50;x\n\npine;;\n")
    (folder / "faq.csv").write_text('ID,Title,Text,year\nq7,Hours,"Nine,\nto five",1999\n')
    (folder / "rows.jsonl").write_text('{"_id": 1, "text": "one", "year": 2001}\n')
    (folder / ".hidden.txt").write_text("not read")
    (folder / "~$contract.docx").write_bytes(b"a lock of Word")
    return {document.id: document for document in read_documents(folder)}


def test_every_file_is_a_document_called_after_its_place_and_every_row_after_its_file(
    whole: dict[str, Document],
) -> None:
    assert list(whole) == [
        *("b.xlsx", "bom.md", "contract.docx", "deck.pptx", "deep.html", "faq.csv#q7", "leave/policy.pdf"),
        *("no-printing.pdf", "note.txt", "old.htm", "page.html", "prices.csv#2", "prices.csv#4", "rows.jsonl#1"),
    ]


@pytest.mark.parametrize(
    ("name", "title", "text"),
    [
        ("note.txt", "note", "Erste Zeile\r\nzweite 😀\r\n"),
        ("bom.md", "Marked", "# Marked\n\ntext"),
        ("page.html", "Opening hours", "# Hours\n\nNine to **five**."),
        ("old.htm", "old", "Türen"),
        ("deep.html", "deep", "at the bottom"),
        ("no-printing.pdf", "no printing", "Read me."),
        ("contract.docx", "The contract", "# The contract\n\nSigned in May."),
        ("deck.pptx", "Plan", "# Plan\nBuild it\n\n# Risk\nIt rains"),
        ("b.xlsx", "b", "## Parts\n| code | note | on |\n| 007 |  | 2024-05-01 |\n\n## None\n| NA |"),
        ("prices.csv#2", "", "door: oak\nprice: 1,50\ncolumn 3: x"),
        ("prices.csv#4", "", "door: pine"),
        ("faq.csv#q7", "Hours", "Nine,\nto five"),
    ],
)
def test_what_is_written_in_a_file_is_what_its_document_says(
    whole: dict[str, Document], name: str, title: str, text: str
) -> None:
    assert (whole[name].title, whole[name].text) == (title, text)


def test_other_columns_of_a_row_are_its_metadata(whole: dict[str, Document]) -> None:
    assert whole["faq.csv#q7"].meta == {"year": "1999"}
    assert whole["rows.jsonl#1"].meta == {"year": 2001}


def test_pages_slides_and_sheets_are_pages(whole: dict[str, Document]) -> None:
    pdf, deck, book = whole["leave/policy.pdf"], whole["deck.pptx"], whole["b.xlsx"]

    assert [pdf.page(n).text.strip() for n in (1, 2, 3)] == ["Thirty days.", "", "Forty after ten years."]
    assert pdf.cut(pdf.text.index("Forty"), len(pdf.text)).page == 3
    assert deck.page(2).text == "# Risk\nIt rains"
    assert book.page(2).text == "## None\n| NA |"


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader(Limits()) as reader:
        yield reader


@settings(max_examples=60)
@given(
    text=st.text(
        st.sampled_from("aZ é ß ж 中 日 한 ا ע ४ ก 😀 👩\u200d🚀 \u0301 \r \n \r\n \t \x0c \x85 \u2028")
    ).filter(str.strip)
)
def test_plain_text_comes_back_exactly(reader: Reader, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "exact.txt"
    file.write_bytes(text.encode())

    (document,) = reader.read(file)

    assert document.text == text


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reading, list[Document]]:
    """A folder of broken files and one that is whole, read."""
    folder = tmp_path_factory.mktemp("broken")
    make_pdf(folder / "good.pdf", "Whole.")
    lock_pdf(make_pdf(folder / "locked.pdf", "Secret."), password="secret")
    make_pdf(folder / "scan.pdf", "", "")
    (folder / "cut.pdf").write_bytes((folder / "good.pdf").read_bytes()[:100])
    for name in ("junk.pdf", "junk.docx", "junk.pptx", "junk.xlsx"):
        (folder / name).write_bytes(bytes(range(256)) * 8)
    (folder / "cut.docx").write_bytes(make_docx(folder / "part.docx", "Half", ["a file"]).read_bytes()[:500])
    (folder / "part.docx").unlink()
    (folder / "locked.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4096))
    make_bomb(folder / "bomb.docx")
    (folder / "empty.txt").write_text("")
    (folder / "blank.md").write_text(" \r\n\n")
    (folder / "latin.txt").write_bytes("gut\nschön".encode("latin-1"))
    (folder / "wide.txt").write_bytes("wide".encode("utf-16-le"))
    make_hollow(folder / "huge.txt", 200 << 20)
    make_hollow(folder / "huge.jsonl", 200 << 20)
    (folder / "twice.jsonl").write_text('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n')
    (folder / "deep.jsonl").write_text('{"_id": "a", "text": ' + "[" * 100_000)
    (folder / "head.csv").write_text("a,b\n")
    (folder / "wide.csv").write_text("a,b\n1,2\n1,2,3\n")
    (folder / "names.csv").write_text("a,a\n1,2\n")
    (folder / "ids.csv").write_text("id,text\n1,x\n,y\n1,z\n")
    (folder / "latin.csv").write_bytes("a,b\nschön,x".encode("latin-1"))
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    reading = read_documents(folder)
    return folder, reading, list(reading)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("locked.pdf", "is encrypted: save it without a password"),
        ("scan.pdf", "no page holds text: if it is a scan, run text recognition on it"),
        ("cut.pdf", "is no .pdf file that can be read"),
        ("junk.pdf", "is no .pdf file that can be read"),
        ("junk.docx", "is no .docx file that can be read"),
        ("junk.pptx", "is no .pptx file that can be read"),
        ("junk.xlsx", "is no .xlsx file that can be read"),
        ("cut.docx", "is no .docx file that can be read"),
        ("locked.docx", "is encrypted, or of an older Office: save it as .docx without a password"),
        ("bomb.docx", "unpacks to 1,088 MB, more than 1,024 MB"),
        ("empty.txt", "is empty"),
        ("blank.md", "holds no text"),
        ("latin.txt:2", "not UTF-8"),
        ("wide.txt:1", "holds a null byte"),
        ("huge.txt", "holds more than 20,000,000 characters: split it"),
        ("huge.jsonl:1", "longer than 64 MB"),
        ("twice.jsonl:2", "document 'a' is already on line 1"),
        ("deep.jsonl:1", "cannot be read as JSON"),
        ("head.csv", "has no rows below its header"),
        ("wide.csv", "row 3: 3 cells below 2 columns: put quotes round a cell that holds the separator"),
        ("names.csv", "two columns are called 'a'"),
        ("ids.csv", "row 3: has no id"),
        ("ids.csv", "row 4: document '1' is already on row 2"),
        ("latin.csv", "not UTF-8"),
        ("gone.txt", "cannot be read: No such file"),
    ],
)
def test_a_broken_file_is_skipped_with_a_sentence(
    broken: tuple[Path, Reading, list[Document]], name: str, says: str
) -> None:
    folder, reading, _ = broken

    assert any(line.startswith(f"{folder / name}: {says}") for skip in reading.skipped for line in skip.split("\n"))


def test_what_is_whole_is_read_among_broken_files_and_nothing_of_those(
    broken: tuple[Path, Reading, list[Document]],
) -> None:
    folder, reading, documents = broken

    assert [document.id for document in documents] == ["good.pdf"]
    assert len(reading.skipped) == len(list(folder.iterdir())) - 1


def test_a_file_that_takes_too_long_is_left_and_the_next_one_read(tmp_path: Path) -> None:
    slow = make_pdf(tmp_path / "slow.pdf", *SLOW, times=20_000)
    (tmp_path / "next.txt").write_text("Next.")

    with Reader(Limits(seconds=5)) as reader:
        with pytest.raises(FileError, match=r"slow.pdf: took more than 5 s to read"):
            reader.read(slow)
        after = reader.read(tmp_path / "next.txt")

    assert [document.text for document in after] == ["Next."]


def test_a_file_that_eats_memory_is_left_and_the_next_one_read(tmp_path: Path) -> None:
    fat = make_hollow(tmp_path / "fat.txt", 200 << 20)
    (tmp_path / "next.txt").write_text("Next.")

    with Reader(Limits(memory_bytes=300 << 20, characters=10**9)) as reader:
        with pytest.raises(FileError, match=r"fat.txt: takes more memory to read than the 300 MB it may have"):
            reader.read(fat)
        after = reader.read(tmp_path / "next.txt")

    assert [document.text for document in after] == ["Next."]


def test_a_table_that_swells_is_left(tmp_path: Path) -> None:
    (tmp_path / "swells.csv").write_text("a" * 10_000 + ",b\n" + "1,2\n" * 1000)

    with (
        Reader(Limits(file_bytes=1 << 20)) as reader,
        pytest.raises(FileError, match=r"swells.csv: its documents come to more than 1 MB: split it"),
    ):
        reader.read(tmp_path / "swells.csv")


def test_a_file_that_kills_its_reader_is_left_and_the_next_one_read(tmp_path: Path) -> None:
    slow = make_pdf(tmp_path / "slow.pdf", *SLOW, times=20_000)
    (tmp_path / "next.txt").write_text("Next.")

    before = children()
    with Reader(Limits()) as reader:
        reader.read(tmp_path / "next.txt")
        (child,) = children() - before
        threading.Thread(target=kill_at_work, args=[child, computed(child)], daemon=True).start()
        with pytest.raises(FileError, match=r"slow.pdf: broke the program that reads it \(SIGSEGV\)"):
            reader.read(slow)
        after = reader.read(tmp_path / "next.txt")

    assert [document.text for document in after] == ["Next."]


def kill_at_work(child: int, computed_before: float) -> None:
    """As soon as it computes, which one that waits for a file does not."""
    until(lambda: computed(child) > computed_before + 0.1)
    os.kill(child, signal.SIGSEGV)


def test_whatever_is_in_a_file_it_is_read_or_refused_in_a_sentence(reader: Reader, tmp_path: Path) -> None:
    random = Random(0)
    whole = [
        make_pdf(tmp_path / "a.pdf", "Thirty days.", "Forty."),
        make_docx(tmp_path / "a.docx", "Heading", ["Text."]),
        make_pptx(tmp_path / "a.pptx", ("Title", "Text.")),
        make_xlsx(tmp_path / "a.xlsx", {"Sheet": [["a", 1]]}),
    ]

    said = [attempt(reader, damaged(file, random)) for file in whole for _ in range(25)]

    assert [
        line for line in said if line and not re.search(r": (is no|no page|holds no|unpacks|took|takes) ", line)
    ] == []
    assert len(set(said)) > 5
    assert [len(reader.read(file)) for file in whole] == [1, 1, 1, 1]


def damaged(file: Path, random: Random) -> Path:
    """A copy with some bytes changed and some lost."""
    content = bytearray(file.read_bytes())
    for _ in range(random.choice([1, 5, 50])):
        place = random.randrange(len(content))
        content[place : place + random.choice([1, 1, 100])] = [random.randrange(256)]
    copy = file.with_stem("damaged")
    copy.write_bytes(content)
    return copy


def attempt(reader: Reader, file: Path) -> str:
    """What is said of the file; empty when it could be read."""
    try:
        reader.read(file)
    except FileError as error:
        return str(error)
    return ""


def test_a_child_whose_program_is_killed_ends_with_its_time(tmp_path: Path) -> None:
    slow = make_pdf(tmp_path / "slow.pdf", *SLOW, times=20_000)
    (tmp_path / "next.txt").write_text("Next.")
    code = (
        "from retrieval.reader import *; reader = Reader(Limits(seconds=5)); first, second = map(Path, sys.argv[1:]); "
        "reader.read(first); print('reading', flush=True); reader.read(second)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "next.txt"), str(slow)]
    program = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert program.stdout
    program.stdout.readline()
    (child,) = children(program.pid)
    before = computed(child)
    until(lambda: computed(child) > before + 0.1)

    program.kill()
    program.communicate()

    until(lambda: not is_running(child))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_child_outlives_its_reader(tmp_path: Path) -> None:
    (tmp_path / "next.txt").write_text("Next.")
    before = children()
    documents = read_documents(tmp_path)
    next(documents)
    during = children()

    del documents

    assert len(during - before) == 1
    assert not children() - before


def children(program: int | None = None) -> set[int]:
    """The readers that this program, or another, has started and that live."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == (program or os.getpid()) and b"retrieval.reader" in (place / "cmdline").read_bytes():
                found.add(int(place.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://localhost:9')",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
    ],
)
def test_a_reader_reaches_no_network_and_starts_no_program(attempt: str) -> None:
    code = f"from retrieval.reader import confine; confine(2 << 30); {attempt}"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert said.returncode == 1
    assert "a document may not reach beyond its file" in said.stderr


def test_what_a_file_points_to_is_not_fetched(tmp_path: Path) -> None:
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / "a.html").write_text(f'<link rel=stylesheet href="{url}/css"><p>Text.<img src="{url}/picture">')
    link = f'Type="{OPEN}/officeDocument/2006/relationships/image" Target="{url}/docx" TargetMode="External"'
    relations = (
        f'<Relationships xmlns="{OPEN}/package/2006/relationships"><Relationship Id="p" {link}/></Relationships>'
    )
    picture = (
        f'Text.</w:t></w:r><w:r><w:drawing xmlns:a="{OPEN}/drawingml/2006/main" '
        f'xmlns:wp="{OPEN}/drawingml/2006/wordprocessingDrawing" xmlns:r="{OPEN}/officeDocument/2006/relationships" '
        f'xmlns:pic="{OPEN}/drawingml/2006/picture"><wp:inline><a:graphic><a:graphicData><pic:pic><pic:blipFill>'
        '<a:blip r:link="p"/></pic:blipFill></pic:pic></a:graphicData></a:graphic></wp:inline></w:drawing>'
        "</w:r><w:r><w:t>"
    )
    make_docx(tmp_path / "b.docx", "Linked", [picture], {"word/_rels/document.xml.rels": relations})

    found = read_documents(tmp_path)
    texts = [document.text for document in found]
    server.shutdown()

    assert (asked, len(texts), list(found.skipped)) == ([], 2, [])
