"""Measure what costs more with size, and write docs/scale.md: slopes, what they come to, and where each part bends.

    python -m scripts.check_scale --json docs/scale.json --questions 20000          # a run; once more with other sizes
    python -m scripts.scale --vectors 10000 100000 --asked out/demo                 # measures, and writes the page
    python -m scripts.scale --stack out/demo/world/stack.yaml --adapters 1 8 --processes 1 2
    python -m scripts.scale                                                         # the page alone

Every figure is a row of docs/scale.json, with the load of the machine at the time, or is marked as worked out from some
by the formula beside it. Knows nothing of how any part does its work.
"""

import argparse
import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import numpy as np

from eval.record import RunError
from retrieval.console import Parser
from retrieval.files import FileError, write_atomically
from retrieval.stats import quantile
from scripts import scale_measures
from scripts.bench_paths import BenchError
from scripts.bench_vectors import WIDTH
from scripts.scale_measures import PROMPTS, SEARCHES, STEP, TOKENS, USERS, Row, keep, rows_of
from serve.chat import ServeError
from serve.once import REMEMBERED
from serve.stack import Stack

DOCS: Final = Path(__file__).parents[1] / "docs"
FILE: Final = DOCS / "scale.json"
MILLION: Final = 1_000_000
ENGINES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BUSY: Final = (0.5, 0.7, 0.8, 0.9, 0.95)
CUSTOMERS: Final = 50_000


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is asked for, and write the page from all that was measured."""
    parser = Parser(
        description=__doc__.partition("\n\n")[0], epilog="example: python -m scripts.scale --asked out/demo"
    )
    parser.add_argument("--vectors", type=int, nargs="*", default=[], metavar="N", help="search among so many vectors")
    parser.add_argument("--asked", type=Path, metavar="RUN", help="a finished run of this machine, with its engine")
    parser.add_argument("--stack", type=Path, help="whose model and first adapter `--adapters` takes")
    parser.add_argument("--adapters", type=int, nargs="*", default=[], metavar="N", help="an engine with so many")
    parser.add_argument("--processes", type=int, nargs="*", default=[], metavar="N", help="train with so many")
    options = parser.parse_args(words)
    if options.adapters and not options.stack:
        parser.error("--adapters needs --stack STACK, whose first adapter it takes")
    try:
        for row in _measured(options):
            keep(FILE, row)
        rows = rows_of(FILE)
        write_atomically(DOCS / "scale.md", page(rows))
        if bends := _rack(rows):
            write_atomically(DOCS / "scale.svg", picture(*bends))
    except (BenchError, FileError, RunError, ServeError) as error:
        raise SystemExit(str(error)) from None
    print(f"docs/scale.md: from {len(rows)} measurements")


def _measured(options: argparse.Namespace) -> Iterator[Row]:
    yield from map(scale_measures.vectors, options.vectors)
    if options.adapters:
        stack = Stack.load(options.stack)
        yield from (scale_measures.adapters(stack, count) for count in options.adapters)
    yield from map(scale_measures.processes, options.processes)
    if options.asked:
        yield from scale_measures.asked(options.asked)


def waits(busy: float, engines: int, at_once: int, seed: int = 0) -> list[float]:
    """What customers wait before an answer begins, in mean times of an answer: a queue that many share.

    They come by chance (Poisson), an answer takes a time by chance (exponential, mean 1), each engine has `at_once`
    places, the first who came is served first by whichever place is free, and `busy` of all places are on average. It
    is M/M/c, whose mean wait is Erlang's C over the places that are not busy; the quantiles are simulated.
    """
    chance, now, found = Random(seed), 0.0, []
    free = [0.0] * (engines * at_once)
    for _ in range(CUSTOMERS):
        now += chance.expovariate(busy * len(free))
        begins = max(now, heapq.heappop(free))
        heapq.heappush(free, begins + chance.expovariate(1.0))
        found.append(begins - now)
    return found


def slope(rows: Sequence[Row], across: str, up: str) -> float | None:
    """How much more of one thing one more of another takes, by least squares; None of one size alone."""
    if len({row[across] for row in rows}) < 2:
        return None
    return float(np.polyfit([row[across] for row in rows], [row[up] for row in rows], 1)[0])


def page(rows: Sequence[Row]) -> str:
    """The whole of docs/scale.md."""
    parts = [HEAD.format(loads=_loads(rows)), _runs(rows), _searches(rows), _engines(rows)]
    parts += [_adapters(rows), _processes(rows)]
    return "\n\n".join([*filter(None, [*parts, _rack_told(rows), _service()]), BENDS, ""])


def _of(rows: Sequence[Row], what: str) -> list[Row]:
    return [row for row in rows if row["what"] == what]


def _loads(rows: Sequence[Row]) -> str:
    loads = [row["load"] for row in rows] or [0.0]
    return f"{min(loads):.0f} to {max(loads):.0f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    marks = " | ".join(["---", *["--:"] * (len(head) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, *lines)).replace("\n", f"\n| {marks} |\n", 1)


def _runs(rows: Sequence[Row]) -> str:
    asking, reports = (sorted(_of(rows, what), key=lambda row: int(row["answers"])) for what in ("asking", "report"))
    if not asking:
        return ""
    asked = _table(
        ("questions x combinations", "answers a second", "ms of processor each", "MiB first", "middle", "last"),
        [
            (
                f"{row['questions']:,} x {row['cells']}",
                f"{row['rate']:.0f}",
                f"{1000 * row['processor_s'] / row['answers']:.2f}",
                *(f"{row[name]:.0f}" for name in ("start_mib", "middle_mib", "end_mib")),
            )
            for row in asking
        ],
    )
    reported = _table(
        ("questions x combinations", "s", "of processor", "MiB at most", "folder MiB", "page MiB", "opens in s"),
        [
            (
                f"{row['questions']:,} x {row['cells']}{', of records copied from one' * row.get('copied', False)}",
                *(f"{row[name]:.0f}" for name in ("seconds", "processor_s", "most_mib", "folder_mib")),
                f"{row['page_mib']:.1f}",
                f"{row['opens_s']:.1f}" if row["opens_s"] else "",
            )
            for row in reports
        ],
    )
    return RUNS.format(asked=asked, flat=_flat(asking), reported=reported, slopes=_report_slopes(reports))


def _flat(rows: Sequence[Row]) -> str:
    """What is known of the time after."""
    full = [row for row in rows if row["answers"] >= 2 * REMEMBERED]
    if not full:
        return "No run here was long enough to show what comes after."
    row = max(full, key=lambda row: float(row["answers"]))
    more = round(row["bytes_an_answer"])
    return f"In the last half of {row['questions'] * row['cells']:,} answers it changed by {more} bytes an answer."


def _report_slopes(rows: Sequence[Row]) -> str:
    alone = [row for row in rows if row["cells"] == 1]
    seconds, mib = slope(alone, "answers", "processor_s"), slope(alone, "answers", "most_mib")
    if seconds is None or mib is None:
        return ""
    return (
        f"One more question of one combination: {1000 * seconds:.2f} ms of the processor and {mib * 1024:.1f} KiB of\n"
        f"memory, by least squares. Worked out (slope x size): ten million, {seconds * MILLION / 6:.0f} minutes of the "
        f"processor and {mib * MILLION * 10 / 1024:.0f} GiB."
    )


def _searches(rows: Sequence[Row]) -> str:
    lines = [
        (
            f"{row['rows']:,}",
            row["kind"],
            f"{row['build_s']:.2f}",
            f"{1e6 * row['build_processor_s'] / row['rows']:.1f}",
            f"{row['search_ms']:.2f}",
            f"{row['mib']:.0f}",
        )
        for row in _of(rows, "vectors")
    ]
    head = ("vectors", "kind", "build s", "us of processor each", "search ms, median", "MiB on disk")
    return VECTORS.format(width=WIDTH, searches=SEARCHES, table=_table(head, lines)) if lines else ""


def _engines(rows: Sequence[Row]) -> str:
    lines = [
        (
            f"`{row['adapter']}` of {row['run']}",
            f"{row['answers']:,}",
            *(f"{row[name]:.0f}" for name in ("tokens", "at_once")),
            f"{row['engine_ms']:.1f}",
        )
        for row in _of(rows, "engine")
    ]
    return ENGINE.format(table=_table(("adapter", "answers", "tokens", "at once", "ms each"), lines)) if lines else ""


def _adapters(rows: Sequence[Row]) -> str:
    mine = sorted(_of(rows, "adapters"), key=lambda row: int(row["adapters"]))
    names = ("adapters", "start_s", "tokens_per_second", "mib")
    lines = [[f"{row[name]:.0f}" for name in names] for row in mine]
    if (each := slope(mine, "adapters", "mib")) is None:
        return ""
    table = _table(("adapters", "start s", "tokens/s", "MiB of memory"), lines)
    return ADAPTERS.format(prompts=PROMPTS, users=USERS, tokens=TOKENS, table=table, each=each)


def _processes(rows: Sequence[Row]) -> str:
    mine = sorted(_of(rows, "processes"), key=lambda row: int(row["processes"]))
    if not mine:
        return ""
    one = mine[0]["tokens_per_second"] / mine[0]["processes"]
    lines = [
        (
            f"{row['processes']}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['tokens_per_second'] / one / row['processes']:.0%}",
            f"{row['seconds']:.0f}",
            f"{row['peak_gib']:.1f}",
        )
        for row in mine
    ]
    head = ("processes", "tokens/s", "of as many times one", "s", "GiB of the first")
    return PROCESSES.format(step=STEP, table=_table(head, lines))


def _rack(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Answers a second of one engine, and of one `eval run` that has a processor for itself."""
    engines, asking = _of(rows, "engine"), _of(rows, "asking")
    if not engines or not asking:
        return None
    run = max(asking, key=lambda row: float(row["answers"]))
    return 1000 / float(np.mean([row["engine_ms"] for row in engines])), run["answers"] / run["processor_s"]


