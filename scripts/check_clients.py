"""Are the clients that people have served rightly? Each asks a running gateway as its own users do.

    python -m scripts.check_clients out/demo/world/stack.yaml --clients .venv-clients/bin/python

Engine and gateway are real, over a stack's model, adapters and indexes. What each client saw (`client_probe.py`, in the
clients' own environment) is compared with what curl saw, and that with the tokenizer's count. Knows nothing of the
clients' code.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from retrieval.console import Parser
from retrieval.files import FileError, read_jsonl
from scripts.bench_paths import ROOT, BenchError, Way, free_port, started
from scripts.client_probe import CITED, CLIENTS
from serve.chat import Message
from serve.layout import user_turn
from serve.stack import Stack

Told = Mapping[str, Any]
"""What one client saw, by the name of what was asked."""

PEER: Final = "curl"
"""What shows an answer as it is."""
SECONDS: Final = 300.0
COMPACT: Final = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}')
"""Where a schema allows line breaks without end, a small model writes nothing else."""
QUIET: Final = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
"""They ask nobody on the network."""


def checks(told: Told, peer: Told, offered: Sequence[str]) -> dict[str, bool | None]:
    """What holds for a client; None where it has no such call. A sentence in place of an answer holds for nothing."""
    return {name: _holds(name, told, peer, offered) for name in _CHECKS}


def _holds(name: str, told: Told, peer: Told, offered: Sequence[str]) -> bool | None:
    if name == "models":
        return None if told["models"] is None else told["models"] == list(offered)
    try:
        return bool(_CHECKS[name](told, peer))
    except (KeyError, TypeError, IndexError, AttributeError):
        return False


_CHECKS: Final[Mapping[str, Any]] = {
    "models": None,
    "text": lambda told, peer: told["plain"]["texts"] == peer["plain"]["texts"],
    "usage": lambda told, peer: told["plain"]["usage"] == peer["plain"]["usage"],
    "max_tokens": lambda told, peer: (
        told["max_tokens"]["usage"][1] == 3 and told["max_tokens"]["reasons"] == ["length"]
    ),
    "stop": lambda told, peer: told["stop"]["texts"] == [peer["plain"]["texts"][0].partition("sources")[0]],
    "seed": lambda told, peer: (
        told["seed"] == peer["seed"] and told["seed"][0] == told["seed"][1] and len({*map(str, told["seed"])}) > 1
    ),
    "n": lambda told, peer: len(told["n"]["texts"]) == 3 and told["n"]["texts"] == peer["n"]["texts"],
    "logprobs": lambda told, peer: told["logprobs"]["logprobs"] == told["logprobs"]["usage"][1],
    "stream": lambda told, peer: all(told["stream"][key] == told["plain"][key] for key in _STREAMED),
    "schema": lambda told, peer: told["structured"] in ({"colour": "red"}, {"colour": "blue"}),
    "cited": lambda told, peer: told["cited"]["texts"] == [CITED],
    "sent back": lambda told, peer: told["follow up"]["usage"] == peer["follow up"]["usage"],
    "sources": lambda told, peer: told["plain"]["sources"] == peer["plain"]["sources"],
    "streamed sources": lambda told, peer: told["stream"]["sources"] == peer["stream"]["sources"],
}
"""Each is of what a client saw and what curl did, at temperature 0 but for `seed` and `n`."""
_STREAMED: Final = ("texts", "usage", "reasons")
_ASKED: Final = {
    "text": "plain",
    "usage": "plain",
    "schema": "structured",
    "sent back": "follow up",
    "sources": "plain",
    "streamed sources": "stream",
}
"""What a check looks at, where it is not called so."""
DROPPED: Final = {"langchain": ("streamed sources",)}
"""What a client throws away whatever it is sent: said, and no failure of ours."""


def counted(stack: Stack, question: str, answer: Mapping[str, Any]) -> tuple[int, int]:
    """The tokens of the prompt by the model's tokenizer, and those of the answer by its log-probabilities."""
    from transformers import AutoTokenizer

    shown = ((source["title"], source["text"]) for source in answer["sources"])
    prompt = [Message("user", user_turn(shown, question)).as_sent()]
    tokenizer = AutoTokenizer.from_pretrained(stack.model)
    rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    tokens = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return len(tokens), len(answer["choices"][0]["logprobs"]["content"])


