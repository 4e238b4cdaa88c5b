"""What a gateway adds: figures of one run each, set against the direct way in the same repeat, and laid out as tables.

Pure: knows nothing of how anything is measured. A row is {"contestant", "step", "repeat", figures ...}.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from rich.table import Table

from scripts.bench_tables import Row, spread

DIRECT: Final = "direct"
OURS: Final = "fulcrum"
PEER: Final = "litellm"
SHARES: Final = (50, 95, 99)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` percent of them do not exceed (nearest rank): one that was measured.

    >>> percentile([3.0, 1.0, 2.0, 4.0], 50), percentile([3.0, 1.0, 2.0, 4.0], 99), percentile([7.0], 50)
    (2.0, 4.0, 7.0)
    """
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * share // 100) - 1)] if ranked else float("nan")


def percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    """
    >>> percentiles("first_ms", [1.0, 2.0])
    {'first_ms_p50': 1.0, 'first_ms_p95': 2.0, 'first_ms_p99': 2.0}
    """
    return {f"{name}_p{share}": percentile(values, share) for share in SHARES}


def added(rows: Sequence[Row], figure: str, contestant: str) -> list[float]:
    """A figure of this way minus the same of the direct way, repeat by repeat; repeats without both are left out.

    >>> direct = [{"contestant": "direct", "repeat": n, "ms": 1.0 + n} for n in range(2)]
    >>> added([*direct, {"contestant": "fulcrum", "repeat": 1, "ms": 5.0}], "ms", "fulcrum")
    [3.0]
    """
    bare = {row["repeat"]: row[figure] for row in rows if row["contestant"] == DIRECT and figure in row}
    return [
        row[figure] - bare[row["repeat"]]
        for row in rows
        if row["contestant"] == contestant and figure in row and row["repeat"] in bare
    ]


def measured(rows: Sequence[Row], figure: str, contestant: str) -> list[float]:
    return [row[figure] for row in rows if row["contestant"] == contestant and figure in row]


Lines = Mapping[str, tuple[str, int, bool]]
"""What a line is called -> the figure, its digits, and whether the direct way's is taken off."""

STREAMS: Final[Lines] = {
    **{f"added to the first token, p{share}, ms": (f"first_ms_p{share}", 2, True) for share in SHARES},
    **{f"added to a piece, p{share}, ms": (f"way_ms_p{share}", 2, True) for share in SHARES},
    "on the way direct, or in all, p50, ms": ("way_ms_p50", 2, False),
    "the same, p99": ("way_ms_p99", 2, False),
    "CPU seconds for 1,000 pieces": ("cpu_per_1000", 3, False),
    "share of a core": ("cpu_share", 2, False),
    "client's share of a core": ("client_cpu", 2, False),
    "memory, MiB": ("memory_mib", 0, False),
    "streams that failed": ("failures", 0, False),
}
SATURATE: Final[Lines] = {
    "requests a second": ("per_second", 0, False),
    "p50, ms": ("took_ms_p50", 2, False),
    "p99, ms": ("took_ms_p99", 2, False),
    "CPU ms for a request": ("cpu_ms_per_request", 3, False),
    "client's share of a core": ("client_cpu", 2, False),
    "requests that failed": ("failures", 0, False),
}
OVERLOAD: Final[Lines] = {
    "peak, answers a second": ("peak", 1, False),
    "goodput, answers a second": ("goodput", 1, False),
    "goodput of peak": ("of_peak", 3, False),
    "callers": ("callers", 0, False),
    "answered, p50, ms": ("served_ms_p50", 0, False),
    "answered, p99, ms": ("served_ms_p99", 0, False),
    "turned away": ("refused", 0, False),
    "turned away, p50, ms": ("refused_ms_p50", 1, False),
    "turned away, slowest, ms": ("refused_ms_most", 1, False),
    "turned away without Retry-After": ("without_retry_after", 0, False),
    "time-outs and failures": ("failures", 0, False),
}
ENGINE: Final[Lines] = {
    "requests a second": ("per_second", 2, False),
    "tokens a second": ("tokens_per_second", 1, False),
    "p50, ms": ("took_ms_p50", 0, False),
    "p95, ms": ("took_ms_p95", 0, False),
    "CPU ms for a request": ("cpu_ms_per_request", 2, False),
    "requests that failed": ("failures", 0, False),
}
LINES: Final[Mapping[str, Lines]] = {"streams": STREAMS, "saturate": SATURATE, "overload": OVERLOAD, "engine": ENGINE}


