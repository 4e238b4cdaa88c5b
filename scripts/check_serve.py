"""Do to a gateway what happens to one: kill its engine, tell it to stop, start and stop it, spoil its adapters.

    python -m scripts.check_serve kill out/demo/world/stack.yaml           # kill -9 of the engine under 50 streams
    python -m scripts.check_serve drain out/demo/world/stack.yaml          # SIGTERM under 50 streams
    python -m scripts.check_serve cycles out/demo/world/stack.yaml --times 10
    python -m scripts.check_serve adapters out/demo/world/stack.yaml       # good ones and broken ones under streams
    python -m scripts.check_serve swap                                     # new indexes under 50 streams
    python -m scripts.check_serve mixed out/demo/world/stack.yaml          # base rows beside an adapter's

With --stub, `scripts/stub_engine.py` stands where vLLM would. Each says what it saw and exits with 1 when that is not
what it must be. Knows nothing of how any of it is done.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from retrieval.console import Parser, stop_politely
from retrieval.files import FileError
from scripts.check_adapters import adapters
from scripts.check_mixed import mixed
from scripts.check_swap import swap
from scripts.serving import (
    STUB,
    VLLM,
    Heard,
    all_begun,
    descendants,
    hear,
    is_running,
    seconds_until_ready,
    up,
    words_of,
)
from serve.chat import ServeError
from serve.stack import Stack

MODEL: Final = "base:none:direct"
LONG: Final = {"model": MODEL, "messages": [{"role": "user", "content": "Who are you?"}], "ignore_eos": True}
ENDED_SECONDS: Final = 2.0
READY_SECONDS: Final = 2.0
"""More than the engine itself takes."""


def main(words: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(words)
    stop_politely()
    try:
        problems = options.run(options)
    except (FileError, ServeError) as error:
        sys.exit(str(error))
    print(*problems, sep="\n")
    sys.exit(1 if problems else 0)


def kill(options: argparse.Namespace) -> list[str]:
    """`kill -9` of the engine's server, then of the process inside it that computes, under streams."""
    began = time.monotonic()
    with up(options.stack, program=_program(options)) as (process, url):
        loading = time.monotonic() - began
        print(f"ready {loading:.1f} s after the start")
        return [
            problem
            for name, chosen in {"server": _servers, "engine core": _cores}.items()
            for problem in asyncio.run(_killed(name, chosen, process.pid, url, loading, options))
        ]


async def _killed(
    name: str, chosen: Callable[[int], list[int]], pid: int, url: str, loading: float, options: argparse.Namespace
) -> list[str]:
    victims = chosen(pid)
    if not victims:
        print(f"{name}: this engine has none of its own")
        return []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        streams = [Heard() for _ in range(options.streams)]
        body = LONG | {"max_tokens": options.tokens}
        tasks = [asyncio.create_task(hear(http, url, body, heard)) for heard in streams]
        await all_begun(streams)
        files = _open_files(pid)
        began = time.monotonic()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        await asyncio.wait(tasks)
        last = max(heard.ended for heard in streams) - began
        told = sum(bool(heard.error) and not heard.error.startswith("cut off") for heard in streams)
        async with http.get(url.replace("/v1", "/healthz")) as health:
            lives = health.ok
        ready = await seconds_until_ready(http, url, began)
        async with http.post(f"{url}/chat/completions", json=LONG | {"max_tokens": 2}) as answer:
            answers = answer.ok
    print(
        f"{name}: {told} of {len(streams)} streams ended with an error event, the last after {last:.2f} s; the gateway "
        f"{'lives' if lives else 'is dead'}; ready again after {ready:.1f} s; open files {files} -> {_open_files(pid)}"
    )
    wrong = {
        f"{name}: {len(streams) - told} streams ended without an error event": told < len(streams),
        f"{name}: a stream ended only after {last:.2f} s": last > ENDED_SECONDS,
        f"{name}: ready only after {ready:.1f} s": ready > loading + READY_SECONDS,
        f"{name}: the gateway is dead": not lives,
        f"{name}: no answer afterwards": not answers,
    }
    return [sentence for sentence, holds in wrong.items() if holds]


def drain(options: argparse.Namespace) -> list[str]:
    """SIGTERM under streams: they are finished, nobody else is let in, and nothing is left."""
    with up(options.stack, program=_program(options)) as (process, url):
        family = descendants(process.pid)
        streams, late, told = asyncio.run(_drained(process.pid, url, options))
        code = process.wait(60)
        gone = time.monotonic()
    whole = sum(heard.done and heard.pieces > 1 and not heard.error for heard in streams)
    last = max(heard.ended for heard in streams)
    after, took = gone - last, last - told
    left = [words_of(pid) for pid in family if is_running(pid)]
    print(
        f"{whole} of {len(streams)} answers under way were finished, {took:.1f} s after SIGTERM; a new one was {late}; "
        f"exit {code}, {after:.1f} s after the last answer; {len(left)} processes left"
    )
    cut = {f"an answer was not finished: {heard.error or 'it just ended'}" for heard in streams if not heard.done}
    return [*sorted(cut), *(f"left running: {words}" for words in left), *[f"exit code {code}"] * bool(code)]


