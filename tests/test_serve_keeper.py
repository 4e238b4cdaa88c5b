"""An engine that is kept running, and its adapters: everything is real but vLLM (scripts/stub_engine.py)."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from shutil import rmtree
from threading import Event

import pytest

from retrieval.passage import Query
from scripts.serving import descendants, is_running, words_of
from serve import engine, keeper
from serve.chat import Answer, ServeError, Unavailable
from serve.combination import Combination
from serve.engine import Engine
from serve.gateway import Gateway
from serve.keeper import Keeper
from serve.pipeline import Piece, Pipeline
from serve.stack import Stack
from tests.tiny import make_adapter, make_model

QUERY = Query("Who?")
Open = Callable[[], AbstractAsyncContextManager[Pipeline]]


@pytest.fixture(autouse=True)
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's flags for the stub, and no long waits."""
    theirs = engine.command

    def command(stack: Stack, model: Path, homes: Mapping[str, Path], socket: Path) -> list[str]:
        return [sys.executable, "-m", "scripts.stub_engine", *theirs(stack, model, homes, socket)[3:]]

    monkeypatch.setattr(engine, "command", command)
    monkeypatch.setattr(keeper, "PULSE", 0.02)
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.05)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    """With a stack that names `named` and watches `shelf`."""
    (tmp_path / "shelf").mkdir()
    make_adapter(tmp_path / "named", model)
    (tmp_path / "stack.yaml").write_text(
        f"model: {model}\nadapters: {{named: named}}\nadapter_folder: shelf\n"
        "engine: {max_loras: 3, max_lora_rank: 16}\n"
        "strategies: {direct: {kind: direct}}\nsampling: {max_tokens: 3}\n"
    )
    return tmp_path


@pytest.fixture
def opened(folder: Path) -> Iterator[Open]:
    """Opens a pipeline with an engine that is kept."""

    @asynccontextmanager
    async def opening() -> AsyncIterator[Pipeline]:
        with Keeper(Stack.load(folder / "stack.yaml"), folder / "engine.log") as kept:
            async with Pipeline(kept.stack, kept.server) as pipeline, kept.keeping(pipeline):
                yield pipeline

    yield opening
    deadline = time.monotonic() + 60
    while stubs():  # one that was still starting is ended by the thread that started it
        assert time.monotonic() < deadline, "an engine stays behind"
        time.sleep(0.02)


