"""How fast a grid is answered: against vLLM offline, against one combination after the other, and against the peers.

    python -m scripts.bench_eval out/demo/world/stack.yaml --ways fulcrum "vLLM offline" --json out/bench/eval.json
    python -m scripts.bench_eval out/demo/world/stack.yaml --model random --examples 3

A grid of 2 adapters, 5 retrievers and 4 strategies over the demo's questions. The model is the pocket one, or one of
0.1 B parameters with random weights, or none: a stub that answers at once, which shows what evaluators cost. Whoever is
not ours is given the different prompts of that grid, rendered, and nobody's prompts are in the engine's cache before.
inspect_ai and lm-eval live in an environment of their own (requirements/peers-eval.in). With --json FILE, repeats are
added to those that FILE has of the same work.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import yaml
from rich.console import Console
from rich.table import Table

from eval.record import read_records
from retrieval.console import Parser
from scripts.bench_engine import engine
from scripts.bench_paths import ROOT, BenchError, Way, measuring, stub
from scripts.bench_peers import peers_are_there
from scripts.bench_serve import turned
from scripts.bench_stub import Timing
from scripts.bench_tables import Row, remember, remembered, spread
from scripts.evaluators import CONTESTANTS
from serve.combination import BASE
from serve.engine import BLOCK, environment, max_loras, max_rank, on_cpu
from serve.stack import Stack

STUB: Final = "stub"
PEERS: Final = frozenset({"inspect_ai", "lm-eval"})
SEQUENCES: Final = 256
"""Most at once, in the engine and in every contestant: vLLM's own choice offline, on a CPU."""
BATCH: Final = 4096
"""Tokens in a step: likewise."""
SHAPE: Final = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
"""0.1 B parameters with the pocket model's vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every contestant is given; figures of different work never stand in one table."""

    model: str
    examples: int
    tokens: int
    what: str = "evaluation"

    def plain(self) -> Row:
        return asdict(self)


def main(words: Sequence[str] | None = None) -> None:
    measuring(measure, _parser().parse_args(words))


def measure(options: argparse.Namespace) -> None:
    work = Work(model=options.model, examples=options.examples, tokens=options.tokens)
    rows = remembered(options.json, work)
    done = len({row["repeat"] for row in rows})
    if options.repeats:
        home = ROOT / "out" / "bench" / f"eval-{work.model}"
        stack = _world(options.stack, home, work)
        with _server(stack, work) as server:
            _warm(server, stack)
            bench = Bench(home, stack, server, work)
            for repeat in range(done, done + options.repeats):
                for name in turned(options.ways, repeat):
                    rows.append(_told(bench.run(name) | {"repeat": repeat}))
                    remember(options.json, work, rows)
    Console(width=150).print(table(work, rows))


def _server(stack: Stack, work: Work) -> AbstractContextManager[Way]:
    """The engine, which may be told to forget; or a stub that answers at once, so that only evaluators take time."""
    if work.model == STUB:
        return stub(Timing(first=0.0))
    return engine(stack, "evaluation", {"VLLM_SERVER_DEV_MODE": "1"})


