"""What our gateway costs: the same work direct, through it, and through LiteLLM's proxy, in turns on one machine.

    python -m scripts.bench_serve overhead --json out/bench/serve.json     # 100 streams; then as many requests as go
    python -m scripts.bench_serve overload                                 # four times more callers than capacity
    python -m scripts.bench_serve engine out/demo/world/stack.yaml         # tokens a second on the real engine

The server behind them is a stub with fixed timing (`scripts/bench_stub.py`), but for `engine`. LiteLLM lives in an
environment of its own (`--litellm PROGRAM`); without it ours is measured alone. With --json FILE, repeats are added to
those that FILE has of the same work, so that a long comparison can be made piece by piece.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from rich.console import Console

from retrieval.console import Parser
from scripts.bench_added import goals, overload_row, requests_row, streams_row, table
from scripts.bench_engine import engine
from scripts.bench_paths import BenchError, Way, fulcrum, litellm, load, measuring, stub
from scripts.bench_peers import peers_are_there
from scripts.bench_stub import Timing
from scripts.bench_tables import Row, remember, remembered
from scripts.bench_texts import some_questions
from serve.chat import Sampling
from serve.stack import Stack

T = TypeVar("T")

PATIENCE: Final = 10.0
"""Seconds after which a caller gives up."""
SETTLED: Final = 120.0
"""Seconds after which a server that is still busy with callers who have left is no server to measure with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every way is given; figures of different work never stand in one table."""

    what: str
    users: int = 100
    rounds: int = 5
    pieces: int = 40
    seconds: float = 5.0
    timing: Timing = field(default_factory=Timing)
    waiting: int = 0
    """Places in the gateway's queue."""
    times: float = 4.0
    """Callers for one that can be served."""

    @property
    def answer_seconds(self) -> float:
        """What a stream takes."""
        return self.timing.first + self.pieces / self.timing.rate

    @property
    def streams(self) -> int:
        """The first two users' worth of them is not counted."""
        return (self.rounds + 2) * self.users

    def plain(self) -> Row:
        return asdict(self)