def table(step: str, title: str, rows: Sequence[Row]) -> Table:
    """A column for each way, and how many times LiteLLM's figure ours is; median (least to most) of the repeats."""
    mine = [row for row in rows if row["step"] == step]
    ways = list(dict.fromkeys(row["contestant"] for row in mine))
    made = Table(title=f"{title}; {len({row['repeat'] for row in mine})} repeats")
    for column in ("", *ways, "ours / LiteLLM"):
        made.add_column(column, justify="right" if column else "left")
    for name, (figure, digits, relative) in LINES[step].items():
        found = {way: (added if relative else measured)(mine, figure, way) for way in ways}
        cells = ["" if relative and way == DIRECT else spread(values, digits) for way, values in found.items()]
        made.add_row(name, *cells, ratio(found.get(OURS, []), found.get(PEER, [])))
    why = dict.fromkeys(f"{row['contestant']}: {said}" for row in mine for said in row.get("why", ()))
    made.caption = "\n".join(why) or None
    return made


def ratio(ours: Sequence[float], peers: Sequence[float]) -> str:
    """Of the medians.

    >>> ratio([1.0, 3.0], [4.0]), ratio([], [4.0]), ratio([1.0], [0.0])
    ('0.50x', '', '')
    """
    if not ours or not peers or not median(peers):
        return ""
    return f"{median(ours) / median(peers):.2f}x"


GOALS: Final[Mapping[int, float]] = {50: 1.0, 95: 3.0, 99: 6.0}
"""Milliseconds that ours may add, by percentile."""


def goals(rows: Sequence[Row]) -> str:
    """Which goals the repeats' medians reach, whatever they are: a sentence for first tokens and one for pieces."""
    said: list[str] = []
    for what, figure in (("the first token", "first_ms"), ("a piece", "way_ms")):
        parts: list[str] = []
        for share, limit in GOALS.items():
            values = added([row for row in rows if row["step"] == "streams"], f"{figure}_p{share}", OURS)
            if values:
                verdict = "reached" if median(values) <= limit else "MISSED"
                parts.append(f"p{share} {median(values):.2f} of {limit:g} ms ({verdict})")
        said += [f"Added to {what}: {', '.join(parts)}."] if parts else []
    return "\n".join(said)


def streams_row(heard: Mapping[str, Any], cpu: float, seconds: float) -> Row:
    """The figures of a load of streams, through a server that used `cpu` of `seconds`."""
    firsts, ways = heard["firsts_ms"], heard["ways_ms"]
    return {
        **percentiles("first_ms", firsts),
        **percentiles("way_ms", ways),
        "pieces": heard["pieces"],
        "streams": len(firsts),
        "cpu_per_1000": cpu / max(1, heard["pieces"]) * 1000,
        "cpu_share": cpu / seconds,
    }


def requests_row(heard: Mapping[str, Any], cpu: float) -> Row:
    """The figures of requests that are answered in one piece."""
    took = heard["took_ms"]
    row = {**percentiles("took_ms", took), "requests": len(took), "cpu_ms_per_request": cpu / max(1, len(took)) * 1000}
    return row | {name: heard[name] for name in ("per_second", "tokens_per_second") if name in heard}


def overload_row(heard: Mapping[str, Any], peak: float) -> Row:
    """The figures of more callers than there is capacity; `peak` is what as many as can be served got."""
    refused = heard["refused_ms"]
    return {
        "peak": peak,
        "goodput": heard["goodput"],
        "of_peak": heard["goodput"] / peak,
        "callers": heard["callers"],
        **percentiles("served_ms", heard["served_ms"]),
        "refused": len(refused),
        "statuses": heard["statuses"],
        **(percentiles("refused_ms", refused) | {"refused_ms_most": max(refused)} if refused else {}),
        "without_retry_after": heard["without_retry_after"],
    }
