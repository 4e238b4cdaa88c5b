"""Build an index in this process and by Ray in shards, and compare: the same vectors to the bit, the same hits.

Each cluster is of this machine, with one worker and then with two, started for the build and stopped after it. Knows
nothing of how an index is made or searched.
"""

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from retrieval.build import KEYS
from retrieval.console import Parser
from retrieval.embed import PACKAGED
from retrieval.index import Index, open_index
from retrieval.passage import Hit, Query
from retrieval.retriever import open_retriever
from retrieval.settings import RetrieverSettings
from retrieval.store import CUTS, DOCUMENTS
from retrieval.topics import read_topics

K: Final = 10
BY_RAY: Final = """
import sys
import ray
from retrieval.__main__ import main
ray.init(address="local", num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False)
sys.exit(main([*sys.argv[2:], "--ray", "local"]))
"""
"""A build by a cluster of so many processors, which lives as long as the process."""


def build(*command: str) -> float:
    """The seconds that a build takes, with its start and its end."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return time.monotonic() - began


def vectors_hash(index: Index) -> str:
    return hashlib.sha256(index.vectors.take(np.arange(len(index.vectors))).tobytes()).hexdigest()


def found(path: Path, questions: Sequence[str], **how: object) -> list[tuple[Hit, ...]]:
    retriever = open_retriever(RetrieverSettings(index=path, k=K, **how))  # type: ignore[arg-type]

    async def ask() -> list[tuple[Hit, ...]]:
        return [await retriever.search(Query(question)) for question in questions]

    return asyncio.run(ask())


WAYS: Final = {
    "lexical": {"kind": "lexical"},
    "dense": {"kind": "dense"},
    "hybrid": {"kind": "hybrid"},
    "hybrid, weight 0.5": {"kind": "hybrid", "weight": 0.5},
}


def compare(single: Path, sharded: Path, questions: Sequence[str]) -> list[str]:
    """What is the same and what is not, a line each."""
    one, other = open_index(single), open_index(sharded)
    lines = []
    for name, how in WAYS.items():
        pairs = zip(found(single, questions, **how), found(sharded, questions, **how), strict=True)
        same = sum(ours == theirs for ours, theirs in pairs)
        lines.append(f"{name}: the same top {K} (passages, order, scores) for {same} of {len(questions)} questions")
    ours, theirs = vectors_hash(one), vectors_hash(other)
    lines.append(f"vectors: {'the same' if ours == theirs else 'OTHERS'}, sha256 {ours[:16]} and {theirs[:16]}")
    files = {name: sha256 for name, sha256 in one.manifest.files.items() if name in (KEYS, CUTS, DOCUMENTS)}
    files |= {name: sha256 for name, sha256 in one.manifest.files.items() if name.startswith("words/")}
    same = sum(other.manifest.files.get(name) == sha256 for name, sha256 in files.items())
    return [*lines, f"files of documents, passages and words: {same} of {len(files)} the same"]


def main() -> None:
    parser = Parser(description=__doc__, epilog="example: python -m scripts.check_shards beir/cranfield")
    parser.add_argument("beir", metavar="BEIR_DIR", type=Path, help="corpus.jsonl, queries.jsonl and qrels/")
    parser.add_argument("--embedder", default=PACKAGED, help="default: the packaged %(default)s")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processors of each cluster")
    options = parser.parse_args()
    corpus, questions = options.beir / "corpus.jsonl", [topic.text for topic in read_topics(options.beir)]
    with tempfile.TemporaryDirectory() as folder:
        single = Path(folder, "single")
        embedder = ["--embedder", options.embedder]
        seconds = build("-m", "retrieval", "build", str(corpus), str(single), *embedder)
        print(f"in this process: {seconds:.0f} s", flush=True)
        for workers in options.workers:
            sharded = Path(folder, f"workers-{workers}")
            command = ["build", str(corpus), str(sharded), "--shards", str(options.shards), *embedder]
            seconds = build("-c", BY_RAY, str(workers), *command)
            print(f"{options.shards} shards by Ray, {workers} workers: {seconds:.0f} s", flush=True)
            print("".join(f"  {line}\n" for line in compare(single, sharded, questions)), end="", flush=True)
    print(f"({os.cpu_count()} processors on this machine)")


if __name__ == "__main__":
    main()
