"""A new generation of an index is taken up while questions are answered, over real sockets; a broken one never is."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from retrieval.build import build
from retrieval.generation import CURRENT, current
from retrieval.manifest import BuildSettings
from retrieval.passage import Document, Query, RetrievalError
from retrieval.settings import RetrieverSettings
from retrieval.store import DOCUMENTS
from serve.chat import Answer
from serve.combination import Combination
from serve.opened import open_all
from serve.pipeline import Pipeline
from serve.running import Front, listen, serve
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from tests.logs import told
from tests.serve_stub import echoing
from tests.tiny_search import make_embedder

BY_WORDS = Combination.parse("base:words:direct")
SHOWN = Combination.parse("base:none:shown")
QUERY = Query("d7")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> BuildSettings:
    return BuildSettings(embedder=str(make_embedder(tmp_path_factory.mktemp("embedder"))))


def publish(index: Path, settings: BuildSettings, name: str) -> None:
    """A generation whose only document has this name."""
    build([Document(id=name, title="", text="d7 true", meta={"answer": name})], index, settings)


def stack_of(index: Path, url: str) -> Stack:
    words = RetrieverSettings(kind="lexical", index=index, k=1)
    strategies = {
        "direct": Prompted(kind="direct"),
        "shown": Prompted(kind="fewshot", examples_from="words"),
    }
    return Stack(model="pocket", url=url, retrievers={"words": words, "again": words}, strategies=strategies)


async def test_a_retriever_that_wants_metadata_keeps_nobody_from_starting(
    tmp_path: Path, settings: BuildSettings
) -> None:
    publish(tmp_path / "index", settings, "first")
    picky = RetrieverSettings(kind="lexical", index=tmp_path / "index", k=1, where={"answer": "$wanted"})
    with echoing() as echo:
        stack = replace(stack_of(tmp_path / "index", echo.url), retrievers={"words": picky})
        async with Pipeline(stack) as pipeline:
            with pytest.raises(RetrievalError, match="the question came without it"):
                await pipeline.search("words", QUERY)

            await pipeline.warm()


def cited(answer: Answer) -> str:
    return answer.sources[0].passage.document


@asynccontextmanager
async def up(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """The gateway on a port of this machine."""
    listener = listen(0)
    server = asyncio.create_task(serve(Pipeline(stack), Front(listener=listener)))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1", timeout=30) as client:
        try:
            while not await reachable(client):
                await asyncio.sleep(0.02)
            yield client
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)


async def reachable(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("models")).is_success
    except httpx.ConnectError:
        return False


async def document(client: httpx.AsyncClient) -> str:
    """What the answer to a question cites."""
    body = {"model": str(BY_WORDS), "messages": [{"role": "user", "content": QUERY.text}]}
    response = await client.post("chat/completions", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["sources"][0]["document"])


async def test_answers_cite_the_new_generation_and_no_question_fails_meanwhile(
    tmp_path: Path, settings: BuildSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.running.REFRESH_SECONDS", 0.05)
    publish(tmp_path, settings, "old")

    seen: list[list[str]] = [[], [], [], []]

    async def ask_until_new(client: httpx.AsyncClient, mine: list[str]) -> None:
        while "new" not in mine:
            mine.append(await document(client))

    with echoing() as echo:
        async with asyncio.timeout(300), up(stack_of(tmp_path, echo.url)) as client, asyncio.TaskGroup() as askers:
            for mine in seen:
                askers.create_task(ask_until_new(client, mine))
            while not all(seen):
                await asyncio.sleep(0.01)
            await asyncio.to_thread(publish, tmp_path, settings, "new")

    assert all(mine == ["old"] * (len(mine) - 1) + ["new"] for mine in seen)
    assert all(len(mine) > 1 for mine in seen)


async def test_a_broken_generation_is_said_once_and_the_old_one_answers_until_it_is_mended(
    tmp_path: Path, settings: BuildSettings, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, settings, "old")
    with echoing() as echo:
        async with Pipeline(stack_of(tmp_path, echo.url)) as pipeline:
            publish(tmp_path, settings, "new")
            with (current(tmp_path) / DOCUMENTS).open("a") as file:
                file.write("torn")

            for _ in range(3):
                pipeline.refresh()
            broken = await pipeline.ask(BY_WORDS, QUERY)
            publish(tmp_path, settings, "new")
            pipeline.refresh()
            mended = await pipeline.ask(BY_WORDS, QUERY)

    warnings = told(caplog, logging.WARNING)
    assert (cited(broken), cited(mended)) == ("old", "new")
    assert len(warnings) == 1
    assert f"gen-0002/{DOCUMENTS}: damaged since it was written; make the index with" in warnings[0]


async def test_an_index_that_vanishes_leaves_what_was_open_in_use(
    tmp_path: Path, settings: BuildSettings, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path, settings, "old")
    with echoing() as echo:
        async with Pipeline(stack_of(tmp_path, echo.url)) as pipeline:
            (tmp_path / CURRENT).rename(tmp_path / "elsewhere")

            pipeline.refresh()
            answer = await pipeline.ask(BY_WORDS, QUERY)

    assert cited(answer) == "old"
    assert "there is no index here" in caplog.text


async def test_without_a_refresh_the_generation_stays_even_when_its_files_are_removed(
    tmp_path: Path, settings: BuildSettings
) -> None:
    publish(tmp_path, settings, "old")
    with echoing() as echo:
        async with Pipeline(stack_of(tmp_path, echo.url)) as pipeline:
            for name in ("newer", "newest"):
                publish(tmp_path, settings, name)
            before = await pipeline.ask(BY_WORDS, QUERY)
            pipeline.refresh()
            after = await pipeline.ask(BY_WORDS, QUERY)

    assert not (tmp_path / "gen-0001").exists()
    assert (cited(before), cited(after)) == ("old", "newest")


async def test_a_strategy_that_shows_examples_shows_those_of_the_new_generation(
    tmp_path: Path, settings: BuildSettings
) -> None:
    publish(tmp_path, settings, "old")
    with echoing() as echo:
        async with Pipeline(stack_of(tmp_path, echo.url)) as pipeline:
            before = await pipeline.ask(SHOWN, QUERY)
            publish(tmp_path, settings, "new")
            pipeline.refresh()
            after = await pipeline.ask(SHOWN, QUERY)

    assert [one.messages[1].content for one in (before, after)] == ["old", "new"]


async def test_what_a_question_began_with_is_what_it_ends_with(tmp_path: Path, settings: BuildSettings) -> None:
    publish(tmp_path, settings, "old")
    opened = open_all(stack_of(tmp_path, "http://127.0.0.1:9/v1"))
    publish(tmp_path, settings, "new")

    renewed = opened.renewed()

    old, new = [(await one.retrievers["words"].search(QUERY))[0].passage.document for one in (opened, renewed)]
    assert (old, new) == ("old", "new")


def test_where_nothing_was_published_nothing_is_opened(tmp_path: Path, settings: BuildSettings) -> None:
    publish(tmp_path, settings, "old")
    opened = open_all(stack_of(tmp_path, "http://127.0.0.1:9/v1"))
    publish(tmp_path, settings, "old")

    assert opened.renewed() is opened


async def test_an_index_is_looked_at_again_after_a_mistake_of_ours(
    tmp_path: Path, settings: BuildSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve.running.REFRESH_SECONDS", 0.01)
    publish(tmp_path, settings, "old")
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Clumsy(Pipeline):
        looks = 0

        def refresh(self) -> None:
            self.looks += 1
            if self.looks == 1:
                raise ZeroDivisionError
            loop.call_soon_threadsafe(looked.set)

    with echoing() as echo:
        server = asyncio.create_task(serve(Clumsy(stack_of(tmp_path, echo.url)), Front(listener=listen(0))))
        await asyncio.wait_for(looked.wait(), 60)
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)

    assert "a new generation could not be taken up" in caplog.text
