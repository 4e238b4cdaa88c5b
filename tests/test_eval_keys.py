"""The key of a cell changes with everything that its retriever depends on, and with nothing else."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from eval.grid import Grid, load_grid
from eval.keys import keys_of
from retrieval.build import build
from retrieval.expand import ExpandSettings
from retrieval.files import FileError
from retrieval.manifest import BuildSettings
from retrieval.passage import Document
from retrieval.route import RouteSettings
from retrieval.settings import RetrieverSettings
from retrieval.steps import Rule
from tests.eval_stub import write_rows, write_world
from tests.tiny_search import make_embedder, make_encoder

CELL = "base:found:direct"

CHANGED: Mapping[str, Any] = {
    "kind": "lexical",
    "k": 4,
    "weight": 0.25,
    "turns": 2,
    "expand": ExpandSettings(kind="hyde", n=2),
    "where": {"year": {"min": 2001}},
    "depth": 30,
    "prefer": (Rule(newest="year", weight=0.2),),
    "distinct": 0.5,
    "show": "document",
    "tokens": 99,
    "order": "best_last",
    "rerank": None,
    "route": None,
}
"""Another value for every setting but `index`; the others are those of `settled`."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index, a re-ranker and labelled questions."""
    folder = tmp_path_factory.mktemp("home")
    publish(folder, "d7 true")
    make_encoder(folder / "reader", labels=1)
    write_rows(folder / "labelled.jsonl", [{"question": f"q{n}", "meta": {"domain": "ab"[n % 2]}} for n in range(10)])
    return folder


def publish(folder: Path, text: str) -> None:
    embedder = folder / "embedder" if (folder / "embedder").exists() else make_embedder(folder / "embedder")
    build([Document(id="d", title="", text=text)], folder / "index", BuildSettings(embedder=str(embedder)))


def settled(home: Path) -> RetrieverSettings:
    """Every setting is in use."""
    return RetrieverSettings(
        kind="hybrid",
        index=home / "index",
        k=3,
        weight=0.5,
        expand=ExpandSettings(kind="hyde"),
        where={"year": {"min": 2000}},
        route=RouteSettings(questions=home / "labelled.jsonl", label="domain", about={"a": "About a."}),
        depth=20,
        prefer=(Rule(newest="year", weight=0.1),),
        rerank=home / "reader",
        distinct=0.8,
        show="neighbours",
        tokens=100,
        order="edges",
    )


def key(world: Path, settings: RetrieverSettings) -> str:
    return keys_of(grid(world, settings)).cells[CELL]


def grid(world: Path, settings: RetrieverSettings) -> Grid:
    path = write_world(world, "http://127.0.0.1:9/v1", n=2, adapters=["base"], strategies=["direct"])
    read = load_grid(path)
    stack = replace(read.stack, retrievers={"found": settings})
    return replace(read, stack=stack, settings=replace(read.settings, retrievers=("none", "found")))


def test_every_setting_is_tried_below() -> None:
    assert CHANGED.keys() | {"index"} == {one.name for one in fields(RetrieverSettings)}


@pytest.mark.parametrize("name", CHANGED)
def test_each_setting_is_in_the_key(name: str, home: Path, tmp_path: Path) -> None:
    # A weight is of hybrid search only, so without one the kind can change alone.
    before = replace(settled(home), weight=None) if name == "kind" else settled(home)

    after = replace(before, **{name: CHANGED[name]})

    assert getattr(after, name) != getattr(before, name)
    assert key(tmp_path, before) != key(tmp_path, after)


def test_what_a_setting_names_may_lie_elsewhere(home: Path, tmp_path: Path) -> None:
    copytree(home, tmp_path / "moved")

    assert key(tmp_path / "world", settled(tmp_path / "moved")) == key(tmp_path / "world", settled(home))


def test_what_a_setting_names_is_in_the_key_by_its_content(home: Path, tmp_path: Path) -> None:
    moved, world = tmp_path / "moved", tmp_path / "world"
    copytree(home, moved)
    keys = [key(world, settled(moved))]

    publish(moved, "d8 true")
    keys.append(key(world, settled(moved)))
    (moved / "reader" / "config.json").write_text((moved / "reader" / "config.json").read_text() + "\n")
    keys.append(key(world, settled(moved)))
    (moved / "labelled.jsonl").write_text((moved / "labelled.jsonl").read_text().replace("q0", "q1"))
    keys.append(key(world, settled(moved)))

    assert len(set(keys)) == 4


def test_labelled_questions_that_are_missing_are_a_sentence(home: Path, tmp_path: Path) -> None:
    settings = replace(settled(home), route=RouteSettings(questions=tmp_path / "none.jsonl", label="domain"))

    with pytest.raises(FileError, match=r"none\.jsonl: there is no such file"):
        key(tmp_path, settings)
