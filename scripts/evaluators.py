"""Everybody who answers a benchmark's prompts, each in its fastest way: ours, vLLM offline, and the peers.

    python -m scripts.evaluators JOB.json         # one contestant, in a process of its own; its last line is JSON

A clock runs around the one call that evaluates: what is imported, opened and started before is nobody's. Standard
library only until a contestant is chosen, as the peers live in an environment without ours. Knows nothing of figures.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Job = Mapping[str, Any]
"""What a contestant is given: `grid` and `folder`, or `prompts` ({"model", "messages"}) with `url` or `engine`."""


@dataclass(frozen=True, slots=True)
class Done:
    """What it took; tokens are those that a model wrote, not those that were shared."""

    seconds: float
    answers: int
    tokens: int


def fulcrum(job: Job) -> Done:
    """The whole grid, search and records included."""
    from eval.grid import load_grid
    from eval.run import run

    grid = load_grid(Path(job["grid"]))
    _warm(grid)
    started = time.perf_counter()
    results = run(grid, Path(job["folder"]))
    return _done(time.perf_counter() - started, results.answers)


def cell_after_cell(job: Job) -> Done:
    """The same program, a combination at a time, each for itself: what a loop over configurations does."""
    from dataclasses import replace

    from eval.grid import load_grid
    from eval.run import run

    grid = load_grid(Path(job["grid"]))
    _warm(grid)
    alone = [
        replace(
            grid.settings,
            adapters=(cell.adapter,),
            retrievers=(cell.retriever,),
            strategies=(cell.strategy,),
            baseline=str(cell),
        )
        for cell in grid.cells
    ]
    started = time.perf_counter()
    results = [run(replace(grid, settings=one), Path(job["folder"]) / one.baseline.replace(":", "_")) for one in alone]
    return _done(time.perf_counter() - started, [answer for one in results for answer in one.answers])


def offline(job: Job) -> Done:
    """`vllm.LLM.generate` with the engine's own settings, and prompts that are tokens already."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest

    llm = LLM(**job["engine"])
    adapters = {name: LoRARequest(name, n, path) for n, (name, path) in enumerate(job["adapters"].items(), start=1)}
    tokenizer = llm.get_tokenizer()
    ids = [
        tokenizer.apply_chat_template(one["messages"], add_generation_prompt=True, tokenize=True, return_dict=True)
        for one in job["prompts"]
    ]
    prompts = [TokensPrompt(prompt_token_ids=one["input_ids"]) for one in ids]
    loras = [adapters.get(one["model"]) for one in job["prompts"]]
    params = SamplingParams(temperature=0.0, max_tokens=job["max_tokens"])
    llm.generate([TokensPrompt(prompt_token_ids=[5, 6, 7])] * 2, params, lora_request=[None, *adapters.values()][:2])
    started = time.perf_counter()
    outputs = llm.generate(prompts, params, lora_request=loras, use_tqdm=False)
    seconds = time.perf_counter() - started
    return Done(seconds, len(outputs), sum(len(one.outputs[0].token_ids) for one in outputs))


