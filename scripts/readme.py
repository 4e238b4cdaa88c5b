"""Put the figures of a finished run into README.md, between its two markers, so that no number there is typed by hand.

python -m scripts.readme out/demo
"""

import csv
import json
from pathlib import Path
from typing import Final

from retrieval.console import Parser

README: Final = Path(__file__).parents[1] / "README.md"
BEGIN: Final = "<!-- figures: written by `make readme` -->"
END: Final = "<!-- end of figures -->"


HEAD: Final = """\
| combination | right, of 100 | 95 % interval | against the baseline | prompt tokens | p50 seconds |
| --- | --: | --- | --- | --: | --: |"""


def table(rows: list[dict[str, str]]) -> str:
    """The best strategy of each adapter and retriever, best first."""
    best: dict[tuple[str, str], dict[str, str]] = {}
    for row in sorted(rows, key=lambda r: -float(r["score"])):
        best.setdefault((row["adapter"], row["retriever"]), row)
    return "\n".join([HEAD, *(line(row) for row in best.values())])


def line(row: dict[str, str]) -> str:
    """One combination, in points of 100."""

    def points(column: str, sign: str = "") -> str:
        return f"{100 * float(row[column]):{sign}.1f}"

    delta = (
        f"{points('delta', '+')} [{points('delta_ci_low', '+')}, {points('delta_ci_high', '+')}]"
        if row["delta"]
        else ""
    )
    cells = (
        f"`{row['combination']}`",
        points("score"),
        f"{points('ci_low')} to {points('ci_high')}",
        delta or "baseline",
        f"{float(row['prompt_tokens']):.0f}",
        f"{float(row['latency_p50_s']):.2f}",
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
    with (run / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sentence = json.loads((run / "verdict.json").read_text(encoding="utf-8"))["sentence"]
    head, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    figures = f"{BEGIN}\n\n{table(rows)}\n\nThe verdict: *{sentence}*\n\n{END}"
    README.write_text(head + figures + tail, encoding="utf-8")
    print(f"README.md has the figures of {run}")


if __name__ == "__main__":
    main()
