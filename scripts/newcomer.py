"""What a newcomer has: a folder of PDFs and a CSV of questions about them, and the five commands to a verdict.

The PDFs state what the demo's generator makes up, since the embedded model reads little else; the way is everybody's.
    python -m scripts.newcomer out/own --run
"""

import csv
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

from retrieval.console import Parser
from scripts.pocket.world import Question, World, make_world

MODEL: Final = "scripts/pocket/model"
FILES: Final = 20
QUESTIONS: Final = {"fact": 150, "code": 30, "clash": 30, "updated": 40, "paraphrase": 16, "unanswerable": 34}
"""How many of each slice; those over two pages are left out, since they would tie PDFs together."""
WIDTH: Final = 90
"""Characters of a printed line."""


def write_files(folder: Path, seed: int) -> None:
    """`docs/*.pdf` and `questions.csv`."""
    random = Random(f"newcomer-{seed}")
    world = make_world(random, entries=130, topics=range(16))
    shelves = [world.documents[start::FILES] for start in range(FILES)]
    places = {}
    (folder / "docs").mkdir(parents=True)
    for number, pages in enumerate(shelves, start=1):
        name = f"register-{number:02d}.pdf"
        (folder / "docs" / name).write_bytes(pdf([f"{page.title}\n{page.text}" for page in pages]))
        places |= {page.id: (name, str(place)) for place, page in enumerate(pages, start=1)}
    with (folder / "questions.csv").open("w", encoding="utf-8", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(("question", "answer", "evidence", "page", "cluster", "unanswerable", "slice"))
        sheet.writerows(_rows(world, random, places))


def pdf(pages: Sequence[str]) -> bytes:
    """The texts, each on a page, as the smallest PDF that readers take."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>", font]
    for n, text in enumerate(pages):
        lines = [line for part in text.splitlines() for line in textwrap.wrap(part, WIDTH)]
        shown = " T* ".join(f"({line.translate(ESCAPED)}) Tj" for line in lines)
        drawn = f"BT /F 11 Tf 14 TL 50 780 Td {shown} ET"
        page = "/Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F 3 0 R >> >>"
        objects += [
            f"<< {page} /Contents {5 + 2 * n} 0 R >>",
            f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
        ]
    return assembled(objects)


def assembled(objects: Sequence[str]) -> bytes:
    """A PDF file of these objects, the first of which is its catalogue."""
    file, starts = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        starts.append(len(file))
        file += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{start:010d} 00000 n \n" for start in starts)
    size = len(objects) + 1
    end = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(file)}\n%%EOF\n"
    return f"{file}xref\n0 {size}\n0000000000 65535 f \n{table}{end}".encode("latin-1")


ESCAPED: Final = str.maketrans({"(": r"\(", ")": r"\)", "\\": r"\\"})


def commands(folder: Path, name: str) -> tuple[str, ...]:
    """What is typed at the repository's root, from nothing to a verdict; the sixth line confirms it."""
    project, run = folder / name, Path("out", name)
    return (
        f"python -m eval init {project} --docs {folder}/docs --questions {folder}/questions.csv --model {MODEL}",
        f"python -m retrieval build {folder}/docs out/index/{name}",
        f"python -m scripts.make_sft {project}/sft.yaml",
        f"accelerate launch train/lora.py --config {project}/recipe.yaml",
        f"python -m eval run {project}/grid.yaml --out {run}",
        f"python -m eval confirm {run}",
    )


def _rows(world: World, random: Random, places: dict[str, tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    for slice_, count in QUESTIONS.items():
        pool = [one for one in world.questions if one.slice == slice_]
        for one in random.sample(pool, count):
            yield _row(one, places)


def _row(one: Question, places: dict[str, tuple[str, str]]) -> tuple[str, ...]:
    document, page = places[one.evidence[0]] if one.evidence else ("", "")
    # Each page is an entry of its own: with the PDF as the cluster, the few of a split could show no gain whatever.
    cluster = f"{document} p{page}" if document else ""
    return one.text, one.answer, document, page, cluster, "" if one.answer else "yes", one.slice


def main() -> int:
    parser = Parser(
        description="Write 20 PDFs and 300 questions in a CSV, as a newcomer may have them.",
        epilog="example: python -m scripts.newcomer out/own --run",
    )
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--seed", type=int, default=0, help="another seed has other documents (default: 0)")
    parser.add_argument("--run", action="store_true", help="also type the commands, minutes on two cores")
    options = parser.parse_args()
    if options.folder.exists():
        print(f"{options.folder}: is there already; choose a new folder", file=sys.stderr)
        return 1
    write_files(options.folder, options.seed)
    print(f"wrote {FILES} PDFs and {sum(QUESTIONS.values())} questions to {options.folder}")
    name = f"newcomer-{options.seed}" if options.seed else "newcomer"
    for line in commands(options.folder, name):
        print(f"$ {line}", flush=True)
        if options.run:
            started = time.perf_counter()
            subprocess.run([Path(sys.executable).parent / shlex.split(line)[0], *shlex.split(line)[1:]], check=True)
            print(f"({time.perf_counter() - started:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
