"""The controls: what cannot help is seen not to help, by the very commands that measure what does.

Beside the real levers stand an adapter trained on the answers of other questions and a retriever that draws passages at
random. Only questions with an answer count: whoever always says "unknown" is right about the rest.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from eval.analysis import Analysis, analyse
from eval.folder import load_results
from retrieval.files import write_jsonl
from scripts.pocket.files import write_world

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "scripts" / "pocket" / "model"
CHATS = 480
QUESTIONS = 60


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """A world, two short trainings, and one run over {base, taught, shuffled} x {none, lexical, random}."""
    world = tmp_path_factory.mktemp("out") / "demo" / "world"
    write_world(seed=17, folder=world)
    write_stack(world)
    write_jsonl(world / "train.jsonl", rows(world / "train.jsonl")[:CHATS])
    write_jsonl(world / "test.jsonl", answerable(rows(world / "test.jsonl")))
    run("-m", "retrieval", "build", world / "corpus.jsonl", world / "index")
    run("-m", "scripts.make_sft", world / "sft.yaml")
    chats = rows(world / "sft.jsonl")
    write_jsonl(world / "taught.jsonl", chats)
    write_jsonl(world / "shuffled.jsonl", shuffled(chats))
    for name in ("taught", "shuffled"):
        train(world, name)
    run("-m", "eval", "run", world / "grid.yaml", "--out", world / "run")
    return analyse(load_results(world / "run"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answerable(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    asked = [row for row in examples if row["meta"]["slice"] in ("fact", "code", "updated")]
    return Random(0).sample(asked, QUESTIONS)


def shuffled(chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every chat with the answer of another one."""
    said = [chat["messages"][-1] for chat in chats]
    return [
        {**chat, "messages": [*chat["messages"][:-1], answer]}
        for chat, answer in zip(chats, Random(0).sample(said, len(said)), strict=True)
    ]


def write_stack(world: Path) -> None:
    """The demo's settings, with the controls in them and only what they need."""
    lexical = {"kind": "lexical", "index": "index", "k": 3}
    stack = yaml.safe_load((world / "stack.yaml").read_text())
    stack |= {
        "model": str(MODEL),
        "adapters": {name: f"adapters/{name}" for name in ("taught", "shuffled")},
        "retrievers": {"lexical": lexical, "random": {**lexical, "kind": "random"}},
    }
    grid = yaml.safe_load((world / "grid.yaml").read_text())
    grid |= {
        "adapters": ["base", *stack["adapters"]],
        "retrievers": ["none", *stack["retrievers"]],
        "strategies": ["direct"],
    }
    sft = yaml.safe_load((world / "sft.yaml").read_text())
    sft |= {"retrievers": ["lexical", "gold"], "strategies": ["direct"]}
    for name, settings in (("stack", stack), ("grid", grid), ("sft", sft)):
        (world / f"{name}.yaml").write_text(yaml.safe_dump(settings))


def train(world: Path, name: str) -> None:
    run(
        "-m",
        "accelerate.commands.launch",
        *("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        "train/lora.py",
        *(f"name={name}", f"data={world / name}.jsonl", f"model={MODEL}", f"output={world / 'adapters'}"),
        *("epochs=1", "eval_fraction=0"),
    )


def run(*arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def mean(analysis: Analysis, combination: str) -> float:
    return next(row.score for row in analysis.rows if row.combination == combination)


def low_and_high(analysis: Analysis, level: str) -> tuple[float, float]:
    """The interval of a lever's main effect."""
    estimate = next(effect.estimate for effect in analysis.effects if effect.level == level)
    return estimate.low, estimate.high


def test_what_helps_is_seen_to_help(analysis: Analysis) -> None:
    """Otherwise the controls would show nothing."""
    assert low_and_high(analysis, "taught")[0] > 0
    assert low_and_high(analysis, "lexical")[0] > 0


def test_an_adapter_trained_on_shuffled_answers_shows_no_help(analysis: Analysis) -> None:
    low, high = low_and_high(analysis, "shuffled")

    assert low <= 0
    assert high < low_and_high(analysis, "taught")[0]


def test_random_passages_show_no_help(analysis: Analysis) -> None:
    low, high = low_and_high(analysis, "random")

    assert low <= 0
    assert high < low_and_high(analysis, "lexical")[0]
