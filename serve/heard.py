"""A model whose replies are kept, for whoever wants to know afterwards what was said. Knows nothing of what for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from serve.chat import Message, Model, Reply, Sampling


@dataclass(frozen=True, slots=True)
class Heard:
    """The model, and its replies as they ended."""

    model: Model
    replies: list[Reply] = field(default_factory=list)

    @property
    def sampling(self) -> Sampling:
        """The model's own."""
        return self.model.sampling

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        """The model's next turn."""
        self.replies.append(reply := await self.model.chat(messages, sampling))
        return reply