@pytest.fixture
def may_start(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Every engine but the first waits for it."""
    enter, told, begun = Engine.__enter__, Event(), count()

    def when_told(engine: Engine) -> Engine:
        if next(begun):
            told.wait(60)
        return enter(engine)

    monkeypatch.setattr(Engine, "__enter__", when_told)
    return told


def put(folder: Path, model: Path, name: str, seed: int = 1, rank: int = 8) -> Path:
    """An adapter that is there all at once, as training writes it."""
    make_adapter(folder / "made" / name, model, rank=rank, seed=seed)
    rmtree(folder / "shelf" / name, ignore_errors=True)
    return (folder / "made" / name).rename(folder / "shelf" / name)


async def said(pipeline: Pipeline, adapter: str) -> str:
    answer = await pipeline.ask(Combination(adapter, "none", "direct"), QUERY)
    return answer.text.split()[0]


async def ready(pipeline: Pipeline) -> None:
    async with asyncio.timeout(60):
        while await pipeline.trouble():
            await asyncio.sleep(0.02)


async def until(holds: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.02)


def stubs() -> dict[int, str]:
    """What these tests have started that still runs: other tests of the same session may have an engine too."""
    said = {pid: words_of(pid) for pid in descendants(os.getpid()) if is_running(pid)}
    return {pid: words for pid, words in said.items() if "scripts.stub_engine" in words}


def server_of_the_engine() -> int:
    return next(pid for pid, words in stubs().items() if "serve.guard" not in words)


def guard() -> int:
    return next(pid for pid, words in stubs().items() if "serve.guard" in words)


@pytest.mark.parametrize("victim", [server_of_the_engine, guard])
async def test_an_engine_that_is_killed_is_said_to_be_down_and_started_again(
    opened: Open, folder: Path, victim: Callable[[], int], may_start: Event
) -> None:
    async with opened() as pipeline:
        before = await said(pipeline, "named")
        os.kill(victim(), signal.SIGKILL)
        async with asyncio.timeout(60):
            while "is being started again" not in await pipeline.trouble():
                await asyncio.sleep(0.02)
        with pytest.raises(Unavailable, match="the engine has stopped and is being started again"):
            await said(pipeline, "named")
        may_start.set()
        await ready(pipeline)

        assert (folder / "engine.log.1").exists()
        assert before.startswith("named@")
        assert await said(pipeline, "named") == before
        assert await said(pipeline, "base") == "base"


async def test_a_server_that_outlives_its_engine_is_replaced(
    opened: Open, folder: Path, may_start: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "ASK_SECONDS", 0.05)
    async with opened() as pipeline:
        with pytest.raises(Unavailable):
            await pipeline.ask(Combination("base", "none", "direct"), Query("Die."))
        assert await pipeline.trouble()
        may_start.set()
        await until(lambda: (folder / "engine.log.1").exists())
        await ready(pipeline)
        assert await said(pipeline, "base") == "base"


async def test_a_stream_under_way_ends_with_the_reason_when_the_engine_is_killed(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SECONDS", "0.2")
    async with opened() as pipeline:
        heard: list[Piece] = []

        async def tell(piece: Piece) -> None:
            heard.append(piece)

        answering = asyncio.create_task(pipeline.stream(Combination("base", "none", "direct"), QUERY, tell))
        await until(lambda: len(heard) > 1)

        os.kill(server_of_the_engine(), signal.SIGKILL)

        with pytest.raises(Unavailable, match="broke off its answer"):
            await answering


async def test_telling_it_to_stop_while_it_starts_again_does_not_wait_for_it(
    opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened():
        monkeypatch.setenv("STUB_STARTING", "600")
        os.kill(server_of_the_engine(), signal.SIGKILL)
        await until(lambda: (folder / "engine.log.1").exists())


async def test_an_adapter_is_on_offer_from_when_it_lies_in_the_folder_until_it_is_gone(
    opened: Open, folder: Path, model: Path
) -> None:
    async with opened() as pipeline:
        gateway = Gateway(pipeline)
        assert "late:none:direct" not in gateway.offered
        put(folder, model, "late")
        await until(lambda: "late:none:direct" in gateway.offered)
        assert (await said(pipeline, "late")).startswith("late@")

        rmtree(folder / "shelf" / "late")

        await until(lambda: "late:none:direct" not in gateway.offered)
        assert (await said(pipeline, "named")).startswith("named@")


async def test_other_weights_under_the_same_name_are_another_model_to_the_engine(
    opened: Open, folder: Path, model: Path
) -> None:
    put(folder, model, "late")
    async with opened() as pipeline:
        first = await said(pipeline, "late")
        put(folder, model, "late", seed=2)
        await until(lambda: pipeline.line.server.names.get("late", first) != first)  # for a moment there may be none
        second = await said(pipeline, "late")
        put(folder, model, "late", seed=1)
        await until(lambda: pipeline.line.server.names.get("late", second) != second)

        assert await said(pipeline, "late") == first != second


async def test_what_has_been_replaced_is_unloaded_when_nobody_can_be_asking_it(
    opened: Open, folder: Path, model: Path
) -> None:
    with (folder / "stack.yaml").open("a") as file:
        file.write("gateway: {total_seconds: 0.1}\n")
    put(folder, model, "late")
    async with opened() as pipeline:
        first = pipeline.line.server.names["late"]
        put(folder, model, "late", seed=2)
        await until(lambda: pipeline.line.server.names.get("late", first) != first)
        socket = pipeline.line.server.socket
        assert socket
        await until(lambda: not (socket.parent / first).exists())

        assert first not in {card["id"] for card in await pipeline.line.models()}


def wrong_base(shelf: Path, model: Path) -> None:
    make_adapter(shelf / "bad", make_model(shelf.parent / "wide", width=320))


BROKEN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "dead": (lambda shelf, model: make_adapter(shelf / "idle", model, scale=0), "has no effect"),
    "pickle": (
        lambda shelf, model: (make_adapter(shelf / "bad", model) / "adapter_model.bin").touch(),
        "a pickle can run any code",
    ),
    "wrong base": (wrong_base, "was made for another model"),
    "rank": (lambda shelf, model: make_adapter(shelf / "bad", model, rank=17), "has rank 17, and the engine takes 16"),
    "half": (
        lambda shelf, model: (make_adapter(shelf / "bad", model) / "adapter_model.safetensors").unlink(),
        "it has no adapter_model.safetensors",
    ),
}


@pytest.mark.parametrize("when", ["before", "while serving"])
@pytest.mark.parametrize("which", BROKEN)
async def test_a_broken_adapter_in_the_folder_is_refused_once_and_the_others_serve(
    opened: Open, folder: Path, model: Path, caplog: pytest.LogCaptureFixture, which: str, when: str
) -> None:
    spoilt, sentence = BROKEN[which]
    if when == "before":
        spoilt(folder / "shelf", model)
    async with opened() as pipeline:
        if when != "before":
            spoilt(folder / "shelf", model)
        put(folder, model, "fine")
        await until(lambda: "fine" in pipeline.line.server.names)
        await asyncio.sleep(0.2)

        assert set(pipeline.stack.adapters) == {"named", "fine"}
        assert (await said(pipeline, "named")).startswith("named@")
    told = [record.getMessage() for record in caplog.records if sentence in record.getMessage()]
    assert len(told) == 1


async def test_what_is_named_outside_the_folder_is_not_reached_through_it(
    opened: Open, folder: Path, model: Path
) -> None:
    make_adapter(folder / "elsewhere" / "private", model)
    (folder / "shelf" / "link").symlink_to(folder / "elsewhere" / "private")
    (folder / "shelf" / "..x").mkdir()
    async with opened() as pipeline:
        put(folder, model, "fine")
        await until(lambda: "fine" in pipeline.stack.adapters)

        assert set(pipeline.stack.adapters) == {"named", "fine"}


async def test_more_adapters_than_there_is_room_for_are_refused_with_the_setting(
    opened: Open, folder: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(folder, model, "first")
    async with opened() as pipeline:
        put(folder, model, "second")
        await until(lambda: "second" in pipeline.stack.adapters)
        put(folder, model, "third")
        await until(lambda: "set engine.max_loras" in caplog.text)

        assert set(pipeline.stack.adapters) == {"named", "first", "second"}


async def test_a_named_adapter_that_is_spoilt_while_serving_goes_on_until_a_restart_leaves_it_out(
    opened: Open, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as pipeline:
        (folder / "named" / "adapter_config.json").write_text("{")
        await until(lambda: "what it was before goes on" in caplog.text)
        assert (await said(pipeline, "named")).startswith("named@")

        os.kill(server_of_the_engine(), signal.SIGKILL)
        await until(lambda: not pipeline.stack.adapters)

        assert await said(pipeline, "base") == "base"


async def test_a_named_adapter_that_changes_nothing_is_refused_at_the_start(folder: Path, model: Path) -> None:
    idle = make_adapter(folder / "idle", model, scale=0)
    stack = replace(Stack.load(folder / "stack.yaml"), adapters={"idle": idle})
    with Keeper(stack, folder / "engine.log") as kept:
        async with Pipeline(kept.stack, kept.server) as pipeline:
            with pytest.raises(ServeError, match="idle has no effect"):
                async with kept.keeping(pipeline):
                    pass


async def test_an_answer_under_way_is_finished_by_the_adapter_it_began_with(
    opened: Open, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_SECONDS", "0.2")
    put(folder, model, "late")
    async with opened() as pipeline:
        first = pipeline.line.server.names["late"]
        asking: asyncio.Task[Answer] = asyncio.create_task(pipeline.ask(Combination("late", "none", "direct"), QUERY))
        await asyncio.sleep(0.1)
        put(folder, model, "late", seed=2)
        await until(lambda: pipeline.line.server.names.get("late", first) != first)

        assert (await asking).text.split()[0] == first


def test_the_stub_is_given_what_vllm_is_given(folder: Path) -> None:
    stack = Stack.load(folder / "stack.yaml")
    words = engine.command(stack, Path(stack.model), {"named": Path("/x/named@1")}, Path("/x/socket"))

    assert words[1:3] == ["-m", "scripts.stub_engine"]
    assert json.dumps(words).count("named@1=/x/named@1") == 1
