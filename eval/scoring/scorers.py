"""What an answer is worth: functions from (example, text, passages shown) to 0..1, found by name in SCORERS.

A scorer reads the text, the example's gold answers and what stood above the question; it knows nothing of who wrote
the text, or how. Correctness and format are scored apart, and a correct answer can be looked for strictly or loosely,
so that each error shows once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from eval.example import Example
from eval.scoring.calls import calls_of, names_of, same_arguments, same_calls
from eval.scoring.citing import cites_precision, cites_recall, context_used
from eval.scoring.custom import content, python
from eval.scoring.execution import execution, execution_signature, holds_query, vacuous
from eval.scoring.instructions import instruction_share, instructions, knows_instructions
from eval.scoring.kinds import EXECUTE, Kind, Scorer, ScorerSettings, loosely
from eval.scoring.ngrams import bleu, bleu_signature, chrf, chrf_signature, gleu, gleu_signature, rouge, rouge_signature
from eval.scoring.numeric import holds_number, numeric
from eval.scoring.objects import holds_fields, json_fields, json_format, json_schema
from eval.scoring.patterns import holds_patterns, regex
from eval.scoring.reading import reading
from eval.scoring.words import choice, contains, exact, f1

Comparison = Callable[[str, str], float]
"""(said, gold) -> 0..1"""
Says = Callable[[Example, str, Sequence[str]], bool]
"""(example, what was said, the passages in the prompt) -> whether it says something"""


def best_of(compare: Comparison) -> Callable[[ScorerSettings], Scorer]:
    """A scorer kind: the best comparison with any gold answer, of the whole reply or of the field that is named."""

    def build(settings: ScorerSettings) -> Scorer:
        said = reading(settings)

        def score(example: Example, text: str, _: Sequence[str]) -> float:
            reply = said(text)
            return 0.0 if reply is None else max((compare(reply, gold) for gold in example.answers), default=0.0)

        return score

    return build


def valid_call(_: ScorerSettings) -> Scorer:
    """Nothing but calls of functions that were on offer (`meta.tools`; any, where it is missing); values not judged."""

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        offered, made = names_of(example.meta.get("tools")), calls_of(text)
        return float(made is not None and (not offered or all(call["name"] in offered for call in made)))

    return score


SCORERS: Final[Mapping[Kind, Callable[[ScorerSettings], Scorer]]] = {
    "exact": best_of(exact),
    "choice": best_of(choice),
    "contains": best_of(contains),
    "f1": best_of(f1),
    "numeric": numeric,
    "regex": regex,
    "rouge1": rouge,
    "rouge2": rouge,
    "rougeL": rouge,
    "bleu": bleu,
    "chrf": chrf,
    "gleu": gleu,
    "tool_call": best_of(same_calls),
    "arguments": best_of(same_arguments),
    "json_fields": json_fields,
    "ex_strict": execution,
    "ex_colperm": execution,
    "ex_spider": execution,
    "ex_bird": execution,
    "valid_call": valid_call,
    "json_format": json_format,
    "json_schema": json_schema,
    "context_used": context_used,
    "cites_precision": cites_precision,
    "cites_recall": cites_recall,
    "instructions": instructions,
    "instruction_share": instruction_share,
    "python": python,
}
"""Every kind but `abstains`, which looks at the whole test set and at the primary scorer; `build` makes it."""

FITS: Final[Mapping[Kind, Callable[[ScorerSettings, Example], None]]] = {
    "numeric": holds_number,
    "regex": holds_patterns,
    "json_fields": holds_fields,
    "instructions": knows_instructions,
    "instruction_share": knows_instructions,
    "ex_strict": holds_query,
    "ex_colperm": holds_query,
    "ex_spider": holds_query,
    "ex_bird": holds_query,
}
"""What a kind asks of an example beyond gold answers: a ValueError says what is wrong with it."""

SIGNATURES: Final[Mapping[Kind, Callable[[str, Sequence[Example]], Mapping[str, str]]]] = {
    "rouge1": rouge_signature,
    "rouge2": rouge_signature,
    "rougeL": rouge_signature,
    "bleu": bleu_signature,
    "chrf": chrf_signature,
    "gleu": gleu_signature,
}


def build(scorers: Mapping[str, ScorerSettings], primary: str, examples: Sequence[Example]) -> dict[str, Scorer]:
    """The scorers of a task, by the names it gives them. ValueError when one cannot be made."""
    return {
        name: decision(abstention(scorers, primary, examples)) if one.kind == "abstains" else SCORERS[one.kind](one)
        for name, one in scorers.items()
    }


def abstention(scorers: Mapping[str, ScorerSettings], primary: str, examples: Sequence[Example]) -> Says:
    """Whether a reply says that no document has the answer: it is what would be right where there is none.

    The gold answers of the unanswerable questions are the list of what counts, and the primary scorer, its form aside,
    compares; where it compares with no gold answer, `exact` does.
    """
    refusals = tuple(dict.fromkeys(said for one in examples if one.meta.get("unanswerable") for said in one.answers))
    ways = [one for one in loosely(scorers, primary) if one.compares] or [ScorerSettings(kind="exact")]
    judges = [SCORERS[one.kind](one) for one in ways]

    def says(example: Example, text: str, shown: Sequence[str]) -> bool:
        asked = replace(example, answers=refusals)
        return bool(refusals) and any(judge(asked, text, shown) == 1 for judge in judges)

    return says


def decision(abstains: Says) -> Scorer:
    """Kind `abstains`: 1 for an abstention where no document has the answer, and for an attempt where one has."""

    def score(example: Example, text: str, shown: Sequence[str]) -> float:
        return float(abstains(example, text, shown) == bool(example.meta.get("unanswerable")))

    return score


def unfit(settings: ScorerSettings, example: Example) -> str | None:
    """Why this scorer could never score this example, as a sentence; None when it can."""
    if not example.answers and (settings.compares or settings.kind in ("cites_precision", "cites_recall")):
        return f"`answers` is empty, so no reply could ever be right for a scorer of kind {settings.kind}"
    try:
        if fits := FITS.get(settings.kind):
            fits(settings, example)
    except ValueError as error:
        return str(error)
    return None


def remarks(scorers: Mapping[str, ScorerSettings], examples: Sequence[Example]) -> list[str]:
    """What can be scored and says little, in sentences."""
    found = {name: vacuous(one, examples) for name, one in scorers.items() if one.kind in EXECUTE}
    return [
        f"scorers.{name}: {len(ids)} of {len(examples)} gold queries give no row (the first is of {ids[0]!r}), and so "
        "any query that gives none is right there; a `meta.slice` of their own shows the others without them"
        for name, ids in found.items()
        if ids
    ]


def signatures(scorers: Mapping[str, ScorerSettings], examples: Sequence[Example]) -> dict[str, str]:
    """What scores depend on beside settings and gold answers: a library and its version, or the user's own code."""
    found = {}
    for name, one in scorers.items():
        if one.kind == "python":
            found[name] = content(one)
        elif one.kind in EXECUTE:
            found[name] = execution_signature(one, examples)
        elif one.kind in SIGNATURES:
            made = SIGNATURES[one.kind](one.kind, examples)
            found |= {"_".join(filter(None, (name, part))): said for part, said in made.items()}
    return found
