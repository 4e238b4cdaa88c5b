"""Make an index, ask it, measure it.

python -m retrieval build docs out/index/docs
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, TypeAlias

from retrieval.build import build
from retrieval.console import Parser
from retrieval.documents import KINDS, read_documents
from retrieval.files import FileError
from retrieval.generation import in_use
from retrieval.index import open_index
from retrieval.manifest import BuildSettings
from retrieval.measure import METRICS, measure, read_topics
from retrieval.passage import Hit, Query, RetrievalError
from retrieval.retriever import RerankSettings, RetrieverSettings, open_retriever

DEFAULTS: Final = BuildSettings()

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    try:
        arguments.command(arguments)
    except (FileError, RetrievalError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. No index was changed.", file=sys.stderr)
        return 1
    return 0


def _build(arguments: argparse.Namespace) -> None:
    settings = BuildSettings(embedder=arguments.embedder, size=arguments.size, overlap=arguments.overlap)
    before = in_use(arguments.index)
    documents = read_documents(arguments.documents)
    made = build(documents, arguments.index, settings)
    news = "up to date, nothing to do" if made == before else "built"
    skipped = f", {len(documents.skipped)} files skipped (see above)" if documents.skipped else ""
    print(
        f"{arguments.index}: {news}: {made.documents} documents, {made.passages} passages{skipped}. "
        f'Next: python -m retrieval search {arguments.index} "your question"'
    )


def _search(arguments: argparse.Namespace) -> None:
    retriever = open_retriever(RetrieverSettings(kind="hybrid", index=arguments.index, k=arguments.k))
    hits = asyncio.run(retriever.search(Query(arguments.query)))
    as_json = json.dumps([asdict(hit) for hit in hits], ensure_ascii=False)
    print(as_json if arguments.json else "\n".join(map(_shown, hits)))


def _shown(hit: Hit) -> str:
    text = " ".join(hit.passage.text.split())
    beginning = text if len(text) <= 200 else text[:200].rpartition(" ")[0] + " ..."
    return f"{hit.rank}. {hit.passage.title or '(no title)'}  [{hit.passage.id}, {hit.score:.4f}]\n   {beginning}"


def _measure(arguments: argparse.Namespace) -> None:
    topics = read_topics(arguments.beir, arguments.split)
    rerank = RerankSettings(model=arguments.rerank) if arguments.rerank else None
    if arguments.depth is not None:
        if rerank is None:
            raise RetrievalError("--depth is how many passages --rerank FOLDER reads; give both")
        rerank = replace(rerank, depth=arguments.depth)
    means = measure(open_index(arguments.index), topics, rerank)
    if arguments.json:
        print(json.dumps({"queries": len(topics), "means": means}))
        return
    print(f"{len(topics)} queries".ljust(14) + "".join(name.rjust(12) for name in METRICS))
    for kind, row in means.items():
        print(kind.ljust(14) + "".join(f"{value:12.4f}" for value in row.values()))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m retrieval",
        description="Make an index of documents, ask it, measure it.",
        epilog="example: python -m retrieval build docs out/index/docs",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands)
    _add_search(commands)
    _add_measure(commands)
    return parser


def _add_build(commands: Commands) -> None:
    parser = commands.add_parser(
        "build",
        help="make an index, or a new generation of it",
        description="Make an index of documents, or a new generation of it. With nothing changed, do nothing.",
        epilog="example: python -m retrieval build docs out/index/docs",
    )
    parser.set_defaults(command=_build)
    parser.add_argument(
        "documents", metavar="DOCS", type=Path, help=f"a corpus.jsonl, a file, or a folder of files ({KINDS})"
    )
    parser.add_argument("index", metavar="INDEX", type=Path, help="the index's folder, e.g. out/index/docs")
    parser.add_argument(
        "--embedder",
        metavar="FOLDER",
        default=DEFAULTS.embedder,
        help="a sentence-transformers model (default: the packaged %(default)s)",
    )
    parser.add_argument(
        "--size", type=int, default=DEFAULTS.size, help="most characters of a passage (default: %(default)s)"
    )
    parser.add_argument(
        "--overlap", type=int, default=DEFAULTS.overlap, help="characters it may repeat (default: %(default)s)"
    )


def _add_search(commands: Commands) -> None:
    parser = commands.add_parser(
        "search",
        help="show what a question finds",
        description="Show the passages that hybrid search finds for a question.",
        epilog='example: python -m retrieval search out/index/docs "Who founded it?" -k 3',
    )
    parser.set_defaults(command=_search)
    parser.add_argument("index", metavar="INDEX", type=Path, help="the index's folder")
    parser.add_argument("query", metavar="QUERY", help="the question")
    parser.add_argument("-k", type=int, default=5, help="how many passages (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="the hits as one JSON array")


def _add_measure(commands: Commands) -> None:
    parser = commands.add_parser(
        "measure",
        help="compare lexical, dense and hybrid search",
        description="nDCG@10, recall and MRR of each kind of search, by what people marked as relevant.",
        epilog="example: python -m retrieval measure out/index/scifact beir/scifact",
    )
    parser.set_defaults(command=_measure)
    parser.add_argument("index", metavar="INDEX", type=Path, help="an index of the folder's corpus.jsonl")
    parser.add_argument("beir", metavar="BEIR_DIR", type=Path, help="a folder with queries.jsonl and qrels/*.tsv")
    parser.add_argument("--split", metavar="NAME", default="", help="which qrels/NAME.tsv, where there are several")
    parser.add_argument("--rerank", metavar="FOLDER", type=Path, help="hybrid search re-ranked by this model, too")
    parser.add_argument("--depth", type=int, help="how many passages that reads (default: 20)")
    parser.add_argument("--json", action="store_true", help="the means as one JSON object")


if __name__ == "__main__":
    sys.exit(main())
