"""Engines that Ray runs. What needs Ray is skipped without it; the engines are stand-ins for vLLM in its name."""

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from threading import Thread

import httpx
import pytest
import yaml

from eval.grid import Grid, load_grid
from eval.keys import keys_of
from retrieval.build import build
from retrieval.cluster import HERE
from retrieval.documents import read_documents
from retrieval.files import FileError
from retrieval.manifest import BuildSettings
from scripts.check_ray import Watched, on_ray, outlive
from scripts.serving import descendants, is_running, words_of
from serve.__main__ import up
from serve.adapters import served_as
from serve.base import model_files
from serve.chat import Message, Reply, Sampling, ServeError, Unavailable
from serve.engine import Engine, engine_version
from serve.replicas import Order, Replicas, refuse_others
from serve.session import watched
from serve.stack import Stack
from serve.upstream import Chunk, Line, Patience, Server, Upstream
from tests.eval_stub import write_world
from tests.serve_stub import echoing
from tests.tiny import make_adapter, make_model
from tests.tiny_search import make_embedder

ROOT = Path(__file__).parents[1]
STAND_IN = 'import runpy\nrunpy.run_module("scripts.stub_engine", run_name="__main__")\n'


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Twelve questions with a base model, an adapter and a search."""
    world = tmp_path_factory.mktemp("world")
    make_adapter(world / "house", make_model(world / "model"))
    path = write_world(world, "", n=12, adapters=["base", "house"], retrievers=["none", "words"], strategies=["direct"])
    build(
        list(read_documents(world / "corpus.jsonl")),
        world / "index",
        BuildSettings(embedder=str(make_embedder(world / "embedder"))),
    )
    settings = {
        "model": "model",
        "adapters": {"house": "house"},
        "engine": {"max_model_len": 256},
        "retrievers": {"words": {"kind": "lexical", "index": "index", "k": 2}},
        "strategies": {"direct": {"kind": "direct"}},
        "sampling": {"max_tokens": 4},
    }
    (world / "stack.yaml").write_text(yaml.safe_dump(settings))
    return load_grid(path)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are started from here find `vllm` to be the stand-in, whose words depend on the prompt."""
    package = tmp_path / "stand_in" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(STAND_IN)
    for name, value in {
        "PYTHONPATH": f"{tmp_path / 'stand_in'}:{ROOT}",
        "STUB_SECONDS": "0.05",
        "STUB_TELLS": "1",
    }.items():
        monkeypatch.setenv(name, value)


REFUSED = {
    "engine: {replicas: 2}\n": "replicas is 2, and there is no Ray to run them; add `ray: local`",
    "engine: {ray: local, replicas: 0}\n": "engine.replicas: Input should be greater than or equal to 1",
    'engine: {ray: ""}\n': "engine.ray: String should have at least 1 character",
    "engine: {ray: local}\nurl: http://host:8000/v1\n": "3: engine.ray: a stack with a `url` starts no engines",
}


@pytest.mark.parametrize(("lines", "sentence"), REFUSED.items(), ids=REFUSED)
def test_a_cluster_that_makes_no_sense_is_refused_at_its_line(tmp_path: Path, lines: str, sentence: str) -> None:
    (tmp_path / "stack.yaml").write_text("model: x\nstrategies: {direct: {kind: direct}}\n" + lines)

    with pytest.raises(FileError) as caught:
        Stack.load(tmp_path / "stack.yaml")

    assert "stack.yaml:" in str(caught.value)
    assert sentence in str(caught.value)


def test_a_gateway_starts_no_cluster(tmp_path: Path) -> None:
    (tmp_path / "stack.yaml").write_text(
        "model: x\nstrategies: {direct: {kind: direct}}\nengine:\n  ray: local\n  replicas: 2\n"
    )

    with pytest.raises(ServeError, match=r"stack\.yaml:4: engine\.ray is for evaluations"):
        up(tmp_path / "stack.yaml", 0, None)