def _rack_told(rows: Sequence[Row]) -> str:
    if not (found := _rack(rows)):
        return ""
    engine, client = found
    lines = [
        (f"{n}", f"{min(n * engine, client):,.0f}", f"{5 * MILLION / min(n * engine, client) / 3600:.1f}")
        for n in ENGINES
    ]
    table = _table(("engines", "answers a second", "hours for 100,000 questions x 50 combinations"), lines)
    return RACK.format(engine=engine, client=client, bend=client / engine, table=table)


def _service() -> str:
    lines = []
    for engines in (1, 4, 16):
        for busy in BUSY:
            found = waits(busy, engines, 16)
            shares = (quantile(found, share) for share in (0.5, 0.95, 0.99))
            lines.append((f"{engines}", f"{busy:.0%}", *(f"{one:.2f}" for one in shares)))
    return SERVICE.format(table=_table(("engines", "busy", "median", "95 %", "99 %"), lines), n=CUSTOMERS)


def picture(engine: float, client: float) -> str:
    """Answers a second over engines: one run, and were it none that limits."""
    import altair as alt
    import vl_convert

    points = [
        {"engines": n, "answers": value, "what": what}
        for n in ENGINES
        for what, value in (("one eval run", min(n * engine, client)), ("the engines alone", n * engine))
    ]
    chart = (
        alt.Chart(alt.InlineData(values=points))
        .mark_line(point=True)
        .encode(
            x=alt.X("engines:Q", title="engines as fast as the one measured", scale=alt.Scale(type="log", base=2)),
            y=alt.Y("answers:Q", title="answers a second (worked out)", scale=alt.Scale(type="log")),
            strokeDash=alt.StrokeDash("what:N", title=None, legend=alt.Legend(orient="top")),
        )
        .properties(width=640, height=280, background="white")
    )
    return str(vl_convert.vegalite_to_svg(chart.to_dict())) + "\n"


