"""What was evaluated is what is served: an evaluation and the gateway send the engine the same bytes."""

import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from eval.__main__ import main
from retrieval.build import build
from retrieval.documents import read_documents
from retrieval.manifest import BuildSettings
from scripts.serving import up
from serve.upstream import STREAM
from tests.eval_stub import write_rows, write_world
from tests.serve_stub import Echo, echoing
from tests.tiny_search import make_embedder

ADAPTERS, RETRIEVERS = ("base", "tuned"), ("none", "lexical")
STRATEGIES: dict[str, dict[str, Any]] = {
    "direct": {"kind": "direct"},
    "brief": {"kind": "instructed", "instructions": "Be brief: “Ärger” is a word."},
    "shown": {"kind": "fewshot", "instructions": "Answer so.", "demonstrations": "shots.jsonl"},
    "reasoned": {"kind": "cot", "instructions": "Think. Write the answer after `Answer:`."},
}
CELLS = [":".join(parts) for parts in product(ADAPTERS, RETRIEVERS, STRATEGIES)]
QUESTIONS = 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task, an index, a stack with every kind of strategy, and a grid over all of it; no server in it yet."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, "", QUESTIONS, retrievers=list(RETRIEVERS), strategies=list(STRATEGIES))
    turns = [{"role": "user", "content": "Question: Who?"}, {"role": "assistant", "content": "Odo, née Ærø."}]
    write_rows(folder / "shots.jsonl", [{"messages": turns}])
    settings = BuildSettings(embedder=str(make_embedder(folder / "embedder")))
    build(read_documents(folder / "corpus.jsonl"), folder / "index", settings)
    return folder


@pytest.fixture(scope="module")
def asked(world: Path) -> Echo:
    """A server that remembers every body, after an evaluation of every cell."""
    with echoing() as echo:
        write_stack(world, echo)
        assert main(["run", str(world / "grid.yaml"), "--out", str(world / "run")]) == 0
    return echo


def write_stack(world: Path, echo: Echo) -> Path:
    stack = {
        "model": "pocket",
        "url": echo.url,
        "adapters": {"tuned": "adapters/tuned"},
        "retrievers": {"lexical": {"kind": "lexical", "index": "index", "k": 2}},
        "strategies": STRATEGIES,
        "sampling": {"max_tokens": 9, "stop": ["\n\n"], "seed": 3},
    }
    (world / "stack.yaml").write_text(yaml.safe_dump(stack), encoding="utf-8")
    return world / "stack.yaml"


def at_the_gateway(world: Path, **fields: Any) -> list[bytes]:
    """What reaches the server when callers ask the questions of the test set of every combination, as people do."""
    rows = [json.loads(line) for line in (world / "test.jsonl").read_text().splitlines()]
    with echoing() as echo, up(write_stack(world, echo)) as (_, url):
        for cell, row in product(CELLS, rows):
            messages = [{"role": "user", "content": row["question"]}]
            body = {"model": cell, "messages": messages, "metadata": row["meta"], **fields}
            httpx.post(f"{url}/chat/completions", json=body, timeout=60).raise_for_status()
    return answered(echo)


def answered(echo: Echo) -> list[bytes]:
    """The bodies without those of the probe, by which adapters are found alive at a start."""
    return [body for body in echo.bodies if b'"logprobs"' not in body]


def test_the_gateway_sends_the_bytes_that_an_evaluation_sends(world: Path, asked: Echo) -> None:
    evaluated = Counter(answered(asked))

    assert len(evaluated) == len(CELLS) * QUESTIONS, "every combination asks every question in its own way"
    assert Counter(at_the_gateway(world)) == evaluated


def test_a_stream_differs_in_that_it_is_one(world: Path, asked: Echo) -> None:
    streamed = [json.loads(body) for body in at_the_gateway(world, stream=True)]
    evaluated = [json.loads(body) for body in answered(asked)]

    for body in streamed:
        alone = {name: value for name, value in body.items() if name not in STREAM}
        assert alone in evaluated
        assert body in (alone, alone | STREAM), "`cot` answers in one piece: nobody hears its reply while it is made"
    assert len(streamed) == len(evaluated)