def ask(python: Path, name: str, way: Way, question: str) -> Told:
    """What this client saw."""
    command = [str(python), str(ROOT / "scripts" / "client_probe.py"), name, way.url, way.model, question]
    surroundings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | QUIET
    said = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=SECONDS, check=False)
    if said.returncode:
        raise BenchError(f"{name}: {said.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(said.stdout.splitlines()[-1]))


def table(held: Mapping[str, Mapping[str, bool | None]]) -> Iterator[str]:
    width = max(map(len, held))
    yield " " * width + "  " + "  ".join(_CHECKS)
    for name, row in held.items():
        cells = [_CELLS[holds] if check not in DROPPED.get(name, ()) else "drops" for check, holds in row.items()]
        padded = [cell.ljust(len(check)) for cell, check in zip(cells, row, strict=True)]
        yield "  ".join((name.ljust(width), *padded)).rstrip()


_CELLS: Final = {True: "yes", False: "NO", None: "-"}


def problems(held: Mapping[str, Mapping[str, bool | None]], told: Mapping[str, Told]) -> Iterator[str]:
    """Every check that failed, with what was seen."""
    for name, row in held.items():
        for check, holds in row.items():
            if holds is False and check not in DROPPED.get(name, ()):
                yield f"{name}: {check}: {told[name][_ASKED.get(check, check)]}"


def written(stack: Stack, folder: Path) -> Path:
    """The stack's model, adapters and plain retrievers, asked directly; JSON without free white space."""
    parts = {
        "model": stack.model,
        "adapters": {name: str(path) for name, path in stack.adapters.items()},
        "retrievers": {
            name: {"kind": one.kind, "index": str(one.index), "k": one.k} for name, one in stack.retrievers.items()
        },
        "strategies": {"direct": {"kind": "direct"}},
        "engine": {"max_model_len": stack.engine.max_model_len, "arguments": [*stack.engine.arguments, *COMPACT]},
    }
    file = folder / "stack.yaml"
    file.write_text(json.dumps(parts), encoding="utf-8")  # JSON is YAML
    return file


def checked(stack: Stack, way: Way, question: str, python: Path) -> Iterator[str]:
    """The report, line by line; what is wrong comes last."""
    told = {name: ask(python, name, way, question) for name in CLIENTS}
    held = {name: checks(one, told[PEER], list(stack.offered)) for name, one in told.items()}
    yield from table(held)
    yield "\nwhere the sources are:"
    for name, one in told.items():
        places = [one[asked]["where"] for asked in ("plain", "stream") if isinstance(one[asked], dict)]
        yield f"  {name}: {'; streamed: '.join(places)}"
    prompt, answer = counted(stack, question, _raw(way, question))
    usage = told[PEER]["plain"]["usage"]
    yield f"\nusage {usage}; the tokenizer counts {prompt} in the prompt, log-probabilities {answer} in the answer"
    wrong = list(problems(held, told))
    if usage != [prompt, answer]:
        wrong.append("usage is not what the tokenizer counts")
    if wrong:
        raise BenchError("\n".join(wrong))


def _raw(way: Way, question: str) -> Mapping[str, Any]:
    import httpx

    messages = [{"role": "user", "content": question}]
    asked = {"model": way.model, "messages": messages, "temperature": 0, "max_tokens": 48, "logprobs": True}
    return dict(httpx.post(f"{way.url}/chat/completions", json=asked, timeout=SECONDS).json())


def main() -> int:
    parser = Parser(
        description="Ask a gateway over a real engine with the clients that people have.",
        epilog="example: python -m scripts.check_clients out/demo/world/stack.yaml --clients .venv-clients/bin/python",
    )
    parser.add_argument("stack", type=Path, metavar="STACK", help="a stack.yaml")
    parser.add_argument("--model", default="demo:lexical:direct", help="a `direct` combination (default: %(default)s)")
    python = Path(".venv-clients/bin/python")
    parser.add_argument("--clients", type=Path, default=python, help="the Python of clients.txt (default: %(default)s)")
    parser.add_argument("--questions", type=Path, help="the first is asked (default: test.jsonl beside the stack)")
    options = parser.parse_args()
    if not options.clients.is_file():
        parser.error(f"{options.clients} is not there; install requirements/clients.txt into an environment of its own")
    try:
        given = Stack.load(options.stack)
        _, first = next(iter(read_jsonl(options.questions or options.stack.parent / "test.jsonl")))
        with tempfile.TemporaryDirectory() as folder:
            file, port = written(given, Path(folder)), free_port()
            command = [sys.executable, "-m", "serve", "up", str(file), "--port", str(port)]
            with started(command, {}, "clients"):
                way = Way("gateway", f"http://127.0.0.1:{port}/v1", options.model).ready(SECONDS)
                for line in checked(Stack.load(file), way, first["question"], options.clients.absolute()):
                    print(line)
    except (FileError, BenchError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