def inspect_ai(job: Job) -> Done:
    """Both models' tasks at once, as many connections as there are questions in flight; no sandbox, no display."""
    import tempfile

    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, get_model
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    kinds: dict[str, Any] = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    os.environ |= {"BENCH_API_KEY": "none", "BENCH_BASE_URL": job["url"]}
    tasks = []
    for model in dict.fromkeys(one["model"] for one in job["prompts"]):
        samples = [
            Sample(input=[kinds[turn["role"]](content=turn["content"]) for turn in one["messages"]], target="x")
            for one in job["prompts"]
            if one["model"] == model
        ]
        asked = get_model(f"openai-api/bench/{model}")
        tasks.append(
            Task(name=f"t{len(tasks)}", dataset=MemoryDataset(samples), solver=generate(), scorer=match(), model=asked)
        )
    settings: dict[str, Any] = {
        "max_tasks": len(tasks),
        "max_samples": len(job["prompts"]),
        "max_connections": job["at_once"],
        "max_tokens": job["max_tokens"],
        "temperature": 0.0,
        "display": "none",
        "log_realtime": False,
        "log_model_api": False,
        "score_display": False,
        "log_samples": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        logs = evaluate(tasks, log_dir=folder, **settings)
        seconds = time.perf_counter() - started
        assert all(log.status == "success" for log in logs), [str(log.error) for log in logs]
        usage = [one for log in logs for one in log.stats.model_usage.values()]
        return Done(seconds, sum(len(log.samples or ()) for log in logs), sum(one.output_tokens for one in usage))


def lm_eval(job: Job) -> Done:
    """`local-chat-completions`, its asynchronous way to a server of chats; it asks one model after the other.

    The clock runs around `evaluate`: what `simple_evaluate` does before, loading and asking about its surroundings, is
    not counted. It does not say how many tokens were written.
    """
    import tempfile

    from lm_eval.api.registry import get_model
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate

    os.environ |= {"OPENAI_API_KEY": "none", "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    seconds, answers = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for model in dict.fromkeys(one["model"] for one in job["prompts"]):
            rows = [{"messages": one["messages"]} for one in job["prompts"] if one["model"] == model]
            file = Path(folder, f"{answers}.jsonl")
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            task = _lm_eval_task(ConfigurableTask, file, job["max_tokens"])
            arguments = {
                "model": model,
                "base_url": f"{job['url']}/chat/completions",
                "num_concurrent": job["at_once"],
                "tokenizer_backend": None,
                "tokenized_requests": False,
                "max_retries": 3,
            }
            model_asked = get_model("local-chat-completions").create_from_arg_obj(arguments)
            started = time.perf_counter()
            found = evaluate(
                lm=model_asked,
                task_dict={file.stem: task},
                apply_chat_template=True,
                log_samples=True,
                bootstrap_iters=0,
            )
            seconds += time.perf_counter() - started
            answers += sum(map(len, found["samples"].values()))
    return Done(seconds, answers, 0)


def _lm_eval_task(kind: Any, file: Path, max_tokens: int) -> Any:
    """A task whose prompts are the turns as they are: the server has the chat template."""

    class Rendered(kind):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(
                config={
                    "task": file.stem,
                    "dataset_path": "json",
                    "dataset_kwargs": {"data_files": {"test": str(file)}},
                    "test_split": "test",
                    "output_type": "generate_until",
                    "doc_to_text": lambda row: "",
                    "doc_to_target": lambda row: "x",
                    "generation_kwargs": {"until": [], "max_gen_toks": max_tokens, "do_sample": False},
                    "metric_list": [{"metric": "exact_match"}],
                }
            )

        def fewshot_context(self, doc: Any, *args: Any, **kwargs: Any) -> Any:
            return kwargs["chat_template"](doc["messages"])

    return Rendered()


def _warm(grid: Any) -> None:
    """Import, read and load what a search needs, which whoever is given rendered prompts does not need."""
    from eval.grid import searches
    from retrieval.passage import Query
    from serve.opened import open_all

    opened = open_all(grid.stack.only(searches(grid.cells)))

    async def look() -> None:
        for retriever in opened.retrievers.values():
            await retriever.search(Query("Where does it say so?"))

    asyncio.run(look())


def _done(seconds: float, answers: Sequence[Any]) -> Done:
    return Done(seconds, len(answers), sum(one.usage.completion_tokens for one in answers if not one.shared))


CONTESTANTS: Final[Mapping[str, Callable[[Job], Done]]] = {
    "fulcrum": fulcrum,
    "cell after cell": cell_after_cell,
    "vLLM offline": offline,
    "inspect_ai": inspect_ai,
    "lm-eval": lm_eval,
}

if __name__ == "__main__":
    given: Job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    done = CONTESTANTS[given["contestant"]](given)
    print(json.dumps({"seconds": done.seconds, "answers": done.answers, "tokens": done.tokens}))
