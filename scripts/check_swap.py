"""A new generation of an index under streams: each answer's sources must all be of one generation.

Knows nothing of engines; a stand-in answers.
"""

import asyncio
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp

from retrieval.build import build
from retrieval.manifest import BuildSettings
from retrieval.passage import Document
from scripts.serving import STUB, Heard, hear, up

DOCUMENTS = 40
STACK = """\
model: {model}
retrievers:
  words: {{kind: lexical, index: index, k: 8}}
  both: {{kind: hybrid, index: index, k: 8}}
strategies: {{direct: {{kind: direct}}}}
"""
MODEL = Path(__file__).parent / "pocket" / "model"


def swap(streams: int, times: int) -> list[str]:
    """Publish new generations while streams run."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "stack.yaml").write_text(STACK.format(model=MODEL), encoding="utf-8")
        _publish(here / "index", 0)
        os.environ["STUB_SECONDS"] = "0.02"
        with up(here / "stack.yaml", program=STUB) as (_, url):
            heard = asyncio.run(_asking(url, here / "index", streams, times))
    editions = [{source["document"].partition("-")[0] for source in one.sources} for one in heard]
    failed = [one.error or "no end" for one in heard if not one.done]
    torn = [found for found in editions if len(found) != 1]
    seen = Counter(found for one in editions for found in one)
    print(
        f"{len(heard)} answers by {streams} callers over {times} new generations: {len(failed)} failed, {len(torn)} "
        f"had sources of more than one; generations seen: {len(seen)}"
    )
    late = [] if len(seen) > 1 else ["no new generation was ever taken up"]
    return [*failed, *(f"one answer has sources of {sorted(found)}" for found in torn), *late]


async def _asking(url: str, index: Path, streams: int, times: int) -> list[Heard]:
    over = asyncio.Event()
    heard: list[Heard] = []

    async def caller(http: aiohttp.ClientSession, number: int) -> None:
        model = ("base:words:direct", "base:both:direct")[number % 2]
        body = {"model": model, "messages": [{"role": "user", "content": "Which owl hoots?"}], "max_tokens": 10}
        while not over.is_set():
            heard.append(await hear(http, url, body, Heard()))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(caller(http, number))
        for edition in range(1, times + 1):
            began = time.monotonic()
            await asyncio.to_thread(_publish, index, edition)
            await asyncio.sleep(max(0.0, 6.0 - (time.monotonic() - began)))  # the gateway looks every five seconds
        over.set()
    return heard


def _publish(index: Path, edition: int) -> None:
    text = "The owl of edition {} hoots {} times."
    documents = [
        Document(id=f"e{edition}-{n}", title=f"Owl {n}", text=text.format(edition, n)) for n in range(DOCUMENTS)
    ]
    build(documents, index, BuildSettings())
