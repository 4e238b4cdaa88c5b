"""What is in a training file: sizes, repetitions, contradictions, and a sample as the model will see it.

Pure; knows nothing of files or training.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from train.chat import Chat
from train.masking import Sample, Template

GREEN, PLAIN = "\033[32m", "\033[0m"


def describe(chats: Sequence[Chat], samples: Sequence[Sample]) -> Iterator[str]:
    """Statistics as lines; token counts only where samples are given."""
    yield f"{len(chats):,} rows, all fine"
    yield f"{'':22}{'min':>8}{'p5':>8}{'p50':>8}{'p95':>8}{'max':>8}{'sum':>12}"
    yield _spread("messages", [len(chat.messages) for chat in chats])
    yield _spread("trained messages", [len(chat.trained) for chat in chats])
    yield _spread("characters", [sum(len(m.get("content") or "") for m in chat.messages) for chat in chats])
    if samples:
        yield _spread("tokens", [len(sample.tokens) for sample in samples])
        yield _spread("labelled tokens", [sum(sample.labelled) for sample in samples])
    yield from _repetitions(chats)


def _spread(name: str, values: Sequence[int]) -> str:
    ordered = sorted(values)
    quantiles = "".join(f"{ordered[round(share * (len(ordered) - 1))]:>8,}" for share in (0, 0.05, 0.5, 0.95, 1))
    return f"{name:22}{quantiles}{sum(ordered):>12,}"


def _repetitions(chats: Sequence[Chat]) -> Iterator[str]:
    """Rows that repeat one another teach it twice; equal prompts with different answers teach a coin toss."""
    answers: Mapping[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for chat in chats:
        *prompt, answer = (json.dumps(message, sort_keys=True) for message in chat.messages)
        answers["\n".join(prompt)][answer].append(_line(chat))
    repeated = [line for given in answers.values() for lines in given.values() for line in lines[1:]]
    if repeated:
        yield f"repeated: {len(repeated):,} rows repeat an earlier row, e.g. line {', '.join(repeated[:5])}"
    contradicted = [[lines[0] for lines in given.values()] for given in answers.values() if len(given) > 1]
    if contradicted:
        example = ", ".join(contradicted[0][:5])
        yield f"contradicted: {len(contradicted):,} prompts have different answers, e.g. lines {example}"


def _line(chat: Chat) -> str:
    return chat.where.rpartition(":")[2]


def marked(sample: Sample, template: Template, *, colour: bool) -> str:
    """The sample's text with every labelled stretch between marks."""
    opening, closing = (GREEN, PLAIN) if colour else ("⟦", "⟧")
    pieces = [
        f"{opening}{template.text(tokens)}{closing}" if is_labelled else template.text(tokens)
        for is_labelled, tokens in _stretches(sample)
    ]
    return "".join(pieces)


def _stretches(sample: Sample) -> Iterator[tuple[bool, tuple[int, ...]]]:
    """Runs of tokens that are all labelled or all not."""
    start = 0
    for i in range(1, len(sample.tokens) + 1):
        if i == len(sample.tokens) or sample.labelled[i] != sample.labelled[start]:
            yield sample.labelled[start], sample.tokens[start:i]
            start = i
