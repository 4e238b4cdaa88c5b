"""Deploy a stack by Ray Serve LLM, ask the gateway in front of it, and compare with a gateway that has its own engine.

    python -m scripts.check_deploy out/demo/world/stack.yaml

The base and each adapter, without a retriever and with the stack's first, streamed and not, greedy in float32, by the
`openai` client: the texts must be the same. Starts a Ray of its own on this machine and stops it. Knows nothing of what
is in the file that it deploys, but its port.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from openai import OpenAI

from retrieval.console import Parser, stop_politely
from retrieval.files import FileError
from scripts.bench_paths import free_port
from scripts.bench_texts import some_questions
from scripts.serving import descendants, up
from serve.chat import ServeError
from serve.deploy import Bounds, deploy
from serve.stack import Stack

START_SECONDS: Final = 600.0
STOP_SECONDS: Final = 60.0
TOKENS: Final = 32
Texts = Mapping[tuple[str, str, bool], str]
"""(combination, question, whether streamed) -> what was answered."""


def main() -> None:
    parser = Parser(prog="python -m scripts.check_deploy", description="The same texts from Ray Serve as without it?")
    parser.epilog = "Example: python -m scripts.check_deploy out/demo/world/stack.yaml"
    parser.add_argument("stack", type=Path, help="a stack.yaml whose model and adapters are served, in float32")
    parser.add_argument(
        "--adapter", type=Path, action="append", default=[], metavar="FOLDER", help="beside the stack's (repeatable)"
    )
    parser.add_argument("--questions", type=int, default=4, help="(default: %(default)s)")
    options = parser.parse_args()
    stop_politely()
    try:
        stack = Stack.load(options.stack)
        more = {folder.name: folder.resolve() for folder in options.adapter}
        problems = check(replace(stack, adapters=stack.adapters | more), options.questions)
    except (FileError, ServeError) as error:
        sys.exit(str(error))
    print("\n".join(problems), end="\n" * bool(problems))
    sys.exit(1 if problems else 0)


def check(stack: Stack, count: int) -> list[str]:
    """What is other through Ray than without it."""
    questions = some_questions(None, count)[:count]
    with tempfile.TemporaryDirectory(prefix="fulcrum-ray-", dir="/tmp") as folder:  # Ray's sockets have short paths
        own, asking = Path(folder) / "stack.yaml", Path(folder) / "asking.yaml"
        own.write_text(yaml.safe_dump(_written(stack)), encoding="utf-8")
        app = Path(folder) / "app.yaml"
        print(deploy(own, app, Bounds()))
        with deployed(app, Path(folder)) as url:
            asking.write_text(yaml.safe_dump(_written(stack) | {"url": url}), encoding="utf-8")
            through = answers(asking, questions)
        alone = answers(own, questions)
    other = [
        f"{key}: {through[key]!r} through Ray, {text!r} without" for key, text in alone.items() if through[key] != text
    ]
    cut = [f"{key}: another text streamed" for key, text in alone.items() if text != alone[*key[:2], not key[2]]]
    ways, texts, same = {model for model, *_ in alone}, set(alone.values()), len(alone) - len(other)
    print(f"{len(ways)} combinations, {len(texts)} texts: {same} of {len(alone)} answers are the same through Ray")
    return other + cut


def answers(stack: Path, questions: list[str]) -> Texts:
    """What the gateway of this stack says, one question after the other: so no two are computed in one batch."""
    known = Stack.load(stack)
    ids = [str(one) for one in known.combinations]
    with up(stack) as (_, url), OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        return {
            (model, question, streamed): _ask(client, model, question, streamed)
            for model, question, streamed in product(ids, questions, (False, True))
        }


@contextmanager
def deployed(app: Path, folder: Path) -> Iterator[str]:
    """The URL of a Ray that serves this application, as soon as it answers; inside, and nothing of it afterwards."""
    if not find_spec("ray"):
        raise ServeError("this needs Ray, which is not installed: make ray")
    port = free_port()
    settings = yaml.safe_load(app.read_text(encoding="utf-8"))
    settings["http_options"]["port"] = port
    app.write_text(yaml.safe_dump(settings), encoding="utf-8")
    url, log = f"http://127.0.0.1:{port}/v1", folder / "ray.log"
    model = settings["applications"][0]["args"]["llm_configs"][0]["model_loading_config"]["model_id"]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)}
    command = [str(Path(sys.executable).with_name("serve")), "run", "--address", "local", str(app)]
    began = time.monotonic()
    with log.open("wb") as said, subprocess.Popen(command, env=environment, stdout=said, stderr=said) as ray:
        try:
            _wait(url, model, ray, log)
            print(f"Ray answers after {time.monotonic() - began:.0f} s")
            yield url
        finally:
            family = descendants(ray.pid)
            ray.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                ray.wait(STOP_SECONDS)
            for pid in (ray.pid, *family):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _wait(url: str, model: str, ray: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the model has said a word; ServeError with the end of Ray's log when it will not."""
    body = {"model": model, "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 1}
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and ray.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.post(f"{url}/chat/completions", json=body, timeout=START_SECONDS).is_success:
                return
        time.sleep(1.0)
    raise ServeError(f"Ray does not answer; it said:\n{log.read_text(errors='replace')[-4000:]}")


def _ask(client: OpenAI, model: str, question: str, streamed: bool) -> str:
    asked: Any = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0.0}
    if not streamed:
        return client.chat.completions.create(**asked).choices[0].message.content or ""
    events = client.chat.completions.create(**asked, stream=True)
    return "".join(choice.delta.content or "" for event in events for choice in event.choices)


def _written(stack: Stack) -> dict[str, Any]:
    """Its model, its adapters and its first retriever, in a file anywhere."""
    as_it_is = yaml.safe_load(Path(str(stack.file)).read_text(encoding="utf-8"))
    first = dict(list(stack.retrievers.items())[:1])
    return {
        "model": stack.model,
        "adapters": {name: str(folder) for name, folder in stack.adapters.items()},
        "retrievers": {name: as_it_is["retrievers"][name] | {"index": str(one.index)} for name, one in first.items()},
        "strategies": {"direct": {"kind": "direct"}},
        "engine": as_it_is.get("engine", {}) | {"dtype": "float32"},
        "sampling": {"max_tokens": TOKENS},
    }


if __name__ == "__main__":
    main()