HEAD: Final = """\
# How far it goes

Made by `python -m scripts.scale` from [scale.json](scale.json), which has every measurement. The machine: two
processors, 23 GB, no GPU; its load was {loads} after these, their own work included. What is worked out, not measured,
says so."""
RUNS: Final = """\
## A run: questions and combinations

`python -m scripts.check_scale`: the real `eval run` against a stub that answers at once, over HTTP; concurrency 64.

{asked}

While it asks, a run remembers the last 10,000 replies, so that nothing is asked twice: memory grows until there are as
many. {flat} Then the report, which holds every answer:

{reported}

{slopes}"""
VECTORS: Final = """\
## An index: passages

Made-up vectors, {width} wide, in the kind that `retrieval build` chooses for their number; {searches} questions, one at
a time. Embedding the texts costs more than all of this: `python -m scripts.bench_retrieval embedding`.

{table}"""
ENGINE: Final = """\
## An engine

Seconds that an answer waited for its calls, over the calls in flight meanwhile, in a run of the pocket model on this
machine, whose load then nobody noted: what the engine spent on it. Adapters that were asked in different ways differ by
more than an adapter.

{table}"""
ADAPTERS: Final = """\
## Adapters in one engine

The pocket model with copies of one adapter under other names, {prompts} prompts, {users} at once, each for the next
adapter in turn, answers of {tokens} tokens: a batch holds them all.

{table}

One more: {each:.1f} MiB, by least squares. What an adapter costs against none: `python -m scripts.bench_lora`."""
PROCESSES: Final = """\
## Processes of a training

Random weights of 0.1 B, {step:,} tokens in a step whoever shares it, as many processors as processes, DDP over gloo.

{table}"""
RACK: Final = """\
## A rack, worked out

Engines as fast as the one above ({engine:.0f} answers a second), whose answers come to one `eval run`, which can write
{client:.0f} a second with a processor to itself: min(engines x {engine:.0f}, {client:.0f}). It bends at {bend:.0f}
engines. An engine that is k times slower moves the bend to k times as many. That several engines are as many times as
fast as one is assumed.

![answers a second over engines](scale.svg)

{table}"""
SERVICE: Final = """\
## A service, simulated

Assumed: customers come by chance, an answer takes a time by chance (exponential), an engine has 16 places, all engines
share one line, no answer slows down another, nobody gives up. {n:,} customers each. What they wait before their answer
begins, in mean times of an answer:

{table}

Real answers are more alike than exponential ones, which makes waits shorter, and come in bursts, which makes them
longer. More engines behind one line may be busier for the same wait: that is what a shared line buys."""
BENDS: Final = """\
## What bends first

| part | bends | then |
| --- | --- | --- |
| asking | the one process that asks: at the answers a second above | make parts of the grid grids of their own |
| a run's memory | a report, and a run that goes on, hold every answer | make parts of the grid grids of their own |
| the table of answers | 100,000 questions | it has that many, drawn by lot, and says so; records.jsonl has all |
| index | above 500,000 passages it is searched in groups, whose centres take the time | build once, add little |
| adapters | on the CPU each in a batch is a pass of its own | a run asks one after the other; a service cannot |
| a service | waits grow without end as engines come near to busy all the time | another engine behind the same line |

Not measured here: engines on GPUs, several machines, a network between them."""


if __name__ == "__main__":
    main()
