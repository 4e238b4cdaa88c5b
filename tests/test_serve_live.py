"""Claims about the real engine: the numbers it gives, the official client at its gateway, and its end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

from retrieval.build import build
from retrieval.documents import read_documents
from retrieval.manifest import BuildSettings
from retrieval.passage import Query
from scripts.serving import descendants, up
from serve.chat import Message, Sampling, ServeError
from serve.combination import Combination
from serve.engine import Engine
from serve.pipeline import Piece, Pipeline, probe_adapters
from serve.stack import EngineSettings, Stack
from serve.strategies.prompted import Prompted
from serve.upstream import Chunk
from tests.conftest import Running
from tests.tiny import make_adapter, make_model

pytestmark = pytest.mark.engine

PROMPTS = tuple("Tell me about the river and the town. " * n + f"And {n}?" for n in range(1, 9))
DIRECT = Combination.parse("base:none:direct")


@pytest.fixture
async def pipeline(running: Running) -> AsyncIterator[Pipeline]:
    async with Pipeline(running.stack, running.engine.server) as pipeline:
        yield pipeline


async def scored(pipeline: Pipeline, adapter: str, prompt: str) -> list[tuple[str, float]]:
    """The tokens of a greedy answer and their log-probabilities."""
    completion = await pipeline.model(adapter).complete(
        [Message("user", prompt)], Sampling(max_tokens=12), logprobs=True
    )
    return [(token["token"], token["logprob"]) for token in completion["choices"][0]["logprobs"]["content"]]


async def alone(pipeline: Pipeline, adapter: str) -> list[list[tuple[str, float]]]:
    return [await scored(pipeline, adapter, prompt) for prompt in PROMPTS]


async def together(pipeline: Pipeline, *adapters: str) -> list[list[list[tuple[str, float]]]]:
    """All prompts to all these adapters at once."""
    asked = [scored(pipeline, adapter, prompt) for prompt in PROMPTS for adapter in adapters]
    answers = await asyncio.gather(*asked)
    return [answers[n :: len(adapters)] for n in range(len(adapters))]


def apart(some: list[list[tuple[str, float]]], others: list[list[tuple[str, float]]]) -> float:
    """The greatest difference between the log-probabilities of two lists of answers."""
    pairs = [pair for one, other in zip(some, others, strict=True) for pair in zip(one, other, strict=False)]
    return max(abs(one[1] - other[1]) if one[0] == other[0] else float("inf") for one, other in pairs)


async def test_base_and_adapter_sent_together_answer_as_when_sent_apart(pipeline: Pipeline) -> None:
    base, house = await alone(pipeline, "base"), await alone(pipeline, "house")
    (base_batched,) = await together(pipeline, "base")
    base_mixed, house_mixed = await together(pipeline, "base", "house")

    tolerance = max(10 * apart(base, base_batched), 1e-4)  # which of them meet in a batch is chance
    assert apart(base, house) > 100 * tolerance, "the adapter must matter, or this test says nothing"
    assert apart(base, base_mixed) <= tolerance
    assert apart(house, house_mixed) <= tolerance


async def test_what_two_short_prompts_begin_with_is_read_once(pipeline: Pipeline) -> None:
    begin = "The old mill stands where the two rivers meet. " * 4
    asked = [[Message("user", begin + end)] for end in ("Who owns it?", "When was it built?")]

    usages = [(await pipeline.model("base").chat(messages, Sampling(max_tokens=1))).usage for messages in asked]

    assert usages[1].prompt_tokens < 128  # vLLM's own block on a CPU: of these two, nothing would be shared
    assert usages[1].cached_tokens >= 32


async def test_usage_is_what_the_tokenizer_counts_streamed_or_not(pipeline: Pipeline) -> None:
    tokenizer = Tokenizer.from_file(f"{pipeline.stack.model}/tokenizer.json")
    rendered = "<|im_start|>user\nQuestion: Who rules Varn?<|im_end|>\n<|im_start|>assistant\n"

    whole = await pipeline.ask(DIRECT, Query("Who rules Varn?"), sampling=Sampling(max_tokens=9))
    pieces: list[Piece] = []

    async def tell(piece: Piece) -> None:
        pieces.append(piece)

    streamed = await pipeline.stream(DIRECT, Query("Who rules Varn?"), tell, Sampling(max_tokens=9))

    assert whole.usage.prompt_tokens == len(tokenizer.encode(rendered).ids)
    assert (whole.usage.completion_tokens, whole.finish_reason) == (9, "length")
    assert (streamed.text, streamed.usage) == (whole.text, whole.usage)
    chunks = [piece.data for piece in pieces if isinstance(piece, Chunk)]
    words = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(words) == whole.text


async def test_a_question_that_does_not_fit_is_refused_with_the_limit(pipeline: Pipeline) -> None:
    with pytest.raises(ServeError, match="1024"):
        await pipeline.ask(DIRECT, Query("word " * 2000))


async def test_the_probe_refuses_the_adapter_that_changes_nothing_and_only_that(pipeline: Pipeline) -> None:
    with pytest.raises(ServeError, match="idle has no effect") as caught:
        await probe_adapters(pipeline)

    assert "house" not in str(caught.value)


def test_an_engine_that_gives_up_is_quoted(tmp_path: Path) -> None:
    wrong = Stack(
        model=str(make_model(tmp_path / "model")),
        strategies={"direct": Prompted(kind="direct")},
        engine=EngineSettings(arguments=("--no-such-flag",)),
    )

    with pytest.raises(ServeError, match="unrecognized arguments: --no-such-flag"), Engine(wrong, tmp_path / "log"):
        pass


def test_vllms_own_operators_give_the_same_where_every_row_has_an_adapter() -> None:
    import torch
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from serve.cpu_lora import add_lora_linear
    from tests.test_serve_cpu_lora import batch

    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, n, generator=generator) for n in (16, 20))
    a = [torch.randn(3, 1, 4, 16, generator=generator) for _ in range(2)]
    b = [torch.randn(3, 1, size, 4, generator=generator) for size in (12, 8)]
    theirs, ours = y.clone(), y.clone()
    wrapper = PunicaWrapperCPU(64, 8, "cpu")
    wrapper.is_prefill, wrapper.indices_len[0] = False, 9
    wrapper._token_lora_indices[:9] = batch([(0, 4), (2, 2), (1, 3)]).token_lora_indices

    wrapper.add_lora_linear(theirs, x, tuple(a), tuple(b), 1.0, (12, 8))
    add_lora_linear(wrapper, ours, x, a, b, 1.0, (12, 8))

    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.equal(ours, y)


STACK = """\
model: model
adapters: {house: house}
retrievers:
  lexical: {kind: lexical, index: index, k: 1}
