"""However a build ends there is the old index or the new one, and what it had embedded is not embedded again."""

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, Final

import numpy as np
import pytest

from retrieval.batch import Vectors as Matrix
from retrieval.generation import alone, publish, steadily, verified
from retrieval.manifest import BuildSettings, Inputs, Manifest
from retrieval.reuse import embedded
from retrieval.vectors import Vectors

ROOT = Path(__file__).parents[1]
INPUTS: Final = Inputs(corpus_sha256="c", settings=BuildSettings(), embedder_sha256="e")
MADE: Final = Manifest(inputs=INPUTS, documents=1, passages=1, dimension=2, kind="flat", probes=0)
MADE_FILES: Final = {"a": hashlib.sha256(b"a").hexdigest()}


def fill(folder: Path) -> None:
    (folder / "a").write_bytes(b"a")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `tests.dying_build` saw, by how builds died."""
    folder = str(tmp_path_factory.mktemp("dying"))
    program = [sys.executable, "-m", "tests.dying_build", folder, "killed", "refused", "full"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["how"]: row for row in rows}


@pytest.mark.parametrize("how", ["killed", "refused", "full"])
def test_a_build_that_fails_at_any_step_leaves_a_whole_index(seen: dict[str, dict[str, Any]], how: str) -> None:
    row = seen[how]

    assert row["tried"] > 20, "the steps were not counted"
    assert 1 <= row["generations"] <= row["tried"]
    assert row["unfinished"] > 10, "no failed build left blocks behind"
    assert [name[:4] for name in row["left"]] == [".loc", "CURR", "gen-", "gen-"], "the last build cleans up"


def test_a_reader_opens_without_an_error_while_generations_come_and_go(tmp_path: Path) -> None:
    with alone(tmp_path):
        publish(tmp_path, MADE, fill)
        over = Event()

        def publishing() -> int:
            published = 0
            while published < 30 or not over.is_set():
                publish(tmp_path, MADE, fill)
                published += 1
            return published

        with ThreadPoolExecutor() as pool:
            published, opened = pool.submit(publishing), 0
            try:
                while not published.done() and opened < 10_000:
                    opened += steadily(tmp_path, verified).files == MADE_FILES
                    if opened > 10:
                        over.set()
            finally:
                over.set()

    assert published.result() >= 30
    assert opened > 10


@pytest.mark.parametrize("damage", [lambda whole: whole[:-40], lambda whole: b"\0" * len(whole), lambda _: b""])
def test_a_torn_block_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> Matrix:
        asked.extend(texts)
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)

    first = embedded(["a", "bb"], embed, tmp_path / "blocks", {})
    (block,) = (tmp_path / "blocks").glob("*.npz")
    block.write_bytes(damage(block.read_bytes()))

    again = embedded(["a", "bb"], embed, tmp_path / "blocks", {})

    assert np.array_equal(again, first)
    assert asked == ["a", "bb", "a", "bb"]


@pytest.mark.parametrize("rows", [3, 200])
def test_vectors_that_do_not_fit_on_the_disk_are_not_silently_cut_short(tmp_path: Path, rows: int) -> None:
    vectors = Vectors.build(np.ones((rows, 4), dtype=np.float32))
    vectors.save(tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "whole").stat().st_size - 1, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            vectors.save(tmp_path / "cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
