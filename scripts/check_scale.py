"""A run of a million answers that nobody gave: its memory from first to last, how fast it writes, whether it opens.

    python -m scripts.check_scale                                  # 1,000,000 questions, one combination
    python -m scripts.check_scale --questions 250000 --cells 4     # as many answers to fewer questions
    python -m scripts.check_scale --questions 10000 --json out/scale/runs.json --out out/scale/run

`python -m eval run` is the real program, the engine is `scripts.bench_stub`: over HTTP, at once, and right by lot. The
memory of the asking is a line through what was seen every second while the last half of the answers came, and its
slope the bytes that an answer leaves there. At the last record the run is killed, and `python -m eval report` makes the
report, which is opened in Chromium where that is installed. The same command with the same --out goes on with a run
that was cut short. With --json FILE, the figures are added to those that FILE has.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from eval.browse import FOLDER
from retrieval.console import Parser
from scripts.bench_stub import MODEL
from scripts.browser import chromium
from scripts.scale_measures import keep, told
from scripts.serving import computed, resident

MIB: Final = 1 << 20
EVERY: Final = 1.0
"""Seconds from one look at the run to the next, once it has asked for a while."""
ABOUT: Final = (
    "In the ledger of house {number}, under the name of its owner, stands how many sheep were sold last year?"
)


@dataclass(frozen=True, slots=True)
class Look:
    """The program at one moment."""

    seconds: float
    mib: float
    """Memory that its process has."""
    processor: float
    """Seconds that it has computed."""
    records: int
    """Lines that the file of records has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """`python -m eval run`, from its start to the last record."""

    questions: int
    cells: int
    answers: int
    """That were given while anybody looked: all but the first, or what was missing of a run that was cut short."""
    before_s: float
    """Until the first record: the test set is read and checked, and the folder made ready."""
    asking_s: float
    rate: float
    """Records written in a second of asking."""
    processor_s: float
    """That the run itself computed meanwhile, whatever else the machine had to do."""
    start_mib: float
    """Memory at the first record, in the middle and at the last."""
    middle_mib: float
    end_mib: float
    bytes_an_answer: float
    """What an answer leaves in memory while others are asked."""
    records_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`python -m eval report` on what it asked, and the page in a browser."""

    questions: int
    cells: int
    answers: int
    seconds: float
    processor_s: float
    most_mib: float
    """The most memory that it had."""
    folder_mib: float
    page_mib: float
    """Of what the page loads at once."""
    opens_s: float | None
    """In a browser, until the table of answers is there; None where there is no Chromium."""


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        for course in check(options.questions, options.cells, options.out or Path(scratch)):
            print(_sentence(course), flush=True)
            if options.json:
                keep(options.json, told(type(course).__name__.lower(), asdict(course)))
    return 0


def check(questions: int, cells: int, folder: Path) -> Iterator[Asking | Report]:
    """Ask what is missing, in a folder that may be gone on with; then report, and open the page."""
    home = folder / "run"
    with _engine() as url:
        grid = write_world(folder / "world", url, questions, cells)
        looks = _watch(["run", str(grid), "--out", str(home)], home, until=questions * cells)
        yield _asking(questions, cells, looks, home)
    yield _report(questions, cells, _watch(["report", str(home)], home), home)


def write_world(folder: Path, url: str, questions: int, cells: int) -> Path:
    """A task of so many questions, as many strategies as cells, and a grid over both; the grid's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "test.jsonl").open("w", encoding="utf-8") as file:
        for number in range(questions):
            row = {"id": f"q{number}", "question": ABOUT.format(number=number), "answers": [str(number)]}
            file.write(json.dumps(row | {"meta": {"slice": f"district {number % 7}"}}) + "\n")
    ways = [f"way{number}" for number in range(cells)]
    files = {
        "task": {
            "name": "a run that nobody answered",
            "examples": "test.jsonl",
            "primary": "lot",
            # The stub says what time it is in nanoseconds: half of the answers end in a low digit.
            "scorers": {"lot": {"kind": "regex", "pattern": r"\d+[0-4]"}},
        },
        "stack": {
            "model": MODEL,
            "url": url,
            "strategies": {way: {"kind": "instructed", "instructions": f"Answer by {way}."} for way in ways},
            "sampling": {"max_tokens": 16},
        },
        "grid": {
            "stack": "stack.yaml",
            "task": "task.yaml",
            "adapters": ["base"],
            "retrievers": ["none"],
            "strategies": ways,
            "baseline": f"base:none:{ways[0]}",
            "concurrency": 64,
        },
    }
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "grid.yaml"