async def _drained(pid: int, url: str, options: argparse.Namespace) -> tuple[list[Heard], str, float]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        streams = [Heard() for _ in range(options.streams)]
        body = LONG | {"max_tokens": options.tokens}
        tasks = [asyncio.create_task(hear(http, url, body, heard)) for heard in streams]
        await all_begun(streams)
        told = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(0.3)
        async with aiohttp.ClientSession() as another:
            late = await hear(another, url, LONG | {"max_tokens": 2}, Heard())
        await asyncio.wait(tasks)
    return streams, "answered" if late.done else "refused", told


def cycles(options: argparse.Namespace) -> list[str]:
    """Start, ask, stop, in each way in which a program can be stopped; nothing must be left of any."""
    ways = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    folders, problems = set(_private()), []
    for number in range(options.times):
        how = ways[number % len(ways)]
        with up(options.stack, program=_program(options)) as (process, url):
            asyncio.run(_one_answer(url, options.tokens))
            family = descendants(process.pid)
            process.send_signal(how)
            code = process.wait(60)
        until = time.monotonic() + 15
        while any(map(is_running, family)) and time.monotonic() < until:
            time.sleep(0.05)
        left = [words_of(pid) for pid in family if is_running(pid)]
        lying = sorted(set(_private()) - folders)
        print(f"{number + 1}: {how.name}: exit {code}, {len(family)} processes, {len(left)} left, {len(lying)} folders")
        problems += [f"{number + 1}: left running: {words}" for words in left]
        problems += [f"{number + 1}: left behind: {folder}" for folder in lying]
        folders |= set(lying)
        if how is not signal.SIGKILL and code:
            problems.append(f"{number + 1}: exit code {code} after {how.name}")
    return problems


async def _one_answer(url: str, tokens: int) -> None:
    async with aiohttp.ClientSession() as http:
        heard = await hear(http, url, LONG | {"max_tokens": tokens}, Heard())
    assert heard.done, heard.error


def _private() -> list[str]:
    """The folders in which engines have their sockets."""
    return [str(path) for path in Path("/tmp").glob("fulcrum-*")]


def _servers(pid: int) -> list[int]:
    """The engine's server, a child of its guard."""
    return [one for one in descendants(pid) if "--uds" in (said := words_of(one)) and "serve.guard" not in said]


def _cores(pid: int) -> list[int]:
    """What the server itself has started, the youngest of them, which computes."""
    return sorted(one for server in _servers(pid) for one in descendants(server) if "tracker" not in words_of(one))[-1:]


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _program(options: argparse.Namespace) -> tuple[str, ...]:
    return STUB if options.stub else VLLM


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.epilog = "example: python -m scripts.check_serve cycles out/demo/world/stack.yaml --stub --times 100"
    commands = parser.add_subparsers(required=True, metavar="kill | drain | cycles | adapters | swap | mixed")
    served = Parser(add_help=False)
    served.add_argument("stack", type=Path, metavar="STACK", help="what is served")
    served.add_argument("--stub", action="store_true", help="with a stand-in for vLLM")
    served.add_argument("--streams", type=int, default=50, help="at once (default: %(default)s)")
    for name, run, tokens in (("kill", kill, 900), ("drain", drain, 300), ("cycles", cycles, 2)):
        command = commands.add_parser(name, parents=[served], help=run.__doc__)
        command.epilog = f"example: python -m scripts.check_serve {name} out/demo/world/stack.yaml"
        command.add_argument("--tokens", type=int, default=tokens, help="of an answer (default: %(default)s)")
        command.set_defaults(run=run)
        if run is cycles:
            command.add_argument("--times", type=int, default=10, help="(default: %(default)s)")
    command = commands.add_parser("swap", help=swap.__doc__, epilog="example: python -m scripts.check_serve swap")
    command.add_argument("--streams", type=int, default=50, help="at once (default: %(default)s)")
    command.add_argument("--times", type=int, default=10, help="new indexes (default: %(default)s)")
    command.set_defaults(run=lambda options: swap(options.streams, options.times))
    command = commands.add_parser("adapters", help=adapters.__doc__)
    command.epilog = "example: python -m scripts.check_serve adapters out/demo/world/stack.yaml"
    command.add_argument("stack", type=Path, metavar="STACK", help="whose model and first adapter are served")
    command.set_defaults(run=lambda options: adapters(Stack.load(options.stack)))
    command = commands.add_parser("mixed", help=mixed.__doc__)
    command.epilog = "example: python -m scripts.check_serve mixed out/demo/world/stack.yaml"
    command.add_argument("stack", type=Path, metavar="STACK", help="whose model and adapters are served, in float32")
    command.add_argument("--rows", type=int, default=1000, help="of the base model (default: %(default)s)")
    command.set_defaults(run=lambda options: mixed(Stack.load(options.stack), options.rows))
    return parser


if __name__ == "__main__":
    main()
