"""What a build paid for is paid for once: vectors and a model's words, by the hash of the text they were made of.

They come from the last generation, or from a build that died: each block is kept as soon as it is computed. Knows
nothing of passages, or of what an index is.
"""

import asyncio
import hashlib
import json
import logging
import sys
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import numpy as np

from retrieval.batch import Vectors as Matrix
from retrieval.cluster import Each
from retrieval.files import flush
from retrieval.generation import writing
from retrieval.passage import whole

Write: TypeAlias = Callable[[str], Awaitable[str]]
"""prompt -> text: a model that a caller lends."""

T = TypeVar("T")

Embed: TypeAlias = Callable[[list[str]], Matrix]

BLOCK: Final = 1024
"""Texts that are embedded and kept at once: some ten seconds of two CPU cores."""
SAMPLE: Final = 64
"""Texts from all over the corpus, whose time says how long the rest will take."""
WORTH_SAYING: Final = 1000
AT_ONCE: Final = 8
"""Prompts that a model has at a time."""

logger = logging.getLogger(__name__)


def key(text: str) -> bytes:
    """Sixteen bytes that no two texts share."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def embedded(
    texts: Sequence[str], embed: Embed, unfinished: Path, before: Mapping[bytes, Matrix], each: Each = map
) -> Matrix:
    """A row for each text. What is neither `before` nor `unfinished`, a folder of blocks, is embedded and put there.

    The texts of a call decide the last bits of its vectors: calls are the same whoever makes them for `each`.
    """
    keys = [key(text) for text in texts]
    known = {**_blocks(unfinished), **before}
    new = {one: text for one, text in zip(keys, texts, strict=True) if one not in known}
    if known and new:
        logger.info(f"{sum(one in known for one in keys):,} of {len(texts):,} passages are embedded already")
    for names, vectors in _in_blocks(new, embed, each):
        _keep(unfinished, names, vectors)
        known |= zip(names, vectors, strict=True)
    return np.stack([known[one] for one in keys])


def _in_blocks(new: Mapping[bytes, str], embed: Embed, each: Each) -> Iterator[tuple[list[bytes], Matrix]]:
    """Embed a sample first, say how long the rest will take, then go on block by block."""
    from tqdm import tqdm

    names = list(new)
    sample = names[:: max(1, len(names) // SAMPLE)] if len(names) >= WORTH_SAYING else []
    if sample:
        embed([new[sample[0]]])  # loads the model, which takes its time once
        started = time.perf_counter()
        yield sample, embed([new[name] for name in sample])
        a_second = len(sample) / (time.perf_counter() - started)
        minutes = len(names) / a_second / 60
        logger.info(
            f"embedding {len(names):,} passages: about {minutes:.0f} min of this process, at {a_second:.0f} a second "
            "in a sample"
        )
    sampled = set(sample)
    rest = [name for name in names if name not in sampled]
    blocks = list(_batched(rest, BLOCK))
    texts = ([new[name] for name in block] for block in blocks)
    with tqdm(total=len(rest), desc="embedding", unit=" passages", disable=not sys.stderr.isatty()) as bar:
        for block, vectors in zip(blocks, each(embed, texts), strict=True):
            yield block, vectors
            bar.update(len(block))


def _blocks(folder: Path) -> dict[bytes, Matrix]:
    """What a build that died has left; a block that the death has torn is made again."""
    found: dict[bytes, Matrix] = {}
    for file in sorted(folder.glob("*.npz")):
        try:
            with np.load(file, allow_pickle=False) as block:
                found |= zip((row.tobytes() for row in block["keys"]), block["vectors"], strict=True)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            file.unlink()
    return found


def _keep(folder: Path, names: Sequence[bytes], vectors: Matrix) -> None:
    rows = np.frombuffer(b"".join(names), dtype=np.uint8).reshape(-1, 16)
    aside = folder / ".block"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.savez(file, keys=rows, vectors=vectors)
        flush(aside)
        aside.rename(folder / f"{names[0].hex()}.npz")


def written(prompts: Sequence[str], write: Write, log: Path, before: Mapping[str, str]) -> dict[str, str]:
    """What the model writes, by `prompt_key`. What is neither `before` nor in the log is asked for and put there."""
    known = {**_log(log), **before}
    new = [prompt for prompt in dict.fromkeys(prompts) if prompt_key(prompt) not in known]
    asyncio.run(_ask(new, write, log, known))
    return known


def prompt_key(prompt: str) -> str:
    return key(prompt).hex()


async def _ask(prompts: Sequence[str], write: Write, log: Path, known: dict[str, str]) -> None:
    from tqdm import tqdm

    with writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line is in the file as soon as it is written, and nothing is left to fail when it is closed.
        file = log.open("ab", buffering=0)
    bar = tqdm(total=len(prompts), desc="writing", unit=" passages", disable=not sys.stderr.isatty())
    with bar, file:

        async def one(prompt: str) -> None:
            known[prompt_key(prompt)] = text = whole((await write(prompt)).strip())
            # A line begins with its end, so that one that a death has torn spoils no other.
            with writing(log):
                file.write(b"\n" + json.dumps({"key": prompt_key(prompt), "text": text}).encode())
            bar.update()

        for group in _batched(prompts, AT_ONCE):
            await asyncio.gather(*map(one, group))


def _log(file: Path) -> dict[str, str]:
    """What is in the log; a line that a death has torn is passed over."""
    found: dict[str, str] = {}
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        try:
            row = json.loads(line)
            found[row["key"]] = row["text"]
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _batched(items: Sequence[T], size: int) -> Iterator[list[T]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))