def _warm(server: Way, stack: Stack) -> None:
    """A first call to each model takes seconds, in which an engine loads and compiles: whoever comes first would pay
    them for all. vLLM offline, which starts its own engine, does the same before its clock runs."""
    for model in (stack.model, *stack.adapters):
        body = {"model": model, "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 2}
        headers = {"Content-Type": "application/json"}
        call = Request(f"{server.url}/chat/completions", json.dumps(body).encode(), headers)
        with urlopen(call, timeout=600):
            pass


@dataclass(frozen=True, slots=True)
class Bench:
    """A running server, and the grid whose prompts it is asked."""

    home: Path
    stack: Stack
    server: Way
    work: Work

    def run(self, name: str) -> Row:
        """One contestant in a process of its own, with nothing in the engine's cache."""
        if name != "fulcrum" and not (self.home / "prompts.json").exists():
            self._contest("fulcrum")
        return self._contest(name)

    def _contest(self, name: str) -> Row:
        if self.work.model != STUB:
            with urlopen(Request(self.server.url.replace("/v1", "/reset_prefix_cache"), method="POST"), timeout=60):
                pass
        folder = self.home / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        job = self.home / "job.json"
        job.write_text(json.dumps(self._job(name, folder)), encoding="utf-8")
        program = ".venv-peers-eval/bin/python" if name in PEERS else sys.executable
        surroundings = environment(os.environ) | {"PYTHONPATH": str(ROOT)}
        child = subprocess.run(
            [program, "-m", "scripts.evaluators", str(job)],
            capture_output=True,
            text=True,
            check=False,
            env=surroundings,
            cwd=ROOT,
        )
        if child.returncode:
            raise BenchError(f"{name} failed:\n{child.stderr[-3000:]}")
        if name == "fulcrum":
            self._keep_prompts(folder)
        return {"contestant": name, "step": "grid", **json.loads(child.stdout.splitlines()[-1])}

    def _job(self, name: str, folder: Path) -> Mapping[str, Any]:
        prompts = self.home / "prompts.json"
        return {
            "contestant": name,
            "grid": str(_grid(self.home, self.server.url)),
            "folder": str(folder),
            "url": self.server.url,
            "at_once": SEQUENCES,
            "max_tokens": self.work.tokens,
            "prompts": json.loads(prompts.read_text(encoding="utf-8")) if prompts.exists() else [],
            "adapters": {adapter: str(path) for adapter, path in self.stack.adapters.items()},
            "engine": {
                "model": self.stack.model,
                "dtype": self.stack.engine.dtype,
                "max_model_len": self.stack.engine.max_model_len,
                "max_num_seqs": SEQUENCES,
                "max_num_batched_tokens": BATCH,
                "generation_config": "vllm",
                "enforce_eager": on_cpu(),
                "block_size": BLOCK if on_cpu() else None,
                "enable_lora": True,
                "max_loras": max_loras(self.stack) + 1,
                "max_cpu_loras": max_loras(self.stack) + 1,
                "max_lora_rank": max_rank(self.stack),
            },
        }

    def _keep_prompts(self, folder: Path) -> None:
        """Those that a model was asked, in the order of the file."""
        told = [
            {
                "model": self.stack.model if one.combination.adapter == BASE else one.combination.adapter,
                "messages": [asdict(turn) for turn in one.prompt],
            }
            for one in read_records(folder / "records.jsonl")
            if not one.shared
        ]
        (self.home / "prompts.json").write_text(json.dumps(told), encoding="utf-8")


def table(work: Work, rows: Sequence[Row]) -> Table:
    """A contestant a line; a ratio is of one repeat's two figures, above 1 where ours is ahead."""
    title = f"{work.examples} questions x 40 combinations, {work.model} model, {work.tokens} tokens at most"
    made = Table(title=title)
    for column in ("", "repeats", "seconds", "answers", "tokens/s", "ours: times as fast", "ours: times its tokens/s"):
        made.add_column(column, justify="right" if column else "left")
    ours = {row["repeat"]: row for row in rows if row["contestant"] == "fulcrum"}
    for name in dict.fromkeys(row["contestant"] for row in rows):
        mine = [row for row in rows if row["contestant"] == name]
        pairs = [(row, ours[row["repeat"]]) for row in mine if row["repeat"] in ours]
        faster = [row["seconds"] / our["seconds"] for row, our in pairs]
        denser = [_rate(our) / _rate(row) for row, our in pairs if row["tokens"]]
        made.add_row(
            name,
            str(len(mine)),
            spread([row["seconds"] for row in mine], 1),
            str(mine[-1]["answers"]),
            spread([_rate(row) for row in mine if row["tokens"]], 0),
            spread(faster, 2),
            spread(denser, 2),
        )
    return made


def _rate(row: Row) -> float:
    return float(row["tokens"] / row["seconds"])


def _told(row: Row) -> Row:
    print(
        f"{row['contestant']}: {row['seconds']:.1f} s, {row['answers']} answers, {row['tokens']} tokens written",
        file=sys.stderr,
    )
    return row


def _world(stack: Path, home: Path, work: Work) -> Stack:
    """The demo's stack with the model of this work, and a test set of so many questions."""
    (home / "prompts.json").unlink(missing_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    world, loaded = stack.parent.resolve(), Stack.load(stack)
    written: dict[str, Any] = yaml.safe_load(stack.read_text(encoding="utf-8"))
    task: dict[str, Any] = yaml.safe_load((world / "task.yaml").read_text(encoding="utf-8"))
    rows = (world / task["examples"]).read_text(encoding="utf-8").splitlines(keepends=True)[: work.examples]
    (home / "test.jsonl").write_text("".join(rows), encoding="utf-8")
    adapter, folder = next(iter(loaded.adapters.items()))
    model = Path(loaded.model)
    if work.model == "random":
        model, folder = _random(model, home, adapter)
    strategies = {
        name: one | ({"demonstrations": str(world / one["demonstrations"])} if "demonstrations" in one else {})
        for name, one in written["strategies"].items()
    }
    made = {
        "model": str(model),
        "engine": {
            "max_model_len": loaded.engine.max_model_len,
            "arguments": ["--max-num-seqs", str(SEQUENCES), "--max-num-batched-tokens", str(BATCH)],
        },
        "adapters": {adapter: str(folder)},
        "retrievers": {
            name: one | {"index": str((world / one["index"]).resolve())} for name, one in written["retrievers"].items()
        },
        "strategies": strategies,
        "sampling": {"max_tokens": work.tokens},
    }
    documents = {"documents": str(world / task["documents"])}
    for name, content in (("stack", made), ("task", {**task, "examples": "test.jsonl", **documents})):
        (home / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return Stack.load(home / "stack.yaml")


def _grid(home: Path, url: str) -> Path:
    """The grid over that stack, with this server in the engine's place."""
    stack: dict[str, Any] = yaml.safe_load((home / "stack.yaml").read_text(encoding="utf-8"))
    (home / "served.yaml").write_text(yaml.safe_dump({**stack, "url": url}, sort_keys=False), encoding="utf-8")
    grid = {
        "stack": "served.yaml",
        "task": "task.yaml",
        "adapters": [BASE, *stack["adapters"]],
        "retrievers": ["none", *stack["retrievers"], "gold"],
        "strategies": list(stack["strategies"]),
        "baseline": f"{BASE}:none:direct",
        "concurrency": SEQUENCES,
    }
    (home / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False), encoding="utf-8")
    return home / "grid.yaml"


def _random(pocket: Path, home: Path, adapter: str) -> tuple[Path, Path]:
    """A model of the shape with random weights and the pocket model's tokenizer, and an adapter of it."""
    model, folder = home / "model", home / adapter
    if not folder.exists():
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        shutil.copytree(pocket, model, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        shape = AutoConfig.from_pretrained(pocket).to_dict() | SHAPE
        shape.pop("layer_types", None)
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape)).to(torch.bfloat16)
        made.save_pretrained(model)
        settings = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(made, settings).save_pretrained(folder)
    return model, folder


def _parser() -> Parser:
    example = "example: python -m scripts.bench_eval out/demo/world/stack.yaml --examples 30 --repeats 1"
    parser = Parser(description=__doc__, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", type=Path, metavar="STACK", help="the demo's, beside its task.yaml")
    parser.add_argument("--model", choices=["pocket", "random", STUB], default="pocket", help="(default: %(default)s)")
    parser.add_argument("--examples", type=int, default=20, help="questions (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="the most that an answer has (default: %(default)s)")
    ways = [name for name in CONTESTANTS if name not in PEERS or Path(".venv-peers-eval").exists()]
    parser.add_argument("--ways", nargs="+", choices=list(CONTESTANTS), default=ways, metavar="WAY")
    parser.add_argument("--repeats", type=int, default=1, help="of everything, in turns (1); 0 shows what FILE has")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every figure here, beside earlier ones")
    return parser


if __name__ == "__main__":
    peers_are_there(Path(".venv-peers-eval/bin/python"), "peers-eval.txt")
    main()