def test_without_ray_one_sentence_says_how_to_get_it(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(ServeError, match=r"engine\.ray needs Ray, which is not installed: make ray"):
        Replicas(on_ray(grid, HERE, 1).stack).__enter__()


def test_where_an_answer_is_computed_is_no_part_of_what_it_depends_on(grid: Grid) -> None:
    assert keys_of(on_ray(grid, "head:6379", 8)) == keys_of(grid)


def test_a_machine_whose_files_are_others_is_refused(grid: Grid, tmp_path: Path) -> None:
    stack = grid.stack
    names = {name: served_as(name, folder) for name, folder in stack.adapters.items()}
    model = Path(stack.model)
    order = Order(stack=stack, vllm=engine_version(), model=model_files(model), names=names, key="", host="")
    other = Path(shutil.copytree(model, tmp_path / "model"))
    (weights,) = other.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    changed = make_adapter(tmp_path / "house", Path(stack.model), seed=2)

    refuse_others(order)
    with pytest.raises(ServeError, match=r"house is another adapter there than where the run began"):
        refuse_others(replace(order, stack=replace(stack, adapters={"house": changed})))
    with pytest.raises(ServeError, match=r"model is another model there than where the run began; copy it anew"):
        refuse_others(replace(order, stack=replace(stack, model=str(other))))
    with pytest.raises(ServeError, match=r"there is no folder .*nowhere"):
        refuse_others(replace(order, stack=replace(stack, model=str(tmp_path / "nowhere"))))
    with pytest.raises(ServeError, match=r"and the run began with vllm 0\.1"):
        refuse_others(replace(order, vllm="vllm 0.1"))


QUESTION = (Message("user", "Who?"),)
Way = Callable[[Upstream, tuple[Message, ...]], Coroutine[None, None, Reply]]


async def test_a_call_waits_for_an_engine_that_is_on_its_way() -> None:
    there: list[str] = []
    with echoing(models=("tiny",)) as echo:
        async with Line(Server(there, comes_within=60)) as line:
            asked = asyncio.create_task(Upstream(line, "tiny", Sampling()).chat(QUESTION))
            await asyncio.sleep(0.1)
            there.append("http://127.0.0.1:9/v1")  # nobody answers there, as when its machine has just died
            await asyncio.sleep(0.1)
            there[:] = [echo.url]

            reply = await asyncio.wait_for(asked, 30)

    assert reply.text
    assert len(echo.asked) == 1


async def unheard(_: Chunk) -> None:
    """Nobody listens."""


@pytest.mark.parametrize("way", [Upstream.chat, lambda model, said: model.hear(said, unheard)], ids=["whole", "stream"])
async def test_the_wait_for_an_engine_is_no_part_of_an_answers_seconds(way: Way) -> None:
    there: list[str] = []
    with echoing(models=("tiny",)) as echo:
        async with Line(Server(there, comes_within=60)) as line:
            asked = asyncio.create_task(way(Upstream(line, "tiny", Sampling()), QUESTION))
            await asyncio.sleep(0.1)
            came = time.perf_counter()
            there.append(echo.url)

            reply = await asyncio.wait_for(asked, 30)
            since = time.perf_counter() - came

    assert 0 < reply.seconds < since


async def test_when_no_engine_comes_in_time_a_call_fails_and_is_no_answer() -> None:
    async with Line(Server([], comes_within=0.2), Patience(back_off=())) as line:
        with pytest.raises(Unavailable, match="no engine is there"):
            await Upstream(line, "tiny", Sampling()).chat(QUESTION)


async def test_an_engine_that_answers_with_errors_is_not_waited_for() -> None:
    with echoing(failures=[500, 500], models=("tiny",)) as echo:
        async with Line(Server([echo.url], comes_within=60), Patience(back_off=(0.0,))) as line:
            with pytest.raises(Unavailable, match="answered 500"):
                await asyncio.wait_for(Upstream(line, "tiny", Sampling()).chat(QUESTION), 30)


async def test_the_key_of_engines_with_ports_goes_with_every_call() -> None:
    line = Line(Server(["http://127.0.0.1:9/v1"], key="secret"))
    async with line:
        assert line.http.headers["Authorization"] == "Bearer secret"
    assert "secret" not in repr(line.server)


def test_a_connection_asks_after_a_machine_that_says_nothing() -> None:
    with watched((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 9))) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert 0 < made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 60
        assert 0 < made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) < 60_000


