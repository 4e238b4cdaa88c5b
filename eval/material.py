"""What a run's models have seen besides the question: training chats, worked examples, corpora, instructions.

Reads what the run's config.yaml names, and says of each whether it can be vouched for. Starts nothing, verifies no
index; knows nothing of test sets or of what a leak is.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from eval.folder import RunConfig
from eval.gold import searched
from retrieval.files import FileError, file_hash
from retrieval.generation import steadily
from retrieval.passage import Document, RetrievalError
from retrieval.store import Passages
from retrieval.worked import is_worked
from serve.combination import BASE, GOLD, NONE
from train.overlap import Text, read_texts, text_of

Kind = Literal["training data", "worked examples", "corpus", "instructions"]

CARD: Final = "provenance.json"
BROKEN: Final = (FileError, RetrievalError, OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading other rooms' files may raise: a report is made all the same, and says what could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """One thing that some combinations have seen."""

    kind: Kind
    used_by: tuple[str, ...]
    """Names of adapters, strategies or retrievers, as the kind has it."""
    place: str
    texts: tuple[Text, ...] = ()
    remark: str = ""
    """Why it was not read, or may not be what the models saw; empty when all is well."""

    @property
    def unread(self) -> bool:
        """Whether nobody knows what is in it."""
        return bool(self.remark) and not self.texts

    @property
    def name(self) -> str:
        """What it is called in sentences."""
        return f"{self.kind} of {', '.join(self.used_by)}"


def materials(config: RunConfig, folder: Path) -> tuple[Material, ...]:
    """Everything that the cells of this run's grid can have seen; its paths are relative to the run's folder."""
    stack, grid = config.stack, config.grid

    def at(path: str) -> Path:
        return (folder / path).resolve()

    adapters: Mapping[str, str] = stack.get("adapters", {})
    strategies = {name: stack["strategies"][name] for name in grid.strategies if name in stack.get("strategies", {})}
    retrievers: Mapping[str, Any] = stack.get("retrievers", {})
    names = dict.fromkeys(searched(name) for name in grid.retrievers)
    indexes = {name: str(retrievers[name].get("index") or "") for name in names if name not in (NONE, GOLD)}
    chosen = {name: str(retrievers[one["examples_from"]]["index"]) for name, one in _with(strategies, "examples_from")}
    written = {name: str(one["demonstrations"]) for name, one in _with(strategies, "demonstrations")}
    instructed = {name: str(one["instructions"]) for name, one in _with(strategies, "instructions")}
    return (
        *(_training(name, at(adapters.get(name, name))) for name in grid.adapters if name != BASE),
        *(_demonstrations(names, at(path)) for path, names in _users(written)),
        *(one for path, names in _users(chosen) for one in _index(names, at(path), "worked examples")),
        *(one for path, names in _users(indexes) for one in _index(names, at(path), "corpus")),
        *(_instructions(names, text) for text, names in _users(instructed)),
    )


def _with(strategies: Mapping[str, Mapping[str, Any]], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, one) for name, one in strategies.items() if one.get(key)]


def _users(named: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    """Each thing once, with the names of all who use it."""
    things = dict.fromkeys(thing for thing in named.values() if thing)
    return [(thing, tuple(name for name, one in named.items() if one == thing)) for thing in things]


def _training(adapter: str, folder: Path) -> Material:
    """What the adapter's card says that it learnt from, less the rows that were left out of it."""
    found = partial(Material, kind="training data", used_by=(adapter,))
    if not (folder / CARD).is_file():
        return found(place=str(folder), remark=f"without a {CARD}, nobody can say what it learnt from")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        data, identity = folder / card["data"]["path"], card["identity"]
        changed = file_hash(data) != identity["data"]
        left_out = set() if changed else {f"{data}:{line}" for line in identity.get("left_out", ())}
        texts = tuple(text for text in read_texts(data) if text.where not in left_out)
    except FileNotFoundError:
        return found(place=str(data), remark="the file is gone")
    except BROKEN as error:
        return found(place=str(folder / CARD), remark=_first_line(error))
    remarks = ["the file has changed since the training"] if changed else []
    remarks += ["it continues an adapter whose own data its card does not name"] if identity.get("start") else []
    return found(place=str(data), texts=texts, remark="; ".join(remarks))


def _demonstrations(strategies: tuple[str, ...], path: Path) -> Material:
    found = partial(Material, kind="worked examples", used_by=strategies, place=str(path))
    try:
        return found(texts=read_texts(path))
    except BROKEN as error:
        return found(remark=_first_line(error))


def _index(names: tuple[str, ...], path: Path, wanted: Kind) -> Iterator[Material]:
    """An index as what it is used for; documents with an answer are shown as worked examples wherever found."""
    try:
        documents = steadily(path, lambda generation: list(Passages(generation).each_document()))
    except BROKEN as error:
        yield Material(kind=wanted, used_by=names, place=str(path), remark=_first_line(error))
        return
    shown = tuple(_shown(one, path) for one in documents if is_worked(one.meta))
    read = tuple(_page(one, path) for one in documents if not is_worked(one.meta))
    if shown:
        yield Material(kind="worked examples", used_by=names, place=str(path), texts=shown)
    if wanted == "corpus" and (read or not shown):
        yield Material(kind="corpus", used_by=names, place=str(path), texts=read)


def _shown(document: Document, index: Path) -> Text:
    where, answers = f"{index}: {document.id}", [document.meta["answer"]]
    text = text_of(where, {"question": document.text, "answers": answers, "meta": document.meta})
    return text or Text(where=where, question=document.text)


def _page(document: Document, index: Path) -> Text:
    return Text(where=f"{index}: {document.id}", question=f"{document.title}\n{document.text}".strip())


def _instructions(strategies: tuple[str, ...], text: str) -> Material:
    texts = (Text(where=f"instructions of {strategies[0]}", question=text),)
    return Material(kind="instructions", used_by=strategies, place="the stack", texts=texts)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
