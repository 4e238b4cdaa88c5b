"""What retrievers borrow is charged to the answer it was for, asked once, and never remembered when it failed."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from retrieval.build import build
from retrieval.expand import ExpandSettings
from retrieval.manifest import BuildSettings
from retrieval.passage import Document, Query, RetrievalError
from retrieval.reuse import Write
from retrieval.settings import RetrieverSettings
from serve.chat import Message, Reply, Sampling, Unavailable, Usage
from serve.combination import BASE, Combination
from serve.hands import Writer, counter
from serve.meter import metered
from serve.opened import open_all
from serve.pipeline import Pipeline
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from serve.upstream import Server
from tests.serve_stub import counted, echoing
from tests.tiny_search import make_embedder

POCKET = Path(__file__).parents[1] / "scripts/pocket/model"


@dataclass
class Scribe:
    """A model whose every reply took five seconds, it says, and cost a token for each letter of the prompt."""

    asked: list[str] = field(default_factory=list)
    fails: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        prompt = messages[-1].content
        self.asked.append(prompt)
        await self.may_answer.wait()
        if len(self.asked) <= self.fails:
            raise Unavailable("out of order")
        return Reply(text=prompt.upper(), usage=Usage(len(prompt), 1), finish_reason="stop", seconds=5.0)


def scribe(fails: int = 0) -> Scribe:
    ready = Scribe(fails=fails)
    ready.may_answer.set()
    return ready


async def spent(write: Write, *prompts: str) -> Usage:
    with metered() as meter:
        await asyncio.gather(*map(write, prompts))
    return meter.usage


async def test_a_prompt_is_asked_once_and_charged_each_time() -> None:
    model = scribe()
    write = Writer(model)

    assert [await spent(write, "abc") for _ in range(3)] == [Usage(3, 1)] * 3
    assert model.asked == ["abc"]


async def test_what_was_remembered_costs_the_seconds_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.hands.time.perf_counter", lambda: 0.0)  # to be given it again takes no time
    write = Writer(scribe())
    await write("abc")

    with metered() as meter:
        await write("abc")

    assert meter.seconds == 5.0


async def test_answers_under_way_at_once_pay_each_for_their_own() -> None:
    write = Writer(scribe())

    assert await asyncio.gather(spent(write, "a", "bb"), spent(write, "cccc"), spent(write)) == [
        Usage(3, 2),
        Usage(4, 1),
        Usage(0, 0),
    ]


async def test_two_who_ask_the_same_at_once_share_a_call() -> None:
    model = scribe()
    write = Writer(model)

    assert await asyncio.gather(spent(write, "abc"), spent(write, "abc")) == [Usage(3, 1)] * 2
    assert model.asked == ["abc"]


async def test_a_failure_is_told_to_all_who_wait_and_remembered_by_nobody() -> None:
    model = scribe(fails=1)
    write = Writer(model)

    told = await asyncio.gather(write("abc"), write("abc"), return_exceptions=True)
    again = await write("abc")

    assert [str(one) for one in told] == ["out of order"] * 2
    assert (again, model.asked) == ("ABC", ["abc", "abc"])


async def test_who_gives_up_takes_nothing_from_the_others() -> None:
    model = Scribe()
    write = Writer(model)
    hasty, patient = asyncio.create_task(write("abc")), asyncio.create_task(write("abc"))
    await asyncio.sleep(0)
    hasty.cancel()
    await asyncio.sleep(0)

    model.may_answer.set()

    assert await patient == "ABC"
    assert model.asked == ["abc"]


async def test_the_oldest_prompt_is_forgotten_first() -> None:
    model = scribe()
    write = Writer(model, remembered=2)

    for prompt in ("a", "b", "c", "b", "a"):
        await write(prompt)

    assert model.asked == ["a", "b", "c", "a"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    documents = [Document(id=f"d{n}", title="", text=f"d{n} true") for n in range(3)]
    build(documents, folder / "words", BuildSettings(embedder=str(make_embedder(folder / "embedder"))))
    return folder / "words"


def stack_of(index: Path, url: str, **settings: Any) -> Stack:
    """With a retriever that searches as it is asked, and one with more settings."""
    return Stack(
        model="pocket",
        url=url,
        strategies={
            "direct": Prompted(kind="direct"),
            "told": Prompted(kind="instructed", instructions="Be brief."),
        },
        retrievers={
            "plain": RetrieverSettings(kind="lexical", index=index),
            "more": RetrieverSettings(kind="lexical", index=index, **settings),
        },
    )


async def test_an_answer_costs_what_its_retriever_asked_too_whoever_asked_it_first(index: Path) -> None:
    query = Query("d1 or d2?")
    expand = ExpandSettings(kind="multi", instructions="Reword it.")
    with echoing() as echo:
        async with Pipeline(stack_of(index, echo.url, expand=expand)) as pipeline:
            plain, more = [
                [await pipeline.ask(Combination(BASE, retriever, name), query) for name in ("direct", "told")]
                for retriever in ("plain", "more")
            ]
            heard = await pipeline.stream(Combination(BASE, "more", "direct"), query, asyncio.Queue().put)

    asked = [body for body in echo.asked if body["messages"][0]["content"].startswith("Reword it.")]
    assert len(asked) == 1
    assert (asked[0]["model"], asked[0]["temperature"], asked[0]["max_tokens"]) == ("pocket", 0.0, 256)
    cost = Usage(**counted(asked[0]))
    assert cost == Usage(6, 6)  # "Reword it. Question: d1 or d2?" and "pocket heard Question: d1 or d2?"
    assert [one.usage for one in more] == [one.usage + cost for one in plain]
    assert heard.usage == more[0].usage


async def test_the_wait_for_an_engine_is_given_back_once_to_an_answer_that_had_two_things_written(index: Path) -> None:
    """The question after the turn before it, and the question alone, are put in other words at once."""
    there: list[str] = []
    stack = stack_of(index, "", expand=ExpandSettings(kind="multi"))
    query = Query("d1 or d2?", history=("Which is true?", "d0."))
    with echoing() as echo:
        async with Pipeline(stack, Server(there, comes_within=60)) as pipeline:
            asked = asyncio.create_task(pipeline.ask(Combination(BASE, "more", "direct"), query))
            await asyncio.sleep(0.1)
            came = time.perf_counter()
            there.append(echo.url)

            answer = await asyncio.wait_for(asked, 30)
            since = time.perf_counter() - came

    assert len(echo.asked) == 3
    assert 0 < answer.search_seconds < answer.seconds < since


async def test_a_budget_counts_the_tokens_of_the_stacks_own_model(index: Path) -> None:
    with echoing() as echo:
        stack = stack_of(index, echo.url, tokens=1)
        async with Pipeline(replace(stack, model=str(POCKET))) as pipeline:
            answer = await pipeline.ask(Combination(BASE, "plain", "direct"), Query("d1 d2"))
            tight = await pipeline.ask(Combination(BASE, "more", "direct"), Query("d1 d2"))

    assert (len(answer.sources), len(tight.sources)) == (2, 0)


def test_a_budget_without_a_tokenizer_is_refused_before_anything_is_asked(index: Path) -> None:
    with pytest.raises(RetrievalError, match="the tokenizer of the model pocket is not on this machine"):
        open_all(stack_of(index, "http://127.0.0.1:9/v1", tokens=100))


def test_tokens_are_counted_as_the_models_own_library_counts_them() -> None:
    from transformers import AutoTokenizer

    official = AutoTokenizer.from_pretrained(POCKET)
    texts = ["", "Who rules Varn?", "line\r\nline\n", "Grüße, 你好 🦊", "x" * 10_000]

    count = counter(str(POCKET))

    assert [count(text) for text in texts] == [len(official.encode(text, add_special_tokens=False)) for text in texts]


def test_many_threads_may_count_at_once() -> None:
    count = counter(str(POCKET))
    texts = [f"Who rules Varn in year {n}?" for n in range(200)]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(count, texts))

    assert together == [count(text) for text in texts]


def test_a_tokenizer_saved_with_a_length_counts_what_is_longer(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"word": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    count = counter(str(tmp_path))

    assert (count("word"), count("word " * 9)) == (1, 9)


@pytest.mark.parametrize("model", ["pocket", "owner/not-here", "a name: no hub has it", "/no/such/folder"])
def test_a_tokenizer_that_is_not_here_is_a_sentence_when_it_is_needed(model: str) -> None:
    count = counter(model)

    with pytest.raises(RetrievalError, match=r"the tokenizer of the model .* is not on this machine .* leave `tokens`"):
        count("word")


def test_a_hub_models_tokenizer_is_read_from_the_local_cache_without_heavy_libraries(tmp_path: Path) -> None:
    folder = tmp_path / "models--owner--small"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    (snapshot / "tokenizer.json").write_bytes((POCKET / "tokenizer.json").read_bytes())
    code = (
        "import sys; from serve.hands import counter; print(counter('owner/small')('Who rules Varn?'), "
        "*{'torch', 'transformers'} & set(sys.modules))"
    )

    said = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(POCKET.parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout.split() == [str(counter(str(POCKET))("Who rules Varn?"))]
