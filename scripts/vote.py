"""What worked examples answer without a model: the answer of most that are found. A few-shot prompt has to beat it.

For answers that repeat, such as intents. Of a file of retrievers it says for each how often its vote is a gold answer.
    python -m scripts.vote eval/grids/banking77/retrievers.yaml out/banking77/data/test.jsonl
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eval.task import Example, read_examples
from eval.wording import percent
from retrieval.console import Parser
from retrieval.files import FileError
from retrieval.measure import read_named
from retrieval.passage import Hit, Query, RetrievalError
from retrieval.retriever import Retriever, open_retriever
from retrieval.stats import wilson
from retrieval.worked import ANSWER, is_worked


def vote(answers: Sequence[str]) -> str | None:
    """The most frequent of the answers, which are those of the nearest first; of equals the nearest. None of none.

    >>> vote(["refund", "card", "card", "refund"])
    'refund'
    """
    # most_common() keeps the order of first sight among equals.
    return next((answer for answer, _ in Counter(answers).most_common(1)), None)


async def right(retriever: Retriever, examples: Sequence[Example]) -> int:
    """How many examples the vote answers as they should be."""
    found = await asyncio.gather(*(retriever.search(Query(one.question, meta=one.meta)) for one in examples))
    return sum(vote(_answers(hits)) in one.answers for one, hits in zip(examples, found, strict=True))


def _answers(hits: Sequence[Hit]) -> list[str]:
    """Of the worked examples, however a prompt would arrange them."""
    nearest_first = sorted(hits, key=lambda hit: hit.rank)
    return [str(hit.passage.meta[ANSWER]) for hit in nearest_first if is_worked(hit.passage.meta)]


def main() -> int:
    parser = Parser(
        description="Answer a test set by a vote of the worked examples that each retriever finds.",
        epilog="example: python -m scripts.vote eval/grids/banking77/retrievers.yaml out/banking77/data/test.jsonl",
    )
    parser.add_argument("retrievers", type=Path, help="a YAML file with `retrievers:`, such as a stack.yaml")
    parser.add_argument("examples", type=Path, help="the test set")
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="this retriever; repeatable")
    options = parser.parse_args()
    try:
        named, examples = read_named(options.retrievers, options.only), read_examples(options.examples)
        opened = {name: (settings.k, open_retriever(settings)) for name, settings in named.items()}
        width = max(map(len, opened))
        for name, (k, retriever) in opened.items():
            share = wilson(asyncio.run(right(retriever, examples)), len(examples))
            print(f"{name:{width}}  k {k:3}  {percent(share.value)}  {percent(share.low)} to {percent(share.high)}")
    except (FileError, RetrievalError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
