"""`python -m serve up STACK | deploy STACK | models | ask ID QUESTION`. Knows the other files by name alone."""

import argparse
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop

from retrieval.console import Parser, stop_politely, tell_progress
from retrieval.files import FileError
from retrieval.passage import RetrievalError
from serve.chat import ServeError
from serve.combination import NAME
from serve.deploy import FILE, Bounds, deploy
from serve.keeper import Keeper
from serve.keys import new_key
from serve.opened import open_all
from serve.pipeline import Pipeline
from serve.running import Front, patience, serve
from serve.stack import Stack

URL: Final = "http://127.0.0.1:8000/v1"


def main() -> int:
    args = _arguments()
    tell_progress("serve", "retrieval")
    stop_politely()
    try:
        match args.command:
            case "up":
                up(args.stack, args.port, args.metrics)
            case "deploy":
                print(deploy(args.stack, args.out, args.replicas))
            case "key":
                key, line = new_key(args.name)
                print(line)
                print(f"the key of {args.name}, shown this once: {key}", file=sys.stderr)
            case "models":
                print(*models(args.url), sep="\n")
            case "ask":
                print(ask(args.id, args.question, args.url))
    except (FileError, RetrievalError, ServeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def up(path: Path, port: int, metrics: int | None) -> None:
    """Serve a stack until told to stop; what can be refused is refused before the engine is started."""
    stack = Stack.load(path)
    if stack.engine.ray:
        raise ServeError(
            f"{stack.where('engine', 'ray')}: engine.ray is for evaluations; a gateway starts one engine, on its own "
            "machine; leave it out, or give the `url` of servers that run"
        )
    with suppress(KeyboardInterrupt), Front.opened(stack, port, metrics) as front:
        open_all(stack)
        if stack.url:
            uvloop.run(serve(Pipeline(stack, None, patience(stack.gateway)), front))
            return
        with Keeper(stack) as keeper:
            uvloop.run(serve(Pipeline(keeper.stack, keeper.server, patience(stack.gateway)), front, keeper))


def models(url: str) -> list[str]:
    """The ids on offer at a gateway."""
    return [card["id"] for card in _call("GET", f"{url}/models")["data"]]


def ask(model: str, question: str, url: str) -> str:
    """One question, one way; the sources go to stderr."""
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    completion = _call("POST", f"{url}/chat/completions", body)
    for source in completion.get("sources", []):
        print(f"[S{source['n']}] {source['title']} ({source['id']})", file=sys.stderr)
    return str(completion["choices"][0]["message"]["content"])


def _call(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    try:
        response = httpx.request(method, url, json=body, timeout=600)
        answer = response.json()
    except (httpx.HTTPError, ValueError):
        raise ServeError(f"no gateway answers at {url}; start one with `python -m serve up STACK`") from None
    if not response.is_success:
        raise ServeError(answer["error"]["message"])
    return answer


def _arguments() -> argparse.Namespace:
    parser = _described(Parser(prog="python -m serve"), "models")
    parser.description = "Answer questions with every combination of adapter, retriever and strategy of a stack."
    commands = parser.add_subparsers(dest="command", required=True)
    start = _described(
        commands.add_parser("up", help="start the engine and the gateway"), "up out/demo/world/stack.yaml"
    )
    start.add_argument("stack", type=Path, help="a stack.yaml")
    start.add_argument(
        "--port", type=int, default=8000, help="of the gateway, on this machine only (default: %(default)s)"
    )
    start.add_argument(
        "--metrics", type=int, metavar="PORT", help="where Prometheus reads /metrics, on this machine only"
    )
    spreading = _described(
        commands.add_parser("deploy", help="write the engine as an application of Ray Serve LLM"),
        "deploy out/demo/world/stack.yaml --replicas 1-8",
    )
    spreading.add_argument("stack", type=Path, help="a stack.yaml")
    spreading.add_argument("--out", type=Path, default=FILE, metavar="FILE", help="(default: %(default)s)")
    spreading.add_argument(
        "--replicas",
        type=_replicas,
        default=Bounds(),
        metavar="N[-M]",
        help="engines, or the fewest and the most of them (default: 1)",
    )
    making = _described(
        commands.add_parser("key", help="make an API key; its line goes into the stack's file"), "key ann"
    )
    making.add_argument("name", type=_name, help="whose key it is")
    listing = _described(commands.add_parser("models", help="list the combinations on offer"), "models")
    asking = _described(commands.add_parser("ask", help="one question, one way"), f'ask base:none:direct "{_QUESTION}"')
    asking.add_argument("id", help="adapter:retriever:strategy")
    asking.add_argument("question")
    for command in (listing, asking):
        command.add_argument("--url", default=URL, help="of the gateway (default: %(default)s)")
    return parser.parse_args()


def _name(text: str) -> str:
    if NAME.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a name: small letters, digits, `.`, `_`, `-`")


def _replicas(text: str) -> Bounds:
    if written := re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", text):
        least, most = (int(number) for number in (written[1], written[2] or written[1]))
        if least <= most:
            return Bounds(least, most)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of replicas: write 2, or 1-8")


_QUESTION: Final = "Who founded Varn?"


def _described(parser: argparse.ArgumentParser, example: str) -> argparse.ArgumentParser:
    parser.epilog = f"Example: python -m serve {example}"
    return parser


if __name__ == "__main__":
    sys.exit(main())
