"""Many questions at once become few calls, and nobody's trouble is another's."""

import asyncio
from threading import Event

import numpy as np
import pytest

from retrieval.batch import Batched, Vectors


class Lengths:
    """An encoder whose vector is the text's length; it waits for `go` and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.go = Event()
        self.fails = False

    def __call__(self, texts: list[str]) -> Vectors:
        self.go.wait(timeout=60)
        self.calls.append(texts)
        if self.fails:
            raise RuntimeError("out of memory")
        return np.array([[len(text)] for text in texts], dtype=np.float32)


async def test_what_waits_together_is_encoded_together_and_each_text_once() -> None:
    encode = Lengths()
    one = Batched(encode)
    texts = ["a" * (n % 50 + 1) for n in range(200)]

    asked = asyncio.gather(*map(one, texts))
    await asyncio.sleep(0.05)
    encode.go.set()
    vectors = await asked

    assert [vector[0] for vector in vectors] == [len(text) for text in texts]
    assert sorted(text for call in encode.calls for text in call) == sorted(set(texts))
    assert len(encode.calls) <= 2


async def test_a_caller_who_gives_up_takes_nothing_from_the_others() -> None:
    encode = Lengths()
    one = Batched(encode)
    leaver, stayer = asyncio.create_task(one("same")), asyncio.create_task(one("same"))
    await asyncio.sleep(0.05)

    leaver.cancel()
    encode.go.set()

    assert (await stayer)[0] == 4
    assert (await one("same"))[0] == 4
    assert leaver.cancelled()


async def test_a_failure_reaches_everyone_and_the_next_call_tries_again() -> None:
    encode = Lengths()
    encode.go.set()
    encode.fails = True
    one = Batched(encode)
    with pytest.raises(RuntimeError, match="out of memory"):
        await one("text")

    encode.fails = False

    assert (await one("text"))[0] == 4


def test_it_outlives_an_event_loop() -> None:
    encode = Lengths()
    encode.go.set()
    one = Batched(encode)

    answers = [asyncio.run(one(text))[0] for text in ("one", "one", "three")]

    assert answers == [3, 3, 5]
    assert encode.calls == [["one"], ["three"]]