def test_an_engine_with_a_port_has_a_key_and_reads_no_other_adapters(
    grid: Grid, tmp_path: Path, stand_in: None
) -> None:
    with Engine(grid.stack, tmp_path / "engine.log", "127.0.0.1", "secret") as engine:
        (served,) = engines(grid)
        seen = Path(f"/proc/{served}/environ").read_text().split("\0")
        health = httpx.get(engine.server.urls[0].replace("/v1", "/health"), trust_env=False)

    assert health.is_success
    assert {"VLLM_API_KEY=secret", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=0"} <= set(seen)
    assert engine.server.key == "secret"
    assert not engines(grid)


def test_a_node_that_dies_costs_no_answer_and_changes_none(grid: Grid, tmp_path: Path, stand_in: None) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: make ray")

    seen = outlive(grid, tmp_path)

    assert (seen.prompts, seen.texts, seen.scores) == (seen.answers,) * 3
    assert seen.kept < seen.answers
    assert len(seen.after) == 1


def test_an_engine_that_dies_is_started_again_and_nothing_of_it_stays(
    grid: Grid, tmp_path: Path, stand_in: None
) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: make ray")
    watched = Watched(on_ray(grid, HERE, 1), tmp_path / "out")
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 120
        while watched.lines < 10 and time.monotonic() < until:
            time.sleep(0.01)
        killed.extend(engines(grid))
        os.kill(killed[0], signal.SIGKILL)

    killer = Thread(target=kill, daemon=True)
    killer.start()
    watched.run()
    killer.join(60)

    assert len(watched.records) == len(grid.cells) * len(grid.task.examples)
    assert killed
    assert not engines(grid)


def test_an_engine_that_still_starts_when_a_run_ends_is_over_with_it(
    grid: Grid, tmp_path: Path, stand_in: None
) -> None:
    """One of two is ready at once; the other never would be."""
    pytest.importorskip("ray", reason="Ray is an extra: make ray")
    program, ready = tmp_path / "stand_in/vllm/entrypoints/openai/api_server.py", tmp_path / "ready"
    program.write_text(f"import os, time\ntry: os.mkdir({str(ready)!r})\nexcept OSError: time.sleep(600)\n{STAND_IN}")

    with Replicas(on_ray(grid, HERE, 2).stack):
        until = time.monotonic() + 120
        while len(running := engines(grid)) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        used = folders(grid)

    assert len(running) == len(used) == 2
    assert not list(filter(is_running, running))
    assert not [folder for folder in used if folder.exists()]


class Lives:
    """Ray, as one who follows a replica sees it: what came of each start and each end, one after the other."""

    class exceptions:  # noqa: N801 - Ray's own name
        class RayActorError(Exception): ...

        class RayTaskError(Exception):
            cause = "no room"

    def __init__(self, *came: str | type[Exception]) -> None:
        self._came = iter(came)
        self.killed: list[bool] = []

    def __getattr__(self, name: str) -> "Lives":
        """A replica, and each way to call it."""
        return self

    def options(self, **_: object) -> "Lives":
        return self

    def remote(self) -> "Lives":
        return self

    def get(self, _: object) -> str:
        if isinstance(came := next(self._came), str):
            return came
        raise came

    def kill(self, _: object, no_restart: bool = True) -> None:
        self.killed.append(no_restart)


def test_a_replica_that_cannot_be_started_gives_its_gpus_back(grid: Grid) -> None:
    lives = Lives(Lives.exceptions.RayTaskError)

    Replicas(on_ray(grid, HERE, 1).stack)._follow(lives, 0, lives)

    assert lives.killed == [True]


def test_a_replica_that_cannot_be_started_again_is_told_of_and_tried_anew(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve.replicas.PAUSE", 0.0)
    lost, refused = Lives.exceptions.RayActorError, Lives.exceptions.RayTaskError
    lives = Lives("http://here/v1", lost, refused, lost)

    Replicas(on_ray(grid, HERE, 1).stack)._follow(lives, 0, lives)

    assert lives.killed == [False]
    assert "replica 0 cannot be started again: no room" in caplog.text


def engines(grid: Grid) -> list[int]:
    """The stand-ins for this model that this process has started, by whatever way."""
    return [pid for pid, said in _words(grid).items() if "serve.guard" not in said]


def folders(grid: Grid) -> list[Path]:
    """Where each of them has what it needs, which its guard removes."""
    return [Path(said.split()[3]) for said in _words(grid).values() if "serve.guard" in said]


def _words(grid: Grid) -> dict[int, str]:
    words = {pid: words_of(pid) for pid in descendants(os.getpid()) if is_running(pid)}
    return {pid: said for pid, said in words.items() if f"--model {grid.stack.model} " in said}