@contextmanager
def _engine() -> Iterator[str]:
    """The stub in a process of its own; its URL."""
    command = [sys.executable, "-m", "scripts.bench_stub"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def _watch(command: Sequence[str], folder: Path, until: int = sys.maxsize) -> list[Look]:
    """What was seen of the program, up to its end, or to so many records: then it is killed, as anything may be."""
    looks: list[Look] = []
    began, counted = time.monotonic(), _Lines(folder / "records.jsonl")
    words = [sys.executable, "-m", "eval", *command]
    with tempfile.TemporaryFile() as said, subprocess.Popen(words, stdout=said, stderr=said) as process:
        try:
            while process.poll() is None and (not looks or looks[-1].records < until):
                looks.append(
                    Look(time.monotonic() - began, resident(process.pid), computed(process.pid), counted.now())
                )
                asking = next((looks[-1].seconds - one.seconds for one in looks if one.records), 0.0)
                time.sleep(min(EVERY, max(0.02, asking / 20)))
        finally:
            process.kill()
        if process.wait() > 0:
            said.seek(0)
            raise SystemExit(f"python -m eval {' '.join(command)} failed:\n{said.read().decode()[-3000:]}")
    return looks


class _Lines:
    """The lines of a file that grows, each read once."""

    def __init__(self, file: Path) -> None:
        self._file, self._read, self._count = file, 0, 0

    def now(self) -> int:
        if self._file.exists():
            with self._file.open("rb") as file:
                file.seek(self._read)
                while part := file.read(MIB):
                    self._read += len(part)
                    self._count += part.count(b"\n")
        return self._count


def _asking(questions: int, cells: int, looks: Sequence[Look], folder: Path) -> Asking:
    asking = [after for before, after in pairwise(looks) if after.records > max(before.records, looks[0].records)]
    if len(asking) < 10:
        raise SystemExit(f"{questions} questions were asked before anybody could look: take more, or another --out")
    first, last = asking[0], asking[-1]
    answers, seconds = last.records - first.records, last.seconds - first.seconds
    late = [one for one in asking if one.records > first.records + answers / 2]
    slope, _ = np.polyfit([one.records for one in late], [one.mib * MIB for one in late], 1)
    return Asking(
        questions=questions,
        cells=cells,
        answers=answers,
        before_s=first.seconds,
        asking_s=seconds,
        rate=answers / seconds,
        processor_s=last.processor - first.processor,
        start_mib=first.mib,
        middle_mib=late[0].mib,
        end_mib=last.mib,
        bytes_an_answer=float(slope),
        records_mib=_mib([folder / "records.jsonl"]),
    )


def _report(questions: int, cells: int, looks: Sequence[Look], folder: Path) -> Report:
    data = folder / FOLDER
    return Report(
        questions=questions,
        cells=cells,
        answers=looks[-1].records,
        seconds=looks[-1].seconds,
        processor_s=looks[-1].processor,
        most_mib=max(one.mib for one in looks),
        folder_mib=_mib(file for file in folder.rglob("*") if file.is_file()),
        page_mib=_mib([folder / "report.html", *data.glob("table-*"), *data.glob("index-*")]),
        opens_s=_opens(folder / "report.html"),
    )


def _mib(files: Iterable[Path]) -> float:
    return sum(file.stat().st_size for file in files) / MIB


def _opens(report: Path) -> float | None:
    """Seconds until the page and its table are there."""
    with chromium() as browser:
        if browser is None:
            return None
        page = browser.new_page()
        began = time.monotonic()
        page.goto(report.resolve().as_uri(), timeout=120_000)
        page.wait_for_selector("#body .row", timeout=120_000)
        return time.monotonic() - began


def _sentence(one: Asking | Report) -> str:
    of = f"{one.answers:,} answers ({one.questions:,} questions, {one.cells} combinations)"
    if isinstance(one, Asking):
        each = f"{1000 * one.processor_s / one.answers:.2f} ms of the processor for each"
        return (
            f"{of}: ready after {one.before_s:.0f} s, asked in {one.asking_s:.0f} s, {one.rate:.0f} records a second, "
            f"{each}, {one.records_mib:,.0f} MiB of them. Memory: {one.start_mib:.0f} MiB at the first record, "
            f"{one.middle_mib:.0f} in the middle, {one.end_mib:.0f} at the last; in the last half "
            f"{one.bytes_an_answer:.0f} bytes more for each answer."
        )
    opens = "was not opened: no Chromium here" if one.opens_s is None else f"opens in {one.opens_s:.1f} s"
    return (
        f"{of}: report in {one.seconds:.0f} s ({one.processor_s:.0f} s of the processor), {one.most_mib:,.0f} MiB at "
        f"most; the folder has {one.folder_mib:,.0f} MiB, the page loads {one.page_mib:.1f} MiB and {opens}."
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1_000_000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--cells", type=int, default=1, metavar="N", help="combinations (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep world and run here (default: nowhere)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the figures to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
