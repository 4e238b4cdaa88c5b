"""Kill builds of an index at random moments, with SIGKILL, until they finish anyway; after each, search what is there.

It must be the old index or the new one, whole, each vector and each word its passage's; and a finished one must be the
unkilled one's. Knows nothing of how an index is made.
"""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

# What a build imports is here already: it takes longer than a build of three hundred documents.
import bm25s  # noqa: F401
import faiss  # noqa: F401
import numpy as np
import semchunk  # noqa: F401
import sentence_transformers  # noqa: F401
import Stemmer  # noqa: F401
from tqdm import tqdm

import retrieval.reuse
from retrieval.__main__ import main as retrieval_main
from retrieval.build import UNFINISHED
from retrieval.chunking import passages
from retrieval.console import Parser
from retrieval.corpus import read_corpus
from retrieval.embed import PACKAGED, locate, open_embedder
from retrieval.files import model_hash, read_jsonl, write_jsonl
from retrieval.generation import in_use
from retrieval.index import VECTORS, open_index
from retrieval.manifest import BuildSettings, Manifest
from retrieval.passage import Passage, RetrievalError
from retrieval.reuse import key
from scripts.check_resume import draw_alone, wait

CORPUS: Final = Path(__file__).resolve().parents[1] / "out" / "demo" / "world" / "corpus.jsonl"
BLOCK: Final = 16
"""Texts that a build keeps at once: few, so that one that dies has kept some."""
EDITIONS: Final = 4
"""Corpora that follow one another, again and again."""
NEAR: Final = 1e-6
"""A text embedded among other texts has a vector that differs by some 1e-7."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """A corpus, and what an index of it must hold."""

    corpus: Path
    passages: tuple[Passage, ...]
    manifest: Manifest
    """Of a build that nobody killed."""
    seconds: float
    """How long that took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What was done and seen."""

    kills: int
    finished: int
    """Builds whose index was put in use; some were killed just after."""
    identical: int
    """Of these, how many have the unkilled one's vectors bit for bit, and not only to NEAR."""
    handed_on: int
    """Passages of these that builds which had died left embedded."""
    searched: int
    """Passages that were searched for after a kill, and found."""


def check(rows: Sequence[Row], folder: Path, embedder: str, kills: int, seed: int = 0) -> Tally:
    """Raise AssertionError at the first index that is wrong."""
    random, index = Random(seed), folder / "killed"
    vectors = folder / "vectors.npz"
    editions = [make_edition(rows, folder, embedder, version) for version in range(EDITIONS)]
    assert forked(lambda: embed(editions, locate(embedder), vectors)) == 0
    old, new = None, editions[0]
    killed = finished = identical = handed_on = searched = 0
    bar = tqdm(total=kills, desc="kills", unit="kill", disable=None)
    while killed < kills or (index / UNFINISHED).exists():
        left = kept(index, new)
        child = start(["build", str(new.corpus), str(index), "--embedder", embedder], folder / "said")
        ended = wait(child, random.random() * new.seconds if killed < kills else None)
        if ended is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
            bar.update()
        said = (folder / "said").read_text()
        assert ended in (None, 0), f"a build failed after {killed} kills:\n{said}"
        now = in_use(index)
        if now is None:
            assert old is None, f"there is no index after {killed} kills"
            check_nothing(index)
            continue
        edition = new if now.inputs == new.manifest.inputs else old
        assert edition is not None, f"an index of half a corpus after {killed} kills"
        assert now.inputs == edition.manifest.inputs, f"another index after {killed} kills"
        assert ended is None or edition is new, f"a build that ended has changed nothing, after {killed} kills"
        different = {name for name, sha256 in edition.manifest.files.items() if now.files.get(name) != sha256}
        assert now.files.keys() == edition.manifest.files.keys(), f"other files after {killed} kills"
        assert different <= {VECTORS}, f"{different} are not the unkilled build's after {killed} kills"
        assert forked(lambda edition=edition: check_rows(index, edition, vectors)) == 0, (
            f"a wrong index after {killed} kills"
        )
        searched += len(edition.passages)
        if edition is new:
            finished += 1
            identical += not different
            handed_on += left
            old, new = new, editions[finished % EDITIONS]
    bar.close()
    return Tally(kills=killed, finished=finished, identical=identical, handed_on=handed_on, searched=searched)


