"""How often the same question, asked the same way again, was answered in other words: the noise beneath every figure.

With greedy sampling the repeats are identical passes, and what differs is the engine's doing: sums of another batch are
rounded otherwise. With other sampling it is chance as well. Knows nothing of which answer is right.
"""

from collections.abc import Iterable

from eval.folder import Results
from retrieval.stats import Estimate, mean
from serve.combination import Combination


def flips(results: Results, cells: Iterable[Combination]) -> Estimate | None:
    """The share of questions whose repeats are not word for word the same; None where each was asked once."""
    if results.config.grid.repeats == 1:
        return None
    texts: dict[tuple[Combination, str], set[str]] = {}
    for one in results.answers:
        texts.setdefault((one.combination, one.id), set()).add(one.text)
    alike = {example.id: example.cluster for example in results.examples}
    found = [(cell, item) for cell in cells for item in results.records[cell]]
    return mean([float(len(texts[place]) > 1) for place in found], [alike[item] for _, item in found])
