"""Fuzz a running gateway by its own description: schemathesis asks what is allowed and what is not, and more.

    python -m scripts.fuzz_serve --clients .venv-clients/bin --cases 200

`serve up` is a process of its own over a server that answers at once (`Upstream`), with an index, a capture and every
kind of strategy. It fails where an answer is a 5xx, differs from the description, takes too long, or where the gateway
accepts what it says that it refuses. Knows nothing of how anything is answered.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, Final
from urllib.request import urlopen

from aiohttp import web

from retrieval.build import build
from retrieval.console import Parser
from retrieval.manifest import BuildSettings
from retrieval.passage import Document
from scripts.bench_paths import ROOT, Stack, Way, fulcrum

CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
"""Not `positive_data_acceptance`: that the last message is the user's, or top_p a share, no schema here says."""
SECONDS: Final = 10
"""In which every answer must be there."""
LONGEST: Final = 4096
"""Tokens for which the server has room."""
DOCUMENTS: Final = tuple(
    Document(id=f"town-{name}", title=name, text=f"{who} founded {name} in {year}.")
    for name, who, year in (("Varn", "Mira Tall", 1891), ("Odo", "Ann Bo", 1902), ("Kell", "Ib Sund", 1777))
)


@contextmanager
def upstream() -> Iterator[Way]:
    """A server of chat completions that answers at once, and refuses what vLLM would, on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    app = web.Application(client_max_size=8 << 20)
    app.router.add_get("/v1/models", _models)
    app.router.add_post("/v1/chat/completions", _chat)
    runner = web.AppRunner(app, access_log=None)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield Way("upstream", f"http://127.0.0.1:{port}/v1", "pocket")
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _models(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "pocket", "object": "model"}]})


async def _chat(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    if asked["max_tokens"] > LONGEST:
        return web.json_response({"error": {"message": f"there is room for {LONGEST} tokens"}}, status=400)
    head = {"id": "chatcmpl-a", "created": 1, "model": asked["model"]}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    said = {"role": "assistant", "content": "Mira Tall [S1], not Oda [S9]."}
    places = range(asked.get("n", 1))
    if not asked.get("stream"):
        choices = [{"index": place, "message": said, "finish_reason": "stop"} for place in places]
        return web.json_response({**head, "object": "chat.completion", "choices": choices, "usage": usage})
    chunks = [[_piece(place, said, None) for place in places], [_piece(place, {}, "stop") for place in places], []]
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    for choices in chunks:
        counted = {} if choices else {"usage": usage}
        event = {**head, "object": "chat.completion.chunk", "choices": choices, **counted}
        await answer.write(f"data: {json.dumps(event)}\n\n".encode())
    await answer.write(b"data: [DONE]\n\n")
    return answer


def _piece(place: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": place, "delta": delta, "finish_reason": reason}


def stack(folder: Path) -> Stack:
    """Every route has something to do."""
    index = folder / "index"
    build(DOCUMENTS, index, BuildSettings())
    return {
        "retrievers": {"lexical": {"kind": "lexical", "index": str(index)}},
        "strategies": {
            "direct": {"kind": "direct"},
            "cot": {"kind": "cot", "instructions": "Think. Write the answer after `Answer:`."},
        },
        "aliases": {"towns": "base:lexical:direct"},
        "capture": str(folder / "chats.jsonl"),
    }


def fuzz(program: Path, way: Way, cases: int, seed: int) -> int:
    """How schemathesis ends: 0 where it found nothing."""
    url = way.url.removesuffix("/v1")
    command = [str(program), "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS), "--phases"]
    command += ["examples,coverage,fuzzing", "--max-examples", str(cases), "--seed", str(seed), "--continue-on-failure"]
    command += ["--request-timeout", str(SECONDS), "--suppress-health-check", "all", "--warnings", "off"]
    return subprocess.run(command, cwd=tempfile.gettempdir(), check=False).returncode


def main() -> int:
    parser = Parser(
        description="Fuzz a running gateway by its own description, with schemathesis.",
        epilog="example: python -m scripts.fuzz_serve --clients .venv-clients/bin --cases 200",
    )
    folder = Path(".venv-clients/bin")
    parser.add_argument(
        "--clients", type=Path, default=folder, help="the programs of clients.txt (default: %(default)s)"
    )
    parser.add_argument("--cases", type=int, default=100, help="random cases for each route (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which cases (default: %(default)s)")
    options = parser.parse_args()
    program = options.clients.resolve() / "st"
    if not program.is_file():
        parser.error(f"{program} is not there; install requirements/clients.txt into an environment of its own")
    with tempfile.TemporaryDirectory() as made, upstream() as server, fulcrum(server, stack(Path(made))) as way:
        found = fuzz(program, way, options.cases, options.seed)
        with urlopen(f"{way.url.removesuffix('/v1')}/readyz", timeout=SECONDS) as answer:
            is_ready = answer.status == 200
    faults = (ROOT / "out" / "bench" / "fulcrum.log").read_text(encoding="utf-8").count("Traceback")
    print(
        f"schemathesis ended with {found}; the gateway is {'ready' if is_ready else 'lost'}; {faults} faults in its log"
    )
    return int(bool(found or faults or not is_ready))


if __name__ == "__main__":
    sys.exit(main())
