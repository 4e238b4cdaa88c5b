"""A model that samples otherwise than its stack says: for strategies that ask more than once, or in a form.

Knows nothing of what is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from serve.chat import SAMPLING, Message, Model, Reply, Requested, Sampling


@dataclass(frozen=True, slots=True)
class Sampled:
    """The model, for callers that do not say how to sample."""

    model: Model
    sampling: Sampling

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        """The model's next turn."""
        return await self.model.chat(messages, sampling or self.sampling)


def sampled(model: Model, temperature: float, ahead: int = 0) -> Sampled:
    """The model at this temperature, with a seed so far ahead of its own: each draws otherwise, and again the same.

    At 0 nothing is drawn, and the seed stays its own.
    """
    own = model.sampling
    return Sampled(
        model, replace(own, temperature=temperature, seed=(own.seed or 0) + ahead if temperature else own.seed)
    )


def asking(model: Model, **fields: Any) -> Sampled:
    """The model, asked for more in the words of the API (`logprobs`, `response_format` ...), besides what it is already
    asked for."""
    own = model.sampling
    chosen = {name: getattr(own, name) for name in SAMPLING}
    more, number = (own.more, own.id) if isinstance(own, Requested) else ({}, "")
    return Sampled(model, Requested(**chosen, more={**more, **fields}, id=number))


def one_of(model: Model, choices: Sequence[str]) -> Sampled:
    """The model, which can reply nothing but one of these; a server that cannot hold its model to them ignores it."""
    return asking(model, structured_outputs={"choice": list(choices)})
