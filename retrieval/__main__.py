"""Make an index, ask it, measure it.

python -m retrieval build docs out/index/docs
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final, TypeAlias, get_args

from retrieval.build import build
from retrieval.cluster import HERE, shared
from retrieval.comparison import check_key, plain, table_of, tables_by, text_of
from retrieval.console import Parser, tell_progress
from retrieval.databases import STYLE, STYLES
from retrieval.documents import KINDS, read_documents
from retrieval.files import FileError, write_jsonl
from retrieval.generation import in_use
from retrieval.grid import variants, write_retrievers
from retrieval.index import open_index
from retrieval.manifest import BuildSettings
from retrieval.measure import handing_over, kinds_of, measure, read_named, rows
from retrieval.model import model_at
from retrieval.passage import Hit, Query, RetrievalError
from retrieval.retriever import NO_HANDS, Hands, open_retriever
from retrieval.settings import RetrieverSettings
from retrieval.tokens import counter
from retrieval.topics import read_topics
from retrieval.tune import lines_of, tune
from retrieval.tune import plain as as_plain
from retrieval.vectors import Kind as VectorKind
from retrieval.views import View

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
        print("\nStopped. No index is left half made: each is the old one, or the new one.", file=sys.stderr)
        return 1
    return 0


def _build(arguments: argparse.Namespace) -> None:
    tell_progress("retrieval")
    base = BuildSettings(
        embedder=arguments.embedder,
        vectors=arguments.vectors,
        shards=arguments.shards,
        language=arguments.language,
    )
    hands = _lent(arguments)
    wanted = variants(arguments.index, base, arguments.size, arguments.overlap, arguments.view, arguments.model)
    reading = read_documents(arguments.documents, tables=arguments.tables)
    documents = tuple(reading)
    with shared(arguments.ray) if arguments.ray else nullcontext(map) as each:
        for index, settings in wanted.items():
            before, started = in_use(index), time.perf_counter()
            made = build(documents, index, settings, hands.write, each)
            news = "up to date, nothing to do" if made == before else f"built in {time.perf_counter() - started:.0f} s"
            print(f"{index}: {news}: {made.documents:,} documents, {made.passages:,} passages.")
    if reading.skipped:
        print(f"{len(reading.skipped)} files could not be read and were skipped (see above).")
    if len(wanted) > 1:
        print(f"Next: python -m retrieval measure {write_retrievers(arguments.index, wanted)} BEIR_DIR")
    else:
        print(f'Next: python -m retrieval search {arguments.index} "your question"')


def _lent(arguments: argparse.Namespace) -> Hands:
    """The model and the tokenizer that the command names; what is not named is missed when it is needed."""
    if bool(arguments.model_url) != bool(arguments.model):
        raise RetrievalError("--model-url says where a model is served and --model which one it is; give both")
    hands = Hands(write=model_at(arguments.model_url, arguments.model)) if arguments.model else NO_HANDS
    counts = getattr(arguments, "tokenizer", None)
    return replace(hands, count=counter(counts)) if counts else hands


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
    retrievers = _measured(arguments)
    against = arguments.against or next(iter(retrievers))
    if against not in retrievers:
        raise RetrievalError(f"--against {against}: it is not measured; there are: {', '.join(retrievers)}")
    if arguments.per_query and arguments.per_query.is_dir():
        raise RetrievalError(
            f"--per-query {arguments.per_query}: a folder is here; name a file, such as out/rows.jsonl"
        )
    check_key(arguments.by, topics)
    found = measure(retrievers, topics, _lent(arguments))
    ks = {name: settings.k for name, settings in retrievers.items()}
    table = table_of(found, ks, against)
    slices = tables_by(arguments.by, found, ks, against) if arguments.by else []
    if arguments.per_query:
        write_jsonl(arguments.per_query, rows(found))
    if arguments.json:
        print(json.dumps(plain(table) | {"by": {one.title: plain(one) for one in slices}}))
        return
    print("\n".join(line for one in (table, *slices) for line in text_of(one)))
    print(_next(arguments, ks))


def _measured(arguments: argparse.Namespace) -> dict[str, RetrieverSettings]:
    """What is measured, by name: the retrievers of a YAML file, or the kinds of search over an index."""
    if arguments.source.is_file():
        if arguments.rerank or arguments.depth is not None:
            raise RetrievalError(
                f"--rerank and --depth are for an index; {arguments.source} says it for each retriever"
            )
        found = read_named(arguments.source, arguments.only)
    else:
        if arguments.only:
            raise RetrievalError("--only names retrievers of a YAML file, and an index has none; leave it out")
        if arguments.depth is not None and not arguments.rerank:
            raise RetrievalError("--depth is how many passages --rerank FOLDER reads; give both")
        found = kinds_of(arguments.source, arguments.rerank, 20 if arguments.depth is None else arguments.depth)
    return {name: handing_over(one, arguments.k) for name, one in found.items()} if arguments.k is not None else found


def _next(arguments: argparse.Namespace, ks: Mapping[str, int]) -> str:
    if len(set(ks.values())) > 1:
        return "Below its own k a retriever finds nothing, so different k compare badly; -k N gives all the same."
    where = arguments.source if arguments.source.is_dir() else "INDEX"
    return f"Next: python -m retrieval tune {where} {arguments.beir}, on a split that is not this one"


def _tune(arguments: argparse.Namespace) -> None:
    tuned = tune(open_index(arguments.index), read_topics(arguments.beir, arguments.split), arguments.folds)
    print(json.dumps(as_plain(tuned)) if arguments.json else "\n".join(lines_of(tuned)))


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
    _add_tune(commands)
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
        "documents",
        metavar="DOCS",
        type=Path,
        help=f"a corpus.jsonl, a file or a folder of files ({KINDS}), or worked examples: a test set, chats",
    )
    parser.add_argument("index", metavar="INDEX", type=Path, help="the index's folder, e.g. out/index/docs")
    parser.add_argument(
        "--tables",
        choices=STYLES,
        default=STYLE,
        help="how tables of SQLite files are written: a CREATE TABLE with three rows, a line for each column, or names "
        "alone (default: %(default)s)",
    )
    parser.add_argument(
        "--embedder",
        metavar="FOLDER",
        default=DEFAULTS.embedder,
        help="a sentence-transformers model (default: the packaged %(default)s)",
    )
    several = "; several make several indexes to compare"
    parser.add_argument(
        "--size",
        metavar="N",
        type=int,
        nargs="+",
        default=[DEFAULTS.size],
        help=f"most characters of a passage{several} (default: {DEFAULTS.size})",
    )
    parser.add_argument(
        "--overlap",
        metavar="N",
        type=int,
        nargs="+",
        default=[DEFAULTS.overlap],
        help=f"characters it may repeat of the one before{several} (default: {DEFAULTS.overlap})",
    )
    parser.add_argument(
        "--view",
        metavar="NAME",
        nargs="+",
        choices=get_args(View),
        default=[DEFAULTS.view],
        help=f"what of a passage is searched: {', '.join(get_args(View))}, of which --model writes the last three"
        f"{several} (default: {DEFAULTS.view})",
    )
    _add_model(parser, "them")
    parser.add_argument(
        "--vectors",
        choices=get_args(VectorKind),
        help="how vectors are kept (default: flat up to 100,000 passages, fp16 up to 500,000, ivf above)",
    )
    parser.add_argument(
        "--shards",
        metavar="N",
        type=int,
        default=DEFAULTS.shards,
        help="in how many files vectors are kept; a search merges what it finds in each (default: %(default)s)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        default="",
        help=f"let a Ray cluster cut and embed: its host:port, or {HERE} for one of this machine (needs `make ray`)",
    )
    parser.add_argument(
        "--language",
        metavar="NAME",
        default=DEFAULTS.language,
        help="whose stems lexical search knows; none: words as they are written (default: %(default)s)",
    )


def _add_model(parser: Parser, written: str) -> None:
    parser.add_argument(
        "--model-url", metavar="URL", default="", help=f"an OpenAI-compatible server that writes {written}"
    )
    parser.add_argument("--model", metavar="NAME", default="", help="the model there")


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
        help="compare ways to search",
        description="How well each way to search finds what people marked as relevant, and how long it takes. "
        "Ways are the retrievers of a stack.yaml, or the kinds of search over an index.",
        epilog="example: python -m retrieval measure out/index/scifact beir/scifact",
    )
    parser.set_defaults(command=_measure)
    parser.add_argument(
        "source", metavar="INDEX|FILE.yaml", type=Path, help="an index, or a YAML file with `retrievers:`"
    )
    _add_beir(parser)
    parser.add_argument("-k", type=int, metavar="N", help="passages that each hands over, instead of its own k")
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="this one of the file; repeatable")
    parser.add_argument("--against", metavar="NAME", help="what all are compared with (default: the first)")
    parser.add_argument("--by", metavar="KEY", help="a table for each value of this key of queries.jsonl, too")
    parser.add_argument("--per-query", metavar="FILE", type=Path, help="write a JSONL row for each question and way")
    parser.add_argument("--rerank", metavar="FOLDER", type=Path, help="hybrid search re-ranked by this model, too")
    parser.add_argument("--depth", type=int, help="how many passages that reads (default: 20)")
    _add_model(parser, "what a retriever expands questions with")
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", type=Path, help="the model's folder, whose tokens a retriever's budget counts"
    )
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")


def _add_tune(commands: Commands) -> None:
    parser = commands.add_parser(
        "tune",
        help="choose the weight of hybrid search",
        description="Choose the dense share of hybrid search's score on judged questions, and say what it is worth "
        "on questions it was not chosen on.",
        epilog="example: python -m retrieval tune out/index/demo out/demo/world --split dev",
    )
    parser.set_defaults(command=_tune)
    parser.add_argument("index", metavar="INDEX", type=Path, help="an index of the folder's corpus.jsonl")
    _add_beir(parser)
    parser.add_argument(
        "--folds", type=int, default=5, help="parts, each measured by the others (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")


def _add_beir(parser: Parser) -> None:
    parser.add_argument("beir", metavar="BEIR_DIR", type=Path, help="a folder with queries.jsonl and qrels/*.tsv")
    parser.add_argument("--split", metavar="NAME", default="", help="which qrels/NAME.tsv, where there are several")


if __name__ == "__main__":
    sys.exit(main())
