"""How fast a report is written and how fast it is to use, at the size of a large run, in a real browser.

    python -m scripts.bench_report                                    # 3,000 questions, 48 combinations
    python -m scripts.bench_report --questions 500 --out out/large    # a smaller one, which stays

The run is `scripts.large_run`, made up. What a person does (bench_report.js) is timed in the page, until the frame
after it or until the answer stands there. Work is the processor time of the page's thread a turn, its preparation
included: other programs beside it lengthen the times, but not the work. Chromium must be installed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import CDPSession
from rich.console import Console
from rich.table import Table

from eval.analysis import analyse
from eval.blame import blame, look
from eval.browse import FOLDER
from eval.folder import Results
from eval.report import save
from retrieval.console import Parser
from retrieval.stats import quantile
from scripts.browser import NONE_HERE, chromium
from scripts.large_run import large_run

GOAL_MS: Final = 100
TURNS: Final = 20
HANDS: Final = Path(__file__).with_suffix(".js")
STEPS: Final = (
    "filter by words",
    "filter by answer",
    "choose a combination",
    "sort",
    "scroll far",
    "scroll sideways",
    "arrow keys",
    "open an answer",
    "follow a link",
    "next question",
    "another combination",
)
SCREENS: Final = {"desktop": (1440, 900), "phone": (390, 844)}
Told = list[tuple[str, str]]


def main(words: list[str] | None = None) -> None:
    options = _parser().parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        _show("Writing", _written(large_run(options.questions), folder))
        _show(f"In the browser, {TURNS} times each (goal: {GOAL_MS} ms)", _used(folder / "report.html"))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=3000, metavar="N", help="how many (default: 3000)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the report here (default: nowhere)")
    return parser


def _show(title: str, rows: Told) -> None:
    table = Table(title=title, show_header=False)
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)


def _timed(do: Callable[[], Any]) -> tuple[Any, str]:
    begin = time.perf_counter()
    made = do()
    return made, f"{time.perf_counter() - begin:.1f} s"


def _written(results: Results, folder: Path) -> Told:
    raw = sum(len(turn.content) for cell in results.records.values() for one in cell.values() for turn in one.prompt)
    _, judging = _timed(lambda: blame(look(results)))
    analysis, analysing = _timed(lambda: analyse(results))
    _, writing = _timed(lambda: save(analysis, folder))
    files = list((folder / FOLDER).iterdir())
    sizes = sorted(file.stat().st_size for file in files if file.name.startswith("answers"))
    index = next(file for file in files if file.name.startswith("index"))
    return [
        ("questions x combinations", f"{len(results.examples):,} x {len(results.records)}"),
        ("look and blame alone", judging),
        ("analyse", analysing),
        ("save", writing),
        ("prompts as they were sent", f"{raw / 1e6:,.0f} MB"),
        (FOLDER, f"{sum(file.stat().st_size for file in files) / 1e6:,.1f} MB in {len(files)} files"),
        ("its index", f"{index.stat().st_size / 1e6:.2f} MB"),
        ("largest file of answers", f"{sizes[-1] / 1e6:.2f} MB"),
        ("report.html", f"{(folder / 'report.html').stat().st_size / 1e6:.2f} MB"),
    ]


def _used(report: Path) -> Told:
    rows = []
    with chromium() as browser:
        if browser is None:
            sys.exit(NONE_HERE)
        for screen, (width, height) in SCREENS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            meter = page.context.new_cdp_session(page)
            meter.send("Performance.enable", {"timeDomain": "threadTicks"})
            begin = time.perf_counter()
            page.goto(report.as_uri())
            page.wait_for_selector("#body .row")
            rows.append((f"{screen}: page and table are there", f"{1000 * (time.perf_counter() - begin):.0f} ms"))
            for step in STEPS:
                before = _work_ms(meter)
                times = page.evaluate(f"(async () => {{ {HANDS.read_text()} return timed('{step}', {TURNS}) }})()")
                rows.append((f"{screen}: {step}", _told(times, (_work_ms(meter) - before) / TURNS)))
            page.close()
    return rows


def _work_ms(meter: CDPSession) -> float:
    """Of the page's thread, since it began."""
    told = meter.send("Performance.getMetrics")["metrics"]
    return 1000 * next(float(one["value"]) for one in told if one["name"] == "TaskDuration")


def _told(times: list[float], work: float) -> str:
    verdict = "" if max(times) < GOAL_MS else "   over the goal"
    return f"median {quantile(times, 0.5):5.0f} ms, slowest {max(times):5.0f} ms, work {work:4.0f} ms{verdict}"


if __name__ == "__main__":
    main()
