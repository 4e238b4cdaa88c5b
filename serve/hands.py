"""What a pipeline lends its retrievers: its base model, which writes, and that model's tokenizer, which counts.

What a retriever's calls cost is charged to the answer they were made for. Knows nothing of what is written, or why.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from retrieval import tokens
from retrieval.model import MOST_TOKENS
from retrieval.passage import RetrievalError
from serve.base import model_folder
from serve.chat import Message, Model, Reply, Sampling
from serve.meter import charge
from serve.once import REMEMBERED, Once

WRITING: Final = Sampling(temperature=0.0, max_tokens=MOST_TOKENS)


class Writer:
    """Prompt -> text. A prompt is asked once: whoever asks it again, or meanwhile, gets the same and is charged for it.

    So strategies that are compared find the same passages, and each costs what it would cost alone: the wait for an
    engine that was lost is nobody's.
    """

    def __init__(self, model: Model, remembered: int = REMEMBERED) -> None:
        self._model = model
        self._once: Once[str, Reply] = Once(remembered)

    async def __call__(self, prompt: str) -> str:
        started = time.perf_counter()
        reply = await self._once(prompt, lambda: self._write(prompt))
        charge(reply.usage, reply.seconds - (time.perf_counter() - started))
        return reply.text

    async def _write(self, prompt: str) -> Reply:
        return await self._model.chat([Message("user", prompt)])


def counter(model: str) -> Callable[[str], int]:
    """How many tokens a text has for this model, whose tokenizer is read with the first text.

    Raises RetrievalError when the tokenizer is not on this machine.
    """
    return lambda text: _found(model)(text)


@lru_cache(maxsize=4)
def _found(model: str) -> Callable[[str], int]:
    folder = model_folder(model)
    if folder is None or not (folder / "tokenizer.json").is_file():
        raise RetrievalError(
            f"a retriever counts tokens, and the tokenizer of the model {model} is not on this machine (no "
            "tokenizer.json): name the model by its folder or by the id it was fetched under, or leave `tokens` out"
        )
    return tokens.counter(folder)
