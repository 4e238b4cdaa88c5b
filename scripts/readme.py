"""Put the figures of a finished run into README.md, between its two markers, so that no number there is typed by hand.

python -m scripts.readme out/demo
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from eval.folder import load_results
from eval.summary import Row, summarise
from eval.wording import points, within
from retrieval.console import Parser

README: Final = Path(__file__).parents[1] / "README.md"
BEGIN: Final = "<!-- figures: written by `make readme` -->"
END: Final = "<!-- end of figures -->"


HEAD: Final = """\
| combination | right, of 100 | 95 % interval | against the baseline | prompt tokens | p50 seconds |
| --- | --: | --- | --- | --: | --: |"""


def table(rows: Iterable[Row]) -> str:
    """The best strategy of each adapter and retriever, best first."""
    best: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda one: -one.score):
        best.setdefault((row.adapter, row.retriever), row)
    return "\n".join([HEAD, *map(line, best.values())])


def line(row: Row) -> str:
    """One combination, in points of 100."""
    delta = "baseline"
    if row.delta is not None and row.delta_ci_low is not None and row.delta_ci_high is not None:
        delta = f"{points(row.delta)} [{points(row.delta_ci_low)}, {points(row.delta_ci_high)}]"
    cells = (
        f"`{row.combination}`",
        f"{100 * row.score:.1f}",
        within(row.ci_low, row.ci_high),
        delta,
        f"{row.prompt_tokens:.0f}",
        f"{row.latency_p50_s:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = Parser(
        description="Put a run's figures into README.md.", epilog="example: python -m scripts.readme out/demo"
    )
    parser.add_argument("run", type=Path, nargs="?", default=Path("out/demo"))
    run = parser.parse_args().run
    if not (run / "verdict.json").is_file():
        parser.error(f"{run} holds no finished run; make one with `make demo`")
    sentence = json.loads((run / "verdict.json").read_text(encoding="utf-8"))["sentence"]
    head, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    figures = f"{BEGIN}\n\n{table(summarise(load_results(run)))}\n\nThe verdict: *{sentence}*\n\n{END}"
    README.write_text(head + figures + tail, encoding="utf-8")
    print(f"README.md has the figures of {run}")


if __name__ == "__main__":
    main()