def main(words: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(words)
    try:
        measuring(options.run, options)
    except KeyboardInterrupt:
        sys.exit("\nStopped. What was measured until now is in the file of --json, if you gave one.")


def overhead(options: argparse.Namespace) -> None:
    """Streams at a steady rate, then as many short requests as each way takes."""
    work = Work(what="overhead", users=options.users, rounds=options.rounds, seconds=options.seconds)
    free = {"running": 4 * work.users}
    rows = _repeated(work, options, [streamed, saturated], free)
    timing = work.timing
    title = f"{work.users} streams of {work.pieces} pieces at {timing.rate:g} a second, first after {timing.first:g} s"
    console = Console(width=150)
    console.print(table("streams", f"{title}, {work.rounds} each", rows))
    console.print(table("saturate", f"requests of one piece, 32 at once for {work.seconds:g} s", rows))
    print(goals(rows))


def overload(options: argparse.Namespace) -> None:
    """Four times more callers than the server has capacity for, at random moments, none of whom waits for another."""
    timing = Timing(service=0.2, capacity=16)
    work = Work(what="overload", seconds=options.seconds, timing=timing, waiting=2 * timing.capacity)
    rows = _repeated(work, options, [overloaded], {"running": timing.capacity, "waiting": work.waiting})
    offered = work.times * timing.capacity / timing.service
    title = f"{timing.capacity} at once, {timing.service:g} s each; {offered:g} callers a second for {work.seconds:g} s"
    Console(width=150).print(table("overload", title, rows))
    print(
        f"A caller gives up after {PATIENCE:g} s; peak: {2 * timing.capacity} callers who wait for each other's turn."
    )


def real(options: argparse.Namespace) -> None:
    """The same questions to vLLM itself, and through each gateway."""
    stack = Stack.load(options.stack)
    prompts = some_questions(options.questions, options.prompts)
    work = Work(what=f"engine, {len(prompts)} questions", users=options.users)
    rows = remembered(options.json, work)
    with ExitStack() as running:
        ways = _ways(
            running,
            running.enter_context(engine(replace(stack, adapters={}))),
            {"sampling": asdict(stack.sampling)},
            options,
        )
        for repeat in range(len(rows), len(rows) + options.repeats) if options.repeats else ():
            for way in turned(ways, repeat):
                rows.append(_told(chatted(way, work, prompts, stack.sampling) | {"repeat": repeat}))
            remember(options.json, work, rows)
    title = f"{len(prompts)} questions, {work.users} at once, at most {stack.sampling.max_tokens} tokens"
    Console(width=150).print(table("engine", title, rows))


def streamed(way: Way, work: Work) -> Row:
    """As many at once, in the mean, as there are users: they come at the rate at which so many are answered."""
    chance = {"rate": work.users / work.answer_seconds, "seed": 1, "warm": 2 * work.users}
    body = {"stream": True, "max_tokens": work.pieces}
    heard, cpu, seconds = load(way, {"load": "streams", "streams": work.streams, "body": body, **chance})
    return {"contestant": way.name, "step": "streams", **_common(way, heard), **streams_row(heard, cpu, seconds)}


def saturated(way: Way, work: Work) -> Row:
    job = {"load": "saturate", "users": 32, "seconds": work.seconds, "body": {"max_tokens": 1}}
    heard, cpu, _ = load(way, job)
    return {"contestant": way.name, "step": "saturate", **_common(way, heard), **requests_row(heard, cpu)}


def overloaded(way: Way, work: Work) -> Row:
    """First the peak: as many callers as are served and wait their turn, who come back at once."""
    capacity, body = work.timing.capacity, {"max_tokens": 1}
    peak, _, _ = load(way, {"load": "saturate", "users": 2 * capacity, "seconds": work.seconds, "body": body})
    chance = {"rate": work.times * capacity / work.timing.service, "seconds": work.seconds, "warm": 1.0, "seed": 1}
    heard, _, _ = load(way, {"load": "overload", "body": body, "patience": PATIENCE, **chance})
    return {
        "contestant": way.name,
        "step": "overload",
        **_common(way, heard),
        **overload_row(heard, peak["per_second"]),
    }


def chatted(way: Way, work: Work, prompts: Sequence[str], sampling: Sampling) -> Row:
    """With the stack's sampling for all: without a limit of their own, answers differ in length and not in speed."""
    job = {"load": "chats", "users": work.users, "prompts": prompts, "body": sampling.as_sent()}
    heard, cpu, _ = load(way, job)
    return {"contestant": way.name, "step": "engine", **_common(way, heard), **requests_row(heard, cpu)}


def turned(ways: Sequence[T], repeat: int) -> list[T]:
    """Everybody is first once.

    >>> turned(["a", "b"], 3)
    ['b', 'a']
    """
    first = repeat % len(ways)
    return [*ways[first:], *ways[:first]]


def _repeated(
    work: Work, options: argparse.Namespace, loads: Sequence[Callable[[Way, Work], Row]], gateway: Row
) -> list[Row]:
    """The rows of the file, and of as many repeats more as were asked for."""
    rows = remembered(options.json, work)
    done = len({row["repeat"] for row in rows})
    if not options.repeats:
        return rows
    with ExitStack() as running:
        ways = _ways(running, running.enter_context(stub(work.timing)), {"gateway": gateway}, options)
        for way in ways:  # what is imported and connected with the first request is nobody's latency
            load(way, {"load": "saturate", "users": 4, "seconds": 0.5, "body": {"max_tokens": 1}})
        for repeat in range(done, done + options.repeats):
            for measure in loads:
                for way in turned(ways, repeat):
                    settle(ways[0], work)
                    rows.append(_told(measure(way, work) | {"repeat": repeat}))
            remember(options.json, work, rows)
    return rows


def settle(server: Way, work: Work) -> None:
    """Wait until the server is done with what the callers before gave up on: not every gateway tells it that they left.

    A server without a capacity is always free.
    """
    timing, until = work.timing, time.monotonic() + SETTLED
    while timing.capacity and time.monotonic() < until:
        job = {"load": "saturate", "users": timing.capacity, "seconds": 5 * timing.service, "body": {"max_tokens": 1}}
        if load(server, job)[0]["per_second"] >= 0.9 * timing.capacity / timing.service:
            return
    if timing.capacity:
        raise BenchError(f"the server is still busy {SETTLED:g} s after the last caller has left")


def _ways(running: ExitStack, direct: Way, settings: Row, options: argparse.Namespace) -> list[Way]:
    ways = [direct, running.enter_context(fulcrum(direct, settings))]
    if peers_are_there(options.litellm, "clients.txt"):
        return [*ways, running.enter_context(litellm(direct, options.litellm))]
    return ways


def _common(way: Way, heard: Row) -> Row:
    return {"memory_mib": way.memory_mib} | {name: heard[name] for name in ("client_cpu", "failures", "why")}


def _told(row: Row) -> Row:
    print(f"{row['contestant']}: {row['step']} {row['repeat'] + 1}: {row['failures']} failures", file=sys.stderr)
    return row


def _parser() -> Parser:
    example = "example: python -m scripts.bench_serve overhead --repeats 1"
    parser = Parser(description=__doc__, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="overhead | overload | engine")
    common = Parser(add_help=False)
    common.add_argument(
        "--litellm",
        type=Path,
        default=Path(".venv-clients/bin/litellm"),
        metavar="PROGRAM",
        help="LiteLLM's proxy (default: %(default)s)",
    )
    common.add_argument("--repeats", type=int, default=3, help="of everything, in turns (3); 0 shows what FILE has")
    common.add_argument("--json", type=Path, metavar="FILE", help="keep every figure here, beside earlier ones")
    for name, run, what, seconds in (
        ("overhead", overhead, "time and CPU that a gateway adds", 5.0),
        ("overload", overload, "four times more callers than capacity", 8.0),
    ):
        command = commands.add_parser(
            name, parents=[common], help=what, epilog=f"example: python -m scripts.bench_serve {name} --repeats 1"
        )
        command.add_argument("--seconds", type=float, default=seconds, help="of a load (default: %(default)g)")
        command.set_defaults(run=run)
        if name == "overhead":
            command.add_argument("--users", type=int, default=100, help="streams at once (default: %(default)s)")
            command.add_argument("--rounds", type=int, default=5, help="streams for each (default: %(default)s)")
    command = commands.add_parser(
        "engine",
        parents=[common],
        help="tokens a second on the real engine",
        epilog="example: python -m scripts.bench_serve engine out/demo/world/stack.yaml --prompts 100",
    )
    command.add_argument("stack", type=Path, metavar="STACK", help="whose model is served")
    command.add_argument("--prompts", type=int, default=200, help="questions in a repeat (default: %(default)s)")
    command.add_argument(
        "--questions", type=Path, metavar="QUERIES.jsonl", help="text a line (default: the demo's questions)"
    )
    command.add_argument("--users", type=int, default=32, help="at once (default: %(default)s)")
    command.set_defaults(run=real)
    return parser


if __name__ == "__main__":
    main()
