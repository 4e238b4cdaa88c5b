"""What an adapter costs on the CPU: tokens a second with it and without, by our LoRA operators and by vLLM's own.

    python -m scripts.bench_lora out/demo/world/stack.yaml

Two engines stand side by side and work in turns: the one as `serve` starts it, the other without plugins. Each is given
the same prompts with the base model and with the stack's first adapter, and every answer has the same number of tokens,
so that what is compared is work and not how soon a model stops.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from retrieval.console import Parser
from scripts.bench_engine import engine
from scripts.bench_paths import BenchError, Way, load, measuring
from scripts.bench_tables import Row, remember, remembered, spread
from scripts.bench_texts import some_questions
from serve.combination import BASE
from serve.stack import Stack

OPERATORS: Final[Mapping[str, Mapping[str, str]]] = {"ours": {}, "vLLM's own": {"VLLM_PLUGINS": ""}}
"""Whose they are -> what an engine's environment says about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every engine is given; figures of different work never stand in one table."""

    what: str = "adapter"
    adapter: str
    prompts: int = 96
    tokens: int = 64
    users: int = 32

    def plain(self) -> Row:
        return asdict(self)


def main(words: Sequence[str] | None = None) -> None:
    measuring(measure, _parser().parse_args(words))


def measure(options: argparse.Namespace) -> None:
    stack = Stack.load(options.stack)
    if not stack.adapters:
        raise BenchError(f"{options.stack} names no adapter, and it is one that is measured")
    adapter, folder = next(iter(stack.adapters.items()))
    work = Work(adapter=adapter, prompts=options.prompts, users=options.users)
    prompts, rows = some_questions(None, work.prompts), remembered(options.json, work)
    done = len({row["repeat"] for row in rows})
    with ExitStack() as running:
        engines = [
            running.enter_context(engine(replace(stack, adapters={adapter: folder}), name, besides))
            for name, besides in (OPERATORS.items() if options.repeats else ())
        ]
        for repeat in range(done - 1, done + options.repeats):
            for way in engines:
                for model in (BASE, adapter):
                    row = _told(written(way, model, work, prompts) | {"repeat": repeat})
                    rows += [row] if repeat >= done else []  # the one before is for warming up
            remember(options.json, work, rows)
    Console(width=150).print(table(work, rows))


def written(way: Way, model: str, work: Work, prompts: Sequence[str]) -> Row:
    body = {"temperature": 0, "max_tokens": work.tokens, "ignore_eos": True}
    named = way if model == BASE else replace(way, model=model)
    heard, _, _ = load(named, {"load": "chats", "users": work.users, "prompts": prompts, "body": body})
    step = "base" if model == BASE else "adapter"
    kept = {name: heard[name] for name in ("tokens_per_second", "failures", "why")}
    return {"contestant": way.name, "step": step, **kept}


def table(work: Work, rows: Sequence[Row]) -> Table:
    """An engine a line; the ratio is of one repeat's two figures."""
    title = f"{work.prompts} prompts, {work.users} at once, {work.tokens} tokens each, on the CPU"
    made = Table(title=f"{title}; {len({row['repeat'] for row in rows})} repeats")
    for column in ("operators", "base, tokens/s", f"{work.adapter}, tokens/s", "adapter / base", "failed"):
        made.add_column(column, justify="left" if column == "operators" else "right")
    for name in OPERATORS:
        mine = [row for row in rows if row["contestant"] == name]
        base, adapter = (
            {row["repeat"]: row["tokens_per_second"] for row in mine if row["step"] == step}
            for step in ("base", "adapter")
        )
        ratios = [adapter[repeat] / base[repeat] for repeat in base]
        failed = sum(row["failures"] for row in mine)
        made.add_row(name, spread([*base.values()], 0), spread([*adapter.values()], 0), spread(ratios, 2), str(failed))
    return made


def _told(row: Row) -> Row:
    print(f"{row['contestant']}, {row['step']}: {row['tokens_per_second']:.0f} tokens/s", file=sys.stderr)
    return row


def _parser() -> Parser:
    example = "example: python -m scripts.bench_lora out/demo/world/stack.yaml --repeats 3"
    parser = Parser(description=__doc__, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", type=Path, metavar="STACK", help="whose model and first adapter are measured")
    parser.add_argument("--prompts", type=int, default=96, help="in a repeat (default: %(default)s)")
    parser.add_argument("--users", type=int, default=32, help="at once (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of everything, in turns (3); 0 shows what FILE has")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every figure here, beside earlier ones")
    return parser


if __name__ == "__main__":
    main()
