"""Figures that are no mean of scores: corpus BLEU, the two ways to abstain wrongly, IFEval's instruction level.

    summary.csv has them as columns beside the scorer's own: `bleu` and `bleu_corpus`

Knows nothing of combinations or intervals: these figures have none.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from eval.example import Example
from eval.record import Record
from eval.scoring.kinds import Kind, ScorerSettings
from eval.scoring.ngrams import CORPUS, corpus_bleu, corpus_chrf, corpus_gleu
from eval.scoring.reading import reading

Answers = Sequence[tuple[Example, Record]]
Figure = Callable[[str, ScorerSettings, Answers], float]
"""(the scorer's name, its settings, what was answered) -> the figure; NaN where there is nothing to divide by"""


def figures(scorers: Mapping[str, ScorerSettings], answers: Answers) -> dict[str, float]:
    """All of them, by column."""
    return {
        f"{name}_{part}": figure(name, one, answers)
        for name, one in scorers.items()
        for part, figure in FIGURES.get(one.kind, {}).items()
    }


def false_abstentions(name: str, _: ScorerSettings, answers: Answers) -> float:
    """Of the questions that have an answer, the share of abstentions."""
    return _wrong(record.scores[name] for example, record in answers if not example.meta.get("unanswerable"))


def missed_abstentions(name: str, _: ScorerSettings, answers: Answers) -> float:
    """Of the questions that have none, the share that was answered anyway."""
    return _wrong(record.scores[name] for example, record in answers if example.meta.get("unanswerable"))


def pooled(name: str, _: ScorerSettings, answers: Answers) -> float:
    """Of all instructions of all questions, the share that was kept."""
    sizes = [len(example.meta["instruction_id_list"]) for example, _ in answers]
    held = math.fsum(size * record.scores[name] for size, (_, record) in zip(sizes, answers, strict=True))
    return held / sum(sizes) if sizes else math.nan


def over_corpus(measure: Callable[[Sequence[str], Sequence[Sequence[str]]], float]) -> Figure:
    """All replies, or their fields, against all gold answers at once; a field that is missing says nothing."""

    def figure(_: str, settings: ScorerSettings, answers: Answers) -> float:
        said = reading(settings)
        replies = [said(record.text) or "" for _, record in answers]
        return measure(replies, [example.answers for example, _ in answers]) if replies else math.nan

    return figure


FIGURES: Final[Mapping[Kind, Mapping[str, Figure]]] = {
    "abstains": {"false": false_abstentions, "missed": missed_abstentions},
    "instruction_share": {"pooled": pooled},
    "bleu": {CORPUS: over_corpus(corpus_bleu)},
    "chrf": {CORPUS: over_corpus(corpus_chrf)},
    "gleu": {CORPUS: over_corpus(corpus_gleu)},
}


def _wrong(scores: Iterable[float]) -> float:
    found = [score == 0 for score in scores]
    return sum(found) / len(found) if found else math.nan