strategies:
  direct: {kind: direct}
  told: {kind: instructed, instructions: Answer in one word.}
engine: {dtype: float32, max_model_len: 1024}
sampling: {max_tokens: 16}
"""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m serve up` with an adapter and an index, and its URL."""
    folder = tmp_path_factory.mktemp("front")
    make_adapter(folder / "house", make_model(folder / "model"))
    (folder / "corpus.jsonl").write_text('{"_id": "varn", "title": "Varn", "text": "Odo rules Varn."}\n')
    build(read_documents(folder / "corpus.jsonl"), folder / "index", BuildSettings())
    (folder / "stack.yaml").write_text(STACK)
    with up(folder / "stack.yaml") as served:
        yield served


@pytest.fixture
def client(front: tuple[subprocess.Popen[str], str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=front[1], api_key="none", max_retries=0)


def asking(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Who rules Varn?"}]}


def test_the_official_client_lists_every_combination(client: openai.OpenAI) -> None:
    listed = [model.id for model in client.models.list()]

    assert len(listed) == 2 * 2 * 2
    assert "house:lexical:told" in listed


def test_the_official_client_asks_three_ways_and_gets_three_answers(client: openai.OpenAI) -> None:
    names = ("base:none:direct", "house:none:direct", "base:lexical:told")

    answers = {name: client.chat.completions.create(**asking(name)) for name in names}

    assert {answer.model for answer in answers.values()} == set(names)
    assert len({answer.choices[0].message.content for answer in answers.values()}) == 3
    found = {name: (answer.model_extra or {})["sources"] for name, answer in answers.items()}
    assert [source["id"] for source in found["base:lexical:told"]] == ["varn@0-15"]
    assert found["base:none:direct"] == []


def test_the_official_client_streams_the_same_answer_sources_first(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**asking("house:lexical:direct"))

    first, *rest = client.chat.completions.create(
        **asking("house:lexical:direct"), stream=True, stream_options={"include_usage": True}
    )

    assert [source["title"] for source in (first.model_extra or {})["sources"]] == ["Varn"]
    said = "".join(chunk.choices[0].delta.content or "" for chunk in rest if chunk.choices)
    streamed, at_once = rest[-1].usage, whole.usage
    assert said == whole.choices[0].message.content
    assert streamed
    assert at_once
    counts = (streamed.prompt_tokens, streamed.completion_tokens, streamed.total_tokens)
    assert counts == (at_once.prompt_tokens, at_once.completion_tokens, at_once.total_tokens)
    assert whole.usage is not None


def test_the_official_client_hears_what_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean house:none:direct"):
        client.chat.completions.create(**asking("hous:none:direct"))
    with pytest.raises(openai.BadRequestError, match="store: "):
        client.chat.completions.create(**asking("base:none:direct"), store=True)


def test_the_official_client_may_ask_for_all_that_the_engine_offers(client: openai.OpenAI) -> None:
    asked = asking("house:lexical:told") | {"n": 2, "logprobs": True, "top_logprobs": 2, "seed": 1, "temperature": 0.5}

    answer = client.chat.completions.create(**asked, extra_body={"structured_outputs": {"choice": ["Odo"]}, "top_k": 5})

    assert [choice.message.content for choice in answer.choices] == ["Odo"] * 2
    told = [choice.logprobs.content for choice in answer.choices if choice.logprobs]
    assert [len(tokens[0].top_logprobs) for tokens in told if tokens] == [2, 2]


def test_the_command_line_lists_and_asks(front: tuple[subprocess.Popen[str], str]) -> None:
    def said(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "serve", *arguments, "--url", front[1]]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    listed, asked, unknown = (
        said("models"),
        said("ask", "base:lexical:direct", "Who rules Varn?"),
        said("ask", "x", "y"),
    )

    assert listed.stdout.splitlines()[0] == "base:none:direct"
    assert (asked.returncode, asked.stderr) == (0, "[S1] Varn (varn@0-15)\n")
    assert asked.stdout.strip()
    assert unknown.returncode == 1
    assert "does not exist" in unknown.stderr


def test_kill_9_leaves_no_engine_behind(front: tuple[subprocess.Popen[str], str]) -> None:
    engine = descendants(front[0].pid)
    assert len(engine) >= 3, "the guard, the server, its engine"

    os.kill(front[0].pid, signal.SIGKILL)

    deadline = time.monotonic() + 60
    while left := [pid for pid in engine if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)