def make_edition(rows: Sequence[Row], folder: Path, embedder: str, version: int) -> Edition:
    """Half of the rows: from one version to the next a quarter of them are new, as many gone, and a tenth changed."""
    count = len(rows) // 2
    chosen = [dict(rows[(number + version * count // 4) % len(rows)]) for number in range(count)]
    for row in chosen[version % 10 :: 10]:
        row["text"] = f"{row['text']} Edition {version}."
    corpus = folder / f"corpus-{version}.jsonl"
    write_jsonl(corpus, chosen)
    defaults = BuildSettings()
    cut = tuple(
        piece for document in read_corpus(corpus) for piece in passages(document, defaults.size, defaults.overlap)
    )
    began = time.monotonic()
    code = wait(start(["build", str(corpus), str(folder / "whole"), "--embedder", embedder], folder / "said"))
    seconds = time.monotonic() - began
    assert code == 0, f"a build fails without being killed:\n{(folder / 'said').read_text()}"
    manifest = in_use(folder / "whole")
    assert manifest is not None
    return Edition(corpus=corpus, passages=cut, manifest=manifest, seconds=seconds)


def embed(editions: Sequence[Edition], folder: Path, file: Path) -> None:
    """Every text of every edition, all at once and not by a build."""
    texts = list(dict.fromkeys(passage.searchable for edition in editions for passage in edition.passages))
    np.savez(file, texts=np.array(texts), vectors=open_embedder(folder, model_hash(folder)).passages(texts))


def check_rows(index: Path, edition: Edition, file: Path) -> None:
    """Every row is the passage's that stands there, and is found by its vector and by its words."""
    opened, plain = open_index(index), np.load(file, allow_pickle=False)
    by_text = dict(zip(plain["texts"].tolist(), plain["vectors"], strict=True))
    expected = np.stack([by_text[passage.searchable] for passage in edition.passages])
    assert tuple(opened.passages) == edition.passages, "other passages"
    vectors = opened.vectors.take(np.arange(len(expected)))
    assert (1 - np.sum(vectors * expected, axis=1) < NEAR).all(), "a vector of another passage"
    for passage, vector in zip(edition.passages, expected, strict=True):
        # Two texts of the same words in another order may be one to an embedder, and are one to BM25.
        (nearest,) = opened.hits(opened.vectors.search(vector, 1))
        same = 1 - by_text[nearest.passage.searchable] @ vector < NEAR
        assert same, f"{nearest.passage.id} is found for the vector of {passage.id}"
        found = opened.hits(opened.words.search(passage.searchable, 1))[0].passage
        assert _words(found) == _words(passage), f"{found.id} is found for the words of {passage.id}"


def _words(passage: Passage) -> list[str]:
    return sorted(passage.searchable.split())


def check_nothing(index: Path) -> None:
    try:
        open_index(index)
    except RetrievalError as error:
        assert "there is no index here" in str(error), error  # noqa: PT017
    else:
        raise AssertionError("an index is opened where none is in use")


def kept(index: Path, edition: Edition) -> int:
    """How many passages of the edition stand in the blocks that builds which died have left, each of them whole."""
    wanted, found = {key(passage.searchable) for passage in edition.passages}, 0
    for file in index.glob(f"{UNFINISHED}/*/*.npz"):
        with np.load(file, allow_pickle=False) as block:
            assert len(block["keys"]) == len(block["vectors"]), f"a torn block: {file}"
            found += sum(row.tobytes() in wanted for row in block["keys"])
    return found


def start(command: Sequence[str], said: Path) -> int:
    """Fork `python -m retrieval`; its process id. What it says goes into the file."""
    said.write_text("")
    child = os.fork()
    if child:
        return child
    output = os.open(said, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    retrieval.reuse.BLOCK = BLOCK  # type: ignore[misc]
    os._exit(retrieval_main(command))


def forked(action: Callable[[], None]) -> int:
    """The exit code of what is done in a process of its own.

    This one only imports: after a parallel computation, the threads that made it would be missing in a fork.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        action()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    draw_alone()
    parser = Parser(description=__doc__, epilog="example: python -m scripts.check_index --kills 50")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="documents (default: the demo's)")
    parser.add_argument(
        "--documents", type=int, default=500, help="how many, of which an index has half (default: 500)"
    )
    parser.add_argument("--embedder", default=PACKAGED, help="default: the packaged %(default)s")
    options = parser.parse_args()
    if not options.corpus.is_file():
        sys.exit(f"{options.corpus}: there is no such file; `make demo` writes the demo's, or give --corpus FILE")
    began = time.monotonic()
    rows = [row for _, row in read_jsonl(options.corpus)][: options.documents]
    with tempfile.TemporaryDirectory() as folder:
        tally = check(rows, Path(folder), options.embedder, options.kills)
    print(
        f"{tally.kills} kills, after each the old index or the new one, whole ({tally.searched:,} passages searched "
        f"for, each found); {tally.finished} builds finished, each the unkilled one's ({tally.identical} bit for bit, "
        f"the others but for vectors within {NEAR:.0e}), with {tally.handed_on:,} passages handed on by builds that "
        f"died ({time.monotonic() - began:.0f} s)"
    )


if __name__ == "__main__":
    main()
