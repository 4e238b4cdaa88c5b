"""One engine for all tests that need a real one: starting it is what takes the time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve.engine import Engine
from serve.stack import EngineSettings, Stack
from serve.strategies import StrategySettings
from tests.tiny import make_adapter, make_model


@dataclass(frozen=True)
class Running:
    """`Pipeline(running.stack, running.engine.transport)` asks it."""

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
            "direct": StrategySettings(kind="direct"),
            "told": StrategySettings(kind="instructed", instructions="Answer in one word."),
        },
        engine=EngineSettings(dtype="float32", max_model_len=1024, arguments=("--max-loras", "1")),
    )
    with Engine(stack, folder / "engine.log") as engine:
        yield Running(stack, engine, folder / "engine.log")
