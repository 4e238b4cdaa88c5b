"""What a training chat teaches: the assistant's turn, made from an example and from the passages its prompt shows.

Knows nothing of prompts, retrievers or models. A target of your own is a function and a line in TARGETS.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from eval.calls import calls_of, names_of
from eval.task import Example
from retrieval.passage import Hit

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


def _place(example: Example, hit: Hit) -> str | None:
    """The evidence that a passage is: a piece of a document that is named as a whole, or exactly what is named."""
    return next((name for name in (hit.passage.document, hit.passage.id) if name in example.evidence), None)


def _numbers(example: Example, sources: Sequence[Hit]) -> list[int]:
    return [number for number, hit in enumerate(sources, start=1) if _place(example, hit)]


def _shows_all(example: Example, sources: Sequence[Hit]) -> bool:
    return bool(example.evidence) and set(example.evidence) <= {_place(example, hit) for hit in sources}
