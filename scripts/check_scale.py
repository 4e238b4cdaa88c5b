"""A run of a million answers that nobody gave: its memory from first to last, how fast it writes, whether it opens.

    python -m scripts.check_scale                                  # 1,000,000 questions, one combination
    python -m scripts.check_scale --questions 250000 --cells 4     # as many answers to fewer questions
    python -m scripts.check_scale --questions 10000 --json out/scale/runs.json --out out/scale/run

`python -m eval run` is the real program, the engine is `scripts.bench_stub`: over HTTP, at once, and right by lot. The
memory of the asking is a line through what was seen every second while the last half of the answers came, and its
slope the bytes that an answer leaves there. Then the report is opened in Chromium, where that is installed. With --json
FILE, the figures are added to those that FILE has.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from eval.browse import FOLDER
from retrieval.console import Parser
from retrieval.files import write_atomically
from scripts.bench_stub import MODEL

MIB: Final = 1 << 20
EVERY: Final = 1.0
"""Seconds from one look at the run to the next, once it has asked for a while."""
ABOUT: Final = (
    "In the ledger of house {number}, under the name of its owner, stands how many sheep were sold last year?"
)


@dataclass(frozen=True, slots=True)
class Look:
    """The run at one moment."""

    seconds: float
    resident: int
    """Bytes of memory that its process has."""
    written: int
    """Bytes of records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a run took, from its start to its end."""

    questions: int
    cells: int
    answers: int
    records_mib: float
    before_s: float
    """Until the first record: the test set is read and checked, and the folder made ready."""
    asking_s: float
    after_s: float
    """From the last record to the end: the report."""
    rate: float
    """Records written in a second of asking."""
    start_mib: float
    """Memory at the first record, in the middle and at the last, and the most that there ever was."""
    middle_mib: float
    end_mib: float
    peak_mib: float
    bytes_an_answer: float
    """What an answer leaves in memory while others are asked."""
    folder_mib: float
    report_mib: float
    """Of what the report's page loads at once."""
    opens_s: float | None = None
    """In a browser, until the table of answers is there; None where there is no Chromium."""


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        course = check(options.questions, options.cells, options.out or Path(scratch) / "run")
    print(_sentences(course))
    if options.json:
        before = json.loads(options.json.read_text()) if options.json.exists() else []
        write_atomically(options.json, json.dumps([*before, asdict(course)], indent=1) + "\n")
    return 0


def check(questions: int, cells: int, folder: Path) -> Course:
    """Run it in a folder that is not there yet, and open its report."""
    with _engine() as url, tempfile.TemporaryDirectory() as world:
        grid = write_world(Path(world), url, questions, cells)
        looks, peak = _watch([sys.executable, "-m", "eval", "run", str(grid), "--out", str(folder)], folder)
    return _course(questions, cells, looks, peak, folder)


def write_world(folder: Path, url: str, questions: int, cells: int) -> Path:
    """A task of so many questions, as many strategies as cells, and a grid over both; the grid's path."""
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


def _watch(command: Sequence[str], folder: Path) -> tuple[list[Look], int]:
    """What was seen of the run, and the most memory that it had."""
    looks: list[Look] = []
    began, records, peak = time.monotonic(), folder / "records.jsonl", 0
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        while process.poll() is None:
            resident, peak = _memory(process.pid) or (0, peak)
            written = records.stat().st_size if records.exists() else 0
            looks.append(Look(time.monotonic() - began, resident, written))
            asking = next((looks[-1].seconds - one.seconds for one in looks if one.written), 0.0)
            time.sleep(min(EVERY, max(0.02, asking / 20)))
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"the run ended with {process.returncode}:\n{said.read().decode()[-3000:]}")
    return [*looks, Look(time.monotonic() - began, 0, records.stat().st_size)], peak


def _memory(pid: int) -> tuple[int, int] | None:
    """Bytes that a process has, and the most that it had; None once it is over."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return (_kib(told["VmRSS"]), _kib(told["VmHWM"])) if "VmRSS" in told else None


def _kib(told: str) -> int:
    return 1024 * int(told.split()[0])


def _course(questions: int, cells: int, looks: Sequence[Look], peak: int, folder: Path) -> Course:
    asking = [after for before, after in pairwise(looks) if after.written > before.written]
    if len(asking) < 10:
        raise SystemExit(f"{questions} questions were asked before anybody could look: take more")
    first, last, answers = asking[0], asking[-1], questions * cells
    late = [one for one in asking if one.written > last.written / 2 and one.resident]
    line = np.polyfit([answers * one.written / last.written for one in late], [one.resident for one in late], 1)
    report = [folder / "report.html", *(folder / FOLDER).glob("table-*"), *(folder / FOLDER).glob("index-*")]
    return Course(
        questions=questions,
        cells=cells,
        answers=answers,
        records_mib=last.written / MIB,
        before_s=first.seconds,
        asking_s=last.seconds - first.seconds,
        after_s=looks[-1].seconds - last.seconds,
        rate=answers * (1 - first.written / last.written) / (last.seconds - first.seconds),
        start_mib=first.resident / MIB,
        middle_mib=late[0].resident / MIB,
        end_mib=late[-1].resident / MIB,
        peak_mib=peak / MIB,
        bytes_an_answer=float(line[0]),
        folder_mib=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MIB,
        report_mib=sum(file.stat().st_size for file in report) / MIB,
        opens_s=_opens(folder / "report.html"),
    )


def _opens(report: Path) -> float | None:
    """Seconds until the page and its table are there."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        began = time.monotonic()
        page.goto(report.as_uri(), timeout=120_000)
        page.wait_for_selector("#body .row", timeout=120_000)
        seconds = time.monotonic() - began
        browser.close()
    return seconds


def _sentences(one: Course) -> str:
    opens = "not opened: no Chromium here" if one.opens_s is None else f"opens in {one.opens_s:.1f} s"
    return "\n".join(
        [
            f"{one.answers:,} answers: {one.questions:,} questions, {one.cells} combinations.",
            f"Ready after {one.before_s:.0f} s; asked in {one.asking_s:.0f} s: {one.rate:.0f} records a second, "
            f"{one.records_mib:,.0f} MiB of them.",
            f"Memory: {one.start_mib:.0f} MiB at the first record, {one.middle_mib:.0f} in the middle, "
            f"{one.end_mib:.0f} at the last; {one.bytes_an_answer:.0f} bytes more for each answer of the last half.",
            f"Report: {one.after_s:.0f} s, {one.peak_mib:,.0f} MiB at most; the folder has {one.folder_mib:,.0f} MiB, "
            f"the page loads {one.report_mib:.1f} MiB and {opens}.",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1_000_000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--cells", type=int, default=1, metavar="N", help="combinations (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the run here (default: nowhere)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the figures to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
