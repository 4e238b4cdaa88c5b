"""Our vectors, embedder and search against named peers: the same work, the same machine, a process for every step.

    python -m scripts.bench_retrieval stores --sizes 10k 100k     # LangChain, LlamaIndex, txtai and ours
    python -m scripts.bench_retrieval stores --sizes 1m --repeats 1 --only "fulcrum ivf" --json out/bench.json
    python -m scripts.bench_retrieval embedding                   # texts a second, beside plain sentence-transformers
    python -m scripts.bench_retrieval questions --size 100k       # from a question's text to rows, and where time goes

The peers live in an environment of their own (`--peers PYTHON`); without it ours is measured alone. What everybody does
is in `scripts/peers.py`. With --json FILE, repeats are added to those that FILE has of the same work, so that a long
comparison can be made piece by piece.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from rich.console import Console

from retrieval.console import Parser, stop_politely
from retrieval.embed import PACKAGED, locate
from retrieval.vectors import Kind, Vectors, turned
from scripts.bench_ours import STORES as OURS
from scripts.bench_peers import peers_are_there
from scripts.bench_tables import (
    Row,
    Work,
    embedding_reading,
    encoders_table,
    questions_reading,
    questions_table,
    reading,
    remember,
    remembered,
    stores_table,
)
from scripts.bench_texts import agreement, ask_all, some_questions, some_texts
from scripts.bench_vectors import MADE, made_vectors, nearest
from scripts.peers import ENCODERS
from scripts.peers import STORES as PEERS

HERE: Final = Path(__file__).parent
SIZES: Final = {"1k": 1000, "10k": 10_000, "100k": 100_000, "1m": 1_000_000}
KINDS: Final = get_args(Kind)
MORE: Final = 1000
"""Rows that are added to an index."""


def main(words: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(words)
    stop_politely()
    try:
        options.run(options)
    except KeyboardInterrupt:
        sys.exit("\nStopped. What was measured until now is in the file of --json, if you gave one.")


def stores(options: argparse.Namespace) -> None:
    """A table for every size."""
    chosen = [*OURS, *(PEERS if peers_are_there(options.peers, "peers.txt") else ())]
    chosen = [store for store in chosen if not options.only or store in options.only]
    for size in options.sizes:
        what = f"vectors of {options.vectors.name}" if options.vectors else MADE
        work = Work(what=what, rows=SIZES[size], questions=options.questions)
        rows = remembered(options.json, work)
        with tempfile.TemporaryDirectory() as name:
            if options.repeats:
                lay_out(work, Path(name), options.vectors)
            for _ in range(options.repeats):
                for row in compare(work, Path(name), chosen, options):
                    rows.append(row)
                    remember(options.json, work, rows)
        Console(width=210).print(stores_table(work, rows))
        print(reading(work, rows))


def lay_out(work: Work, folder: Path, given: Path | None) -> None:
    """The files of a piece of work: vectors, questions, their true neighbours, and rows to add later."""
    every = np.load(given, mmap_mode="r") if given else made_vectors(folder / "every.npy", work.rows + MORE)
    if every.ndim != 2 or len(every) < work.rows + MORE or every.dtype != np.float32:
        sys.exit(
            f"{given}: holds {every.dtype} {every.shape}; float32 and {work.rows + MORE:,} rows or more are needed"
        )
    vectors = every[: work.rows]
    questions = turned(vectors, work.questions, seed=2)  # not those by which ours chooses how many groups it reads
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "more.npy", every[work.rows : work.rows + MORE])
    np.save(folder / "questions.npy", questions)
    np.save(folder / "truth.npy", nearest(vectors, questions, work.k))


def compare(work: Work, folder: Path, chosen: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    """One repeat: every store builds, is opened and asked, and takes in more rows."""
    job = work.plain() | {name: str(folder / f"{name}.npy") for name in ("vectors", "questions", "truth", "more")}
    for store in chosen:
        with tempfile.TemporaryDirectory(dir=folder) as index:
            for step in ("build", "search", "add"):
                measured = one_step(step, store, job | {"folder": f"{index}/index"}, options)
                yield {"contestant": store, "step": step} | measured
                if step == "build" and "failed" in measured:
                    break


def one_step(step: str, contestant: str, job: Mapping[str, Any], options: argparse.Namespace) -> Row:
    """What its process measured; or {"failed": why}."""
    ours = [sys.executable, "-m", "scripts.bench_ours"]
    # -P: this folder is no place to find libraries in.
    program = ours if contestant.startswith("fulcrum") else [str(options.peers), "-P", str(HERE / "peers.py")]
    given = json.dumps(dict(job) | {"memory_gib": options.memory})
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            [*program, step, contestant, given],
            capture_output=True,
            text=True,
            check=False,
            cwd=HERE.parent,
            env=environment,
            timeout=options.minutes * 60,
        )
    except subprocess.TimeoutExpired:
        return told(contestant, step, {"failed": f"{step}: not done in {options.minutes:g} minutes"})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"left with {done.returncode}"])[-1]
        return told(contestant, step, {"failed": f"{step}: failed ({options.memory:g} GiB at most): {last[:160]}"})
    return told(contestant, step, json.loads(done.stdout.splitlines()[-1]))


def told(contestant: str, step: str, measured: Row) -> Row:
    print(f"{contestant}: {measured.get('failed', f'{step}: done')}", file=sys.stderr)
    return measured


def embedding(options: argparse.Namespace) -> None:
    """Texts a second: ours, and the library that it stands on at each of its settings."""
    chosen = ["fulcrum", *(ENCODERS if peers_are_there(options.peers, "peers.txt") else ())]
    texts = some_texts(options.texts, options.count)
    work = Work(what=f"texts of {options.texts or 'the demo'}, {PACKAGED}", rows=len(texts), questions=0)
    rows = remembered(options.json, work)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "texts.json")
        file.write_text(json.dumps(texts), encoding="utf-8")
        job = {"texts": str(file), "model": str(locate(PACKAGED))}
        for _ in range(options.repeats):
            for contestant in chosen:
                vectors = Path(name, f"{contestant}.npy")
                measured = one_step("embed", contestant, job | {"vectors": str(vectors)}, options)
                if "failed" not in measured:
                    measured["agreement"] = agreement(np.load(Path(name, "fulcrum.npy")), np.load(vectors))
                rows.append({"contestant": contestant, "step": "embed"} | measured)
                remember(options.json, work, rows)
    Console(width=150).print(encoders_table(work, rows))
    print(embedding_reading(rows))


def questions(options: argparse.Namespace) -> None:
    """How long a question takes in the program that serves it, and how much of that is its embedding."""
    size = SIZES[options.size]
    asked_texts = some_questions(options.texts, options.count)
    with tempfile.TemporaryDirectory() as name:
        matrix = made_vectors(Path(name, "every.npy"), size)
        built = Vectors.build(matrix, options.kind)
        built.save(Path(name, "index.faiss"))
        vectors = Vectors.load(Path(name, "index.faiss"), built.kind, built.probes)
        took = ask_all(vectors, asked_texts)
    Console(width=150).print(questions_table(f"{size:,} x {vectors.dimension}, {vectors.kind}", took))
    print(questions_reading(took))


def _parser() -> Parser:
    example = "example: python -m scripts.bench_retrieval stores --sizes 10k --repeats 1"
    parser = Parser(description=__doc__, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="stores | embedding | questions")
    common = Parser(add_help=False)
    common.add_argument(
        "--peers",
        type=Path,
        default=Path(".venv-peers/bin/python"),
        metavar="PYTHON",
        help="who has the peers (default: %(default)s)",
    )
    common.add_argument(
        "--repeats", type=int, default=3, help="of everything, interleaved (default: 3); 0 shows what FILE has"
    )
    common.add_argument("--minutes", type=float, default=5, help="that one step may take (default: 5)")
    common.add_argument("--memory", type=float, default=16, metavar="GIB", help="that one step may take (default: 16)")
    common.add_argument(
        "--json", type=Path, metavar="FILE", help="keep every figure here, beside those of earlier runs"
    )
    shelf = commands.add_parser("stores", parents=[common], help="build, open, search and add", epilog=example)
    shelf.add_argument("--sizes", nargs="+", choices=SIZES, default=["10k", "100k", "1m"])
    shelf.add_argument(
        "--only", nargs="+", choices=[*OURS, *PEERS], metavar="STORE", help=f"of {', '.join([*OURS, *PEERS])}"
    )
    shelf.add_argument("--questions", type=int, default=300, help="how many are asked (default: 300)")
    shelf.add_argument(
        "--vectors", type=Path, metavar="FILE.npy", help="unit vectors of your own, 1,000 more than the size"
    )
    shelf.set_defaults(run=stores)
    texts = commands.add_parser(
        "embedding",
        parents=[common],
        help="texts a second",
        epilog="example: python -m scripts.bench_retrieval embedding --count 500",
    )
    texts.add_argument("--texts", type=Path, metavar="CORPUS.jsonl", help="title and text a line (default: the demo's)")
    texts.add_argument("--count", type=int, default=1000, help="how many at most (default: 1000)")
    texts.set_defaults(run=embedding)
    ask = commands.add_parser(
        "questions", help="from text to rows", epilog="example: python -m scripts.bench_retrieval questions --size 100k"
    )
    ask.add_argument("--size", choices=SIZES, default="100k", help="rows of the index (default: 100k)")
    ask.add_argument("--kind", choices=KINDS, help="of the index (default: by its size)")
    ask.add_argument("--texts", type=Path, metavar="QUERIES.jsonl", help="text a line (default: the demo's questions)")
    ask.add_argument("--count", type=int, default=300, help="how many at most (default: 300)")
    ask.set_defaults(run=questions)
    return parser


if __name__ == "__main__":
    main()
