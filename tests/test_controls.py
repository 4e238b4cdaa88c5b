"""Controls: levers that cannot help are measured to be no help, beside the same levers in earnest, by every real part.

An adapter trained on shuffled answers learns the format and nothing else; a retriever that returns random passages
costs tokens and finds nothing. A measurement that credits either of them is broken.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from eval.analysis import analyse
from eval.effects import Effect
from eval.folder import load_results
from retrieval.files import read_jsonl, write_jsonl
from scripts.pocket.files import write_world

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "scripts" / "pocket" / "model"
SEED = 17
CHATS, QUESTIONS = 480, 60
LAUNCH = (
    *("-m", "accelerate.commands.launch", "--quiet", "--num_processes", "1", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def write_yaml(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def do(folder: Path, *words: str) -> None:
    """A command of a user, in `folder`; what it said is shown if it fails."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def train(folder: Path, name: str, chats: Iterable[dict[str, Any]]) -> None:
    """The demo's recipe on these chats, through the front door."""
    write_jsonl(folder / f"{name}.jsonl", chats)
    recipe = ROOT / "train" / "recipes" / "demo.yaml"
    settings = (f"name={name}", f"data={folder / name}.jsonl", f"output={folder}")
    do(folder, *LAUNCH, str(ROOT / "train" / "lora.py"), "--config", str(recipe), *settings)


def shuffled(chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same questions and the same answers, each under another's question."""
    answers = [chat["messages"][-1] for chat in chats]
    Random(SEED).shuffle(answers)
    return [chat | {"messages": [*chat["messages"][:-1], answer]} for chat, answer in zip(chats, answers, strict=True)]


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Effect]:
    """The main effect of each lever, by name, over {base, taught, shuffled} x {none, lexical, random}."""
    folder = tmp_path_factory.mktemp("controls")
    write_world(SEED, folder)
    do(folder, "-m", "retrieval", "build", "corpus.jsonl", "index")
    stack = {
        "model": str(MODEL),
        "adapters": {"taught": "taught", "shuffled": "shuffled"},
        "retrievers": {kind: {"kind": kind, "index": "index", "k": 3} for kind in ("lexical", "random")},
        "strategies": {"direct": {"kind": "direct"}},
        "sampling": {"max_tokens": 64},
    }
    write_yaml(folder / "stack.yaml", stack)
    sft = {"retrievers": ["lexical", "gold"], "strategies": ["direct"], "target": "house", "out": "sft.jsonl"}
    write_yaml(folder / "sft.yaml", {"stack": "stack.yaml", "task": "task.yaml", "examples": "train.jsonl"} | sft)
    do(folder, "-m", "scripts.make_sft", "sft.yaml")
    chats = rows_of(folder / "sft.jsonl")[:CHATS]
    train(folder, "taught", chats)
    train(folder, "shuffled", shuffled(chats))

    answerable = [row for row in rows_of(folder / "test.jsonl") if row["evidence"]]
    write_jsonl(folder / "test.jsonl", Random(SEED).sample(answerable, QUESTIONS))
    cells = {"adapters": ["base", "taught", "shuffled"], "retrievers": ["none", "lexical", "random"]}
    grid = {"stack": "stack.yaml", "task": "task.yaml", **cells, "strategies": ["direct"]}
    write_yaml(folder / "grid.yaml", grid | {"baseline": "base:none:direct"})
    do(folder, "-m", "eval", "run", "grid.yaml", "--out", "out")
    return {effect.level: effect for effect in analyse(load_results(folder / "out")).effects}


@pytest.mark.parametrize(("real", "control"), [("taught", "shuffled"), ("lexical", "random")])
def test_a_lever_helps_and_its_control_does_not(real: str, control: str, effects: dict[str, Effect]) -> None:
    helped, idle = effects[real].estimate, effects[control].estimate

    assert helped.low > 0
    assert idle.low <= 0
    assert idle.high < helped.low
