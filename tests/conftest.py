"""What several test files share: one real engine, whose start is what takes the time, and a folder to train in."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from scripts.browser import NONE_HERE, chromium
from serve.engine import Engine
from serve.stack import EngineSettings, Stack
from serve.strategies.prompted import Prompted
from tests.tiny import make_adapter, make_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Hypothesis' own profile for continuous integration, here everywhere: the same examples each time, and no clock, which
# on a busy machine would tell of the machine. `--hypothesis-profile default` draws others.
settings.load_profile("ci")


@dataclass(frozen=True)
class Running:
    """`Pipeline(running.stack, running.engine.server)` asks it."""

    stack: Stack
    engine: Engine
    log: Path


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model with random weights in float32, the adapter `house`, and `idle`, which changes nothing.

    It has one adapter slot instead of the three that `serve.engine` gives it: so a base prompt that shares a batch with
    an adapter's is answered rightly only if our CPU operators are really at work in the engine's process.
    """
    folder = tmp_path_factory.mktemp("engine")
    model = make_model(folder / "model")
    stack = Stack(
        model=str(model),
        adapters={
            "house": make_adapter(folder / "house", model),
            "idle": make_adapter(folder / "idle", model, scale=0),
        },
        strategies={
            "direct": Prompted(kind="direct"),
            "told": Prompted(kind="instructed", instructions="Answer in one word."),
        },
        engine=EngineSettings(dtype="float32", max_model_len=1024, arguments=("--max-loras", "1")),
    )
    with Engine(stack, folder / "engine.log") as engine:
        yield Running(stack, engine, folder / "engine.log")


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A real one; no longer than a module, since it holds an event loop that other tests want."""
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)  # a page on a busy machine is slow, and right
    with chromium() as launched:
        if launched is None:
            pytest.skip(NONE_HERE)
        yield launched


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, chats and a recipe."""
    folder = tmp_path_factory.mktemp("world")
    make_model(folder / "model", width=64)
    random = Random(0)
    with (folder / "chats.jsonl").open("w") as file:
        for number in range(60):
            words = " ".join(random.choice(("red", "green", "blue", "white")) for _ in range(random.randrange(3, 40)))
            question = {"role": "user", "content": f"Row {number}: {words}. Which colour came first?"}
            answer = {"role": "assistant", "content": words.split()[0]}
            file.write(json.dumps({"messages": [question, answer]}) + "\n")
    (folder / "tiny.yaml").write_text(
        "model: model\ndata: chats.jsonl\noutput: adapters\nrank: 8\nepochs: 2\nlearning_rate: 5.0e-3\n"
        "max_length: 192\ntokens_per_step: 512\neval_fraction: 0.2\n"
    )
    return folder
