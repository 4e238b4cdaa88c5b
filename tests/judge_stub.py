"""A judge of the standard library behind a real socket, for tests: it answers each kind of inquiry by planted rules."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.eval_stub import Stub

Rule = Callable[[dict[str, str]], Any]
"""The parts of an inquiry, by heading -> the JSON of the reply; a text is said as it is, in JSON or not."""


@dataclass
class JudgeStub(Stub):
    """Also a Stub: an evaluation's own questions are answered by `say`."""

    rules: dict[str, Rule] = field(default_factory=dict)
    """By the name of the schema that the request demands."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Every request of a judge that was answered."""
    likely: dict[str, float] = field(default_factory=dict)
    """Log-probabilities of the tokens that could have stood for a score; the server tells none when empty."""

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "response_format" not in body:
            return super().answer(body)
        if self.broken(body["messages"][-1]["content"]):
            return 503, {"error": {"message": "out of order"}}
        kind = body["response_format"]["json_schema"]["name"]
        said = self.rules[kind](parts_of(body["messages"][-1]["content"]))
        with self.lock:
            self.bodies.append(body)
        text = said if isinstance(said, str) else json.dumps(said)
        choice: dict[str, Any] = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
        if self.likely and body.get("logprobs"):
            told = [{"token": token, "logprob": value} for token, value in self.likely.items()]
            choice["logprobs"] = {"content": [{"token": told[0]["token"], "top_logprobs": told}]}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}

    def asked(self, kind: str) -> int:
        """How many inquiries of this kind were answered."""
        return sum(body["response_format"]["json_schema"]["name"] == kind for body in self.bodies)


def parts_of(prompt: str) -> dict[str, str]:
    """The parts of an inquiry by their headings, none of whose texts has an empty line."""
    found: dict[str, str] = {}
    for block in prompt.split("\n\n"):
        heading, _, text = block.partition(":\n")
        found[heading.lower()] = text
    return found


def verdict(yes: bool) -> dict[str, str]:
    return {"reason": "so", "verdict": "yes" if yes else "no"}


RULES: dict[str, Rule] = {
    "claims": lambda parts: {"claims": [f"It says {parts['text']}."] if parts["text"] != "nothing" else []},
    "supported": lambda parts: verdict(parts["claim"].split()[-1].strip(".") in parts["context"]),
    "useful": lambda parts: verdict(parts["answer"] in parts["passage"]),
    "score": lambda parts: {"reason": "so", "score": 4},
    "better": lambda parts: {"reason": "so", "better": "A" if "word" in parts["a"] else "B"},
}
