"""The scorer `ex_spider` against the official one: published predictions, scored by both, must come to the same counts.

    python -m scripts.check_spider DATA/spider

The folder has dev.json, dev_hardness.json, database/ and predictions/ (one query a line, in the order of dev.json) with
expected_scores.json, which is what the official scorer counted. `plug_value_true` is that scorer's option for models
that write no values: a prediction is right if it is so with some choice of the gold query's values in the places of its
own. That takes from gold what the question should give, so it is made here, and is no scorer of ours. Exits with 1 when
a count differs.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, Final

from eval.example import Example
from eval.scoring.execution import RIGHT, verdict
from eval.scoring.kinds import ScorerSettings
from serve.sql.queries import QUOTED

LEVELS: Final = ("easy", "medium", "hard", "extra")
VALUE: Final = re.compile(rf"{QUOTED}|(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])")
MOST: Final = 2_000
"""Choices of values that are tried for one prediction."""

Why = Callable[[Example, str], str]


def main() -> int:
    """Score every file in every way that the official scorer was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    expected = json.loads((folder / "predictions" / "expected_scores.json").read_text())
    examples, levels = dev(folder), json.loads((folder / "dev_hardness.json").read_text())
    empty = frozenset(expected["rankings_rows_0based"])
    why = verdict(ScorerSettings(kind="ex_spider", databases=folder / "database"))
    differ = 0
    for name, ways in expected["scores"].items():
        said = (folder / "predictions" / name).read_text().splitlines()
        for way, counted in ways.items():
            started = time.perf_counter()
            causes = judged(with_values(why) if way == "plug_value_true" else why, examples, said)
            print(f"{name}, {way}: {len(causes)} in {time.perf_counter() - started:.1f} s")
            differ += shown(counts(causes, levels, empty), counted)
            print(f"  wrong by {dict(Counter(one for one in causes if one != RIGHT).most_common())}")
    print("All counts are the official ones." if not differ else f"{differ} counts differ.")
    return int(differ > 0)


def dev(folder: Path) -> list[Example]:
    """Spider's dev set, by row."""
    rows = json.loads((folder / "dev.json").read_text())
    return [
        Example(id=str(number), question=row["question"], answers=(row["query"],), meta={"db_id": row["db_id"]})
        for number, row in enumerate(rows)
    ]


def judged(why: Why, examples: Sequence[Example], said: Sequence[str]) -> list[str]:
    """What became of each prediction."""
    if len(said) != len(examples):
        raise SystemExit(f"there are {len(said)} predictions for {len(examples)} questions")
    with ThreadPoolExecutor() as pool:
        return list(pool.map(why, examples, said))


def counts(causes: Sequence[str], levels: Sequence[str], empty: frozenset[int]) -> dict[str, int]:
    """How many are right: of each level, of all, and of those that have an answer in these databases."""
    right = [number for number, cause in enumerate(causes) if cause == RIGHT]
    by_level = Counter(levels[number] for number in right)
    usable = sum(number not in empty for number in right)
    return {level: by_level[level] for level in LEVELS} | {"all": len(right), "all_without_rankings": usable}


def shown(found: Mapping[str, int], counted: Mapping[str, Any]) -> int:
    """Print them side by side; how many differ."""
    for level, one in found.items():
        said = counted[level]["correct"]
        print(
            f"  {level:<22} official {said:>4}   ours {one:>4} of {counted[level]['n']}{'' if said == one else '   !'}"
        )
    return sum(counted[level]["correct"] != one for level, one in found.items())


def with_values(why: Why) -> Why:
    """Whether a prediction is right as it is, or with any choice of gold's values in the places of its own."""

    def plugged(example: Example, text: str) -> str:
        tried = [why(example, text)]
        if tried[0] != RIGHT:
            others = islice(choices(text, example.answers[0]), MOST)
            tried += [RIGHT] if any(why(example, one) == RIGHT for one in others) else []
        return RIGHT if RIGHT in tried else tried[0]

    return plugged


def choices(said: str, gold: str) -> Iterator[str]:
    """The prediction with every choice of gold's values.

    >>> list(choices("SELECT a FROM t WHERE b = 'x' LIMIT 1", "SELECT a FROM t WHERE b = 'y' LIMIT 3"))[1]
    "SELECT a FROM t WHERE b = 'y' LIMIT 3"
    """
    values = list(dict.fromkeys(VALUE.findall(gold)))
    places = len(VALUE.findall(said))
    for chosen in product(values, repeat=places):
        left = iter(chosen)
        yield VALUE.sub(partial(_next, left), said)


def _next(left: Iterator[str], _: "re.Match[str]") -> str:
    return next(left)


if __name__ == "__main__":
    raise SystemExit(main())
