"""What a reply does with the passages above its question: which it draws on, which it cites, and whether they say it.

By comparing strings alone: what a passage means, and whether a model has read it, is nothing that they show.
"""

import re
from collections.abc import Sequence

from eval.example import Example
from eval.scoring.kinds import Scorer, ScorerSettings
from eval.scoring.words import contains, normalise
from serve.reading import cited_in, loose_field


def context_used(settings: ScorerSettings) -> Scorer:
    """The share of the passages in the prompt that the answer draws on; 0 when none was shown.

    It draws on a passage that it cites (`[S2]` in the text, or 2 among `sources` in its JSON) and on one in which its
    value stands: the field that is named, or the whole reply, as whole words, normalised. Both are signs of use, not
    proof of it: a model can cite what it did not read, and a value as short as "no" stands in many passages.
    """

    def score(_: Example, text: str, shown: Sequence[str]) -> float:
        cited, marks = cited_in(text), r"\[S\d+\]"
        said = normalise((loose_field(text, settings.json) if settings.json else re.sub(marks, "", text)) or "")
        used = [n in cited or bool(said and contains(passage, said)) for n, passage in enumerate(shown, start=1)]
        return sum(used) / len(used) if used else 0.0

    return score


def cites_precision(_: ScorerSettings) -> Scorer:
    """The share of the passages that a reply cites in which a gold answer stands, as whole words, normalised.

    A citation of a passage that is not there counts as wrong, and a reply without any has 0. Where no document has the
    answer, citing nothing is right. A gold answer as short as "no" stands in many passages: then this says little.
    """

    def score(example: Example, text: str, shown: Sequence[str]) -> float:
        cited = cited_in(text)
        if example.meta.get("unanswerable"):
            return float(not cited)
        return len(cited & _stating(example, shown)) / len(cited) if cited else 0.0

    return score


def cites_recall(_: ScorerSettings) -> Scorer:
    """Whether what a reply cites supports the answer: a gold answer stands in one of the passages at least.

    One is enough, since another passage that says the same need not be cited; precision tells how many are amiss.
    """

    def score(example: Example, text: str, shown: Sequence[str]) -> float:
        cited = cited_in(text)
        if example.meta.get("unanswerable"):
            return float(not cited)
        return float(bool(cited & _stating(example, shown)))

    return score


def _stating(example: Example, shown: Sequence[str]) -> set[int]:
    """The numbers of the passages in which a gold answer stands."""
    return {
        n for n, passage in enumerate(shown, start=1) if any(contains(passage, answer) for answer in example.answers)
    }
