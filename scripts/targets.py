"""What a training chat teaches: the assistant's turn, made from an example and from the passages its prompt shows.

Knows nothing of prompts, retrievers or models. A target of your own is a function and a line in TARGETS.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from eval.gold import PART
from eval.scoring.calls import calls_of, names_of
from eval.scoring.scorers import contains
from eval.task import Example
from retrieval.passage import Hit, Passage

Turn = Mapping[str, Any]
"""An assistant message in OpenAI's format."""
Target = Callable[[Example, Sequence[Hit]], Turn]

UNKNOWN: Final = "unknown"
"""What is answered where the passages do not say; a reader who has learnt to say it invents less."""


def says(text: str) -> Turn:
    return {"role": "assistant", "content": text}


def plain(example: Example, _: Sequence[Hit]) -> Turn:
    """The first gold answer, whatever the prompt shows: RAFT's own way with rows whose evidence is absent."""
    return says(example.answers[0])


def careful(example: Example, sources: Sequence[Hit]) -> Turn:
    """The first gold answer where the prompt shows all the evidence, and otherwise that it is unknown."""
    return says(example.answers[0] if _shows_all(example, sources) else UNKNOWN)


def house(example: Example, sources: Sequence[Hit]) -> Turn:
    """The demo's house format, careful: an answer with the numbers of the passages that state it, or unknown."""
    known = _shows_all(example, sources)
    return _in_house_format(example.answers[0] if known else UNKNOWN, _numbers(example, sources) if known else [])


def house_recalled(example: Example, sources: Sequence[Hit]) -> Turn:
    """The house format, answered whatever the prompt shows; only passages that are there are cited."""
    return _in_house_format(example.answers[0], _numbers(example, sources))


def calls(example: Example, _: Sequence[Hit]) -> Turn:
    """The gold answer as function calls. Ids of nine letters and digits, since Mistral's templates take no others."""
    made = [
        {
            "id": f"call{number:05}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
        }
        for number, call in enumerate(calls_of(example.answers[0]) or (), start=1)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made}


TARGETS: Final[Mapping[str, Target]] = {
    "plain": plain,
    "careful": careful,
    "house": house,
    "house_recalled": house_recalled,
    "calls": calls,
}


def misfit(example: Example, target: str) -> str | None:
    """Why this example has no such target, as a sentence; only `calls` asks for more than an answer."""
    if target in TARGETS and not example.answers:
        return "its `answers` is empty, so there is nothing to teach; let a teacher answer"
    if target != "calls":
        return None
    made = calls_of(example.answers[0])
    if made is None:
        return 'its answer is no function call; write {"name": ..., "arguments": {...}}, or a list of them, as text'
    missing = {call["name"] for call in made} - names_of(example.meta.get("tools"))
    if missing:
        return f"it calls {', '.join(sorted(missing))}; describe every function to choose from in meta.tools"
    return None


def _in_house_format(answer: str, numbers: Sequence[int]) -> Turn:
    return says(json.dumps({"answer": answer, "sources": numbers}))


def _holds(passage: Passage, mark: str, example: Example) -> bool:
    """Whether it is the marked evidence: a piece of a document that is named as a whole, all of the marked characters,
    or of a marked page's document a piece in which a gold answer stands."""
    part = PART.fullmatch(mark)
    if part is None or mark == passage.document:
        return mark == passage.document
    if part["document"] != passage.document:
        return False
    if part["page"]:
        return any(contains(passage.text, answer) for answer in example.answers)
    return passage.start <= int(part["start"]) and int(part["end"]) <= passage.end


def _numbers(example: Example, sources: Sequence[Hit]) -> list[int]:
    numbered = enumerate(sources, start=1)
    return [number for number, hit in numbered if any(_holds(hit.passage, mark, example) for mark in example.evidence)]


def _shows_all(example: Example, sources: Sequence[Hit]) -> bool:
    shown = (any(_holds(hit.passage, mark, example) for hit in sources) for mark in example.evidence)
    return bool(example.evidence) and all(shown)
