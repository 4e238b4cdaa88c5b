"""Adapters, good and broken, put into the folder of a gateway that answers: the good are served, nobody else notices.

Knows nothing of how a gateway looks at its folder.
"""

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import torch
import yaml
from safetensors.torch import load_file, save_file

from scripts.serving import VLLM, Heard, Object, hear, up
from serve.adapters import CONFIG, WEIGHTS
from serve.stack import Stack

CALLERS = 20
PATIENCE = 60.0
"""Seconds for a folder to be looked at and an adapter to be loaded."""
SAID = {
    "dead": "has no effect",
    "pickle": "a pickle can run any code",
    "wide": "was made for another model",
    "high": "the engine takes 64",
    "torn": "is cut off",
}


def adapters(stack: Stack) -> list[str]:
    """Add, replace, spoil and remove adapters of a real engine under streams."""
    source = next(iter(stack.adapters.values()))
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        shelf = here / "shelf"
        shelf.mkdir()
        settings = {"model": stack.model, "adapter_folder": "shelf", "strategies": {"direct": {"kind": "direct"}}}
        engine = {"max_model_len": 1024, "max_loras": 4, "max_lora_rank": 64}
        (here / "stack.yaml").write_text(yaml.safe_dump(settings | {"engine": engine}), encoding="utf-8")
        said: list[str] = []
        with up(here / "stack.yaml", program=VLLM, said=said) as (_, url):
            try:
                problems = asyncio.run(_shelved(url, source, shelf, said))
            except* TimeoutError:
                problems = ["it did not come about; the gateway said:", *said[-20:]]
    return problems


async def _shelved(url: str, source: Path, shelf: Path, said: list[str]) -> list[str]:
    heard: list[Heard] = []
    over = asyncio.Event()

    async def caller(http: aiohttp.ClientSession) -> None:
        while not over.is_set():
            heard.append(await hear(http, url, _asking("base", 60), Heard()))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller(http))
        try:
            took = [await _until(http, url, "fresh", True, lambda: _put(source, shelf / "fresh"))]
            first = await hear(http, url, _asking("fresh", 20), Heard())
            for name, spoil in _SPOILT.items():
                _put(source, shelf / name, spoil)
            (shelf / "link").symlink_to(source)
            half = await _changed(http, url, first.text, lambda: _put(source, shelf / "fresh", _turned))
            took.append(await _until(http, url, "last", True, lambda: _put(source, shelf / "last")))
            offered = await _offered(http, url)
            gone = await _until(http, url, "fresh", False, lambda: shutil.rmtree(shelf / "fresh"))
            base = await hear(http, url, _asking("../shelf/last", 5), Heard())
        finally:
            over.set()
    failed = sorted({one.error or "no end" for one in heard if not one.done})
    told = {name: sum(sentence in line and f"{name} " in line for line in said) for name, sentence in SAID.items()}
    print(
        f"{len(heard)} streams by {CALLERS} callers meanwhile, {len(failed)} failed; adapters were served after "
        f"{', '.join(f'{seconds:.1f}' for seconds in took)} s, other weights under a name after {half:.1f} s, gone "
        f"after {gone:.1f} s; on offer: {', '.join(offered)}; refused: {told}; a path as a name: {base.status}"
    )
    return [
        *failed,
        *(f"{name} was refused {count} times" for name, count in told.items() if count != 1),
        *(["other adapters than these are on offer"] if offered != ["base", "fresh", "last"] else []),
        *(["a path as a name was not refused"] if base.status != 404 else []),
    ]


def _asking(adapter: str, tokens: int) -> Object:
    question = [{"role": "user", "content": "Who are you?"}]
    return {"model": f"{adapter}:none:direct", "messages": question, "max_tokens": tokens, "ignore_eos": True}


def _put(source: Path, target: Path, spoil: Callable[[Path], None] = lambda _: None) -> None:
    """A copy, there all at once."""
    making = target.with_name(f".{target.name}")
    shutil.copytree(source, making)
    spoil(making)
    shutil.rmtree(target, ignore_errors=True)
    making.rename(target)


def _weights(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        loaded = load_file(folder / WEIGHTS)
        save_file({name: change(name, one).contiguous() for name, one in loaded.items()}, folder / WEIGHTS)

    return spoil


def _high(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(config | {"r": 128}), encoding="utf-8")


def _torn(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


_turned = _weights(lambda name, one: -one if "lora_B" in name else one)
_SPOILT = {
    "dead": _weights(lambda name, one: one * 0 if "lora_B" in name else one),
    "pickle": lambda folder: (folder / "adapter_model.bin").touch(),
    "wide": _weights(lambda name, one: torch.cat([one, one], dim=1) if "lora_A" in name else one),
    "high": _high,
    "torn": _torn,
}


async def _offered(http: aiohttp.ClientSession, url: str) -> list[str]:
    """The adapters of now."""
    async with http.get(f"{url}/models") as response:
        return sorted({card["adapter"] for card in (await response.json())["data"]})


async def _until(http: aiohttp.ClientSession, url: str, name: str, there: bool, act: Callable[[], None]) -> float:
    """Seconds until it is there, or not."""
    began = time.monotonic()
    await asyncio.to_thread(act)
    async with asyncio.timeout(PATIENCE):
        while (name in await _offered(http, url)) is not there:
            await asyncio.sleep(0.1)
    return time.monotonic() - began


async def _changed(http: aiohttp.ClientSession, url: str, before: str, act: Callable[[], None]) -> float:
    """Seconds until the adapter `fresh` says something else."""
    began = time.monotonic()
    await asyncio.to_thread(act)
    async with asyncio.timeout(PATIENCE):
        while (await hear(http, url, _asking("fresh", 20), Heard())).text == before:
            await asyncio.sleep(0.1)
    return time.monotonic() - began
