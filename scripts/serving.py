"""`python -m serve up` as a process of its own, asked over HTTP; what `scripts/check_serve.py` and the tests share.

Knows nothing of what is checked.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, Final

import aiohttp

VLLM: Final = ("serve", "up")
STUB: Final = ("scripts.stub_up",)
Object = dict[str, Any]


@contextmanager
def up(
    stack: Path, *options: str, program: tuple[str, ...] = VLLM, said: list[str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL, from the moment it says that it is ready; killed when it is not gone by the end.

    What it says afterwards goes to `said`.
    """
    command = [sys.executable, "-m", *program, str(stack), "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            ready = next(line for line in process.stderr if "python -m serve ask" in line)
            # Whoever is not listened to cannot go on: a pipe holds 64 KiB.
            listening = Thread(target=(said if said is not None else deque(maxlen=1)).extend, args=[process.stderr])
            listening.start()
            try:
                yield process, ready.split()[-1]
            finally:
                process.kill()
                listening.join()
        finally:
            process.kill()


def descendants(ancestor: int) -> set[int]:
    """Its children, theirs, and so on."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


def is_running(pid: int) -> bool:
    """Whether it does anything; one that is dead and not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def computed(pid: int) -> float:
    """Seconds of the processor that all its threads took: user and system (proc(5), fields 14 and 15)."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """MiB of memory that it has; none once it is over."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024 if "VmRSS:" in status else 0.0


def words_of(pid: int) -> str:
    """Its command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclass(slots=True)
class Heard:
    """One streamed answer."""

    status: int = 0
    pieces: int = 0
    text: str = ""
    sources: list[Object] = field(default_factory=list)
    error: str = ""
    """What an error event, or the connection's end, says."""
    done: bool = False
    """Whether `[DONE]` came."""
    ended: float = 0.0
    """time.monotonic()."""


async def hear(http: aiohttp.ClientSession, url: str, body: Object, heard: Heard) -> Heard:
    """Ask for a stream and note what comes, while it comes."""
    try:
        async with http.post(f"{url}/chat/completions", json=body | {"stream": True}) as response:
            heard.status = response.status
            if not response.ok:
                heard.error = (await response.json())["error"]["message"]
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    heard.done = True
                elif line.startswith(b"data:"):
                    _note(json.loads(line[5:]), heard)
    except aiohttp.ClientError as error:
        heard.error = heard.error or f"cut off: {error!r}"
    heard.ended = time.monotonic()
    return heard


def _note(event: Object, heard: Heard) -> None:
    if "error" in event:
        heard.error = event["error"]["message"]
        return
    heard.sources = event.get("sources", heard.sources)
    for choice in event["choices"]:
        if piece := choice["delta"].get("content"):
            heard.text += piece
            heard.pieces += 1


async def all_begun(streams: list[Heard], seconds: float = 60.0) -> None:
    """Return when each has said something."""
    async with asyncio.timeout(seconds):
        while not all(one.pieces for one in streams):
            await asyncio.sleep(0.01)


async def seconds_until_ready(http: aiohttp.ClientSession, url: str, since: float, most: float = 300.0) -> float:
    """How long after `since` /readyz says so; it is asked every 50 ms."""
    async with asyncio.timeout(most):
        while True:
            async with http.get(url.replace("/v1", "/readyz")) as response:
                if response.ok:
                    return time.monotonic() - since
            await asyncio.sleep(0.05)
