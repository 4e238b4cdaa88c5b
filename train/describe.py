"""What is in a training file: sizes, the split, repetitions, contradictions, and a sample as the model will see it.

Pure; knows nothing of files or training.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from train.chat import Chat, Message
from train.holdout import held_out
from train.pack import best_fit_decreasing
from train.recipe import Recipe

if TYPE_CHECKING:
    from train.masking import Sample, Template

GREEN, PLAIN = "\033[32m", "\033[0m"
MOST_NAMED: Final = 10
"""Lines named for one finding; the rest is counted."""
NEAR: Final = 0.9
"""Two rows are near when they share this part (Jaccard) of their pairs of neighbouring words."""
WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
"""A run of letters and digits; in scripts without spaces, one character."""


def describe(chats: Sequence[Chat], samples: "Sequence[Sample]" = (), max_length: int = 0) -> Iterator[str]:
    """Statistics as lines; token counts and packs of `max_length` only where samples are given."""
    yield f"{len(chats):,} rows, all fine"
    yield f"{'':22}{'min':>8}{'p5':>8}{'p50':>8}{'p95':>8}{'max':>8}{'sum':>12}"
    yield _spread("messages", [len(chat.messages) for chat in chats])
    yield _spread("trained messages", [len(chat.trained) for chat in chats])
    yield _spread("characters", [sum(len(m["content"]) for m in chat.messages) for chat in chats])
    if samples:
        yield from _tokens(samples, max_length)
    yield _split(chats)
    yield from _repetitions(chats)


def _spread(name: str, values: Sequence[int]) -> str:
    ordered = sorted(values)
    quantiles = "".join(f"{ordered[round(share * (len(ordered) - 1))]:>8,}" for share in (0, 0.05, 0.5, 0.95, 1))
    return f"{name:22}{quantiles}{sum(ordered):>12,}"


def _tokens(samples: "Sequence[Sample]", max_length: int) -> Iterator[str]:
    lengths = [len(sample.tokens) for sample in samples]
    labelled = [sum(sample.labelled) for sample in samples]
    yield _spread("tokens", lengths)
    yield _spread("labelled tokens", labelled)
    packs = len(best_fit_decreasing(lengths, range(len(lengths)), max_length))
    yield (
        f"labelled: {sum(labelled) / sum(lengths):.1%} of the tokens; packs: {packs:,} of {max_length:,} tokens "
        f"an epoch, {sum(lengths) / (packs * max_length):.0%} full"
    )
    for note, count in Counter(sample.note for sample in samples if sample.note).items():
        yield f"note: {count:,} of {len(samples):,} samples: {note}"


def _split(chats: Sequence[Chat]) -> str:
    """What the recipe's defaults would hold out."""
    recipe = Recipe(model="", data=Path())
    groups = [chat.group for chat in chats]
    out = held_out(groups, recipe.eval_fraction, recipe.seed)
    apart = len({groups[i] for i in out})
    return (
        f"split: {len(out):,} rows ({apart:,} groups) held out and {len(chats) - len(out):,} rows "
        f"({len(set(groups)) - apart:,} groups) trained on, at eval_fraction={recipe.eval_fraction:g}"
    )


def _repetitions(chats: Sequence[Chat]) -> Iterator[str]:
    """Rows that repeat one another teach it twice; equal prompts with different answers teach a coin toss."""
    answers: Mapping[str, dict[str, list[Chat]]] = defaultdict(lambda: defaultdict(list))
    for chat in chats:
        *prompt, answer = (_normalised(message) for message in chat.messages)
        answers["\n".join([*prompt, json.dumps(chat.tools)])][answer].append(chat)
    repeated = [
        (_line(rows[0]), _line(row)) for given in answers.values() for rows in given.values() for row in rows[1:]
    ]
    if repeated:
        yield f"repeated: {len(repeated):,} rows repeat an earlier row, e.g. line {_pairs(repeated)}"
    near = _near([rows[0] for given in answers.values() for rows in given.values()])
    if near:
        yield f"nearly repeated: {len(near):,} rows are nearly an earlier row, e.g. line {_pairs(near)}"
    contradicted = [[_line(rows[0]) for rows in given.values()] for given in answers.values() if len(given) > 1]
    if contradicted:
        examples = "; ".join(", ".join(lines[:MOST_NAMED]) for lines in contradicted[:MOST_NAMED])
        yield f"contradicted: {len(contradicted):,} prompts have different answers, e.g. lines {examples}"


def _normalised(message: Message) -> str:
    return json.dumps({**message, "content": " ".join(message["content"].lower().split())}, sort_keys=True)


def _pairs(found: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{later} (as {earlier})" for earlier, later in found[:MOST_NAMED])


def _near(chats: Sequence[Chat]) -> list[tuple[str, str]]:
    """(line of an earlier row, line) of rows that nearly repeat it; exact, by prefix filtering.

    With its pairs of words in one order, rarest first, two rows that share 0.9 of them share one of their first tenth.
    So only those are indexed, and rare pairs lead to few candidates. Rows near an earlier one are not indexed
    themselves: a thousand variants of one row cost a thousand comparisons, not half a million.
    """
    rows = [_word_pairs(chat) for chat in chats]
    counts = Counter(chain.from_iterable(rows))
    shared = {pair for pair, count in counts.items() if count > 1}
    index: dict[int, list[int]] = defaultdict(list)
    found: list[tuple[str, str]] = []
    for i, row in enumerate(rows):
        known = row & shared  # a pair that only this row has comes first in the order, and leads nowhere
        wanted = len(row) - int(NEAR * len(row)) + 1 - (len(row) - len(known))
        first = sorted(known, key=lambda pair: (counts[pair], pair))[:wanted] if wanted > 0 else []
        candidates = {earlier for pair in first for earlier in index.get(pair, ())}
        near = next((earlier for earlier in sorted(candidates) if _jaccard(rows[earlier], row) >= NEAR), None)
        if near is None:
            for pair in first:
                index[pair].append(i)
        else:
            found.append((_line(chats[near]), _line(chats[i])))
    return found


def _word_pairs(chat: Chat) -> frozenset[int]:
    """Hashes of all pairs of neighbouring words."""
    words = WORD.findall(" ".join(message["content"] for message in chat.messages).lower())
    return frozenset(map(hash, pairwise(words)))


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    if min(len(one), len(other)) < NEAR * max(len(one), len(other)):
        return 0.0
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _line(chat: Chat) -> str:
    return chat.where.rpartition(":")[2]


def marked(sample: "Sample", template: "Template", *, colour: bool) -> str:
    """The sample's text with every labelled stretch between marks."""
    opening, closing = (GREEN, PLAIN) if colour else ("⟦", "⟧")
    pieces = [
        f"{opening}{template.text(tokens)}{closing}" if is_labelled else template.text(tokens)
        for is_labelled, tokens in _stretches(sample)
    ]
    return "".join(pieces)


def _stretches(sample: "Sample") -> Iterator[tuple[bool, tuple[int, ...]]]:
    """Runs of tokens that are all labelled or all not."""
    start = 0
    for i in range(1, len(sample.tokens) + 1):
        if i == len(sample.tokens) or sample.labelled[i] != sample.labelled[start]:
            yield sample.labelled[start], sample.tokens[start:i]
            start = i
