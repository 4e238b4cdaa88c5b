"""An index in shards is a single index in all but its files, whoever cut and embedded its documents."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import retrieval.build
import retrieval.reuse
import retrieval.vectors
from retrieval.__main__ import main
from retrieval.batch import Vectors as Matrix
from retrieval.build import UNFINISHED, build
from retrieval.cluster import shared
from retrieval.embed import open_same
from retrieval.files import model_hash
from retrieval.generation import current
from retrieval.index import Index, open_index
from retrieval.manifest import BuildSettings
from retrieval.passage import Document, Hit, Query, RetrievalError
from retrieval.retriever import open_retriever
from retrieval.settings import RetrieverSettings
from retrieval.vectors import Kind, Vectors, ranges_of
from tests.tiny_search import SAID, make_embedder

DOCUMENTS = tuple(
    Document(
        id=f"n{number}",
        title="",
        # Some are the same to the letter: which of them is found is a matter of order alone.
        text=" ".join(SAID[(number % 40 * 7 + place * 5) % 24] for place in range(14)),
        meta={"even": number % 2 == 0},
    )
    for number in range(60)
)
WAYS: tuple[dict[str, Any], ...] = (
    {"kind": "lexical"},
    {"kind": "dense"},
    {"kind": "hybrid"},
    {"kind": "hybrid", "weight": 0.4},
    {"kind": "dense", "where": {"even": True}},
    {"kind": "hybrid", "where": {"even": False}},
    {"kind": "random"},
)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_embedder(tmp_path_factory.mktemp("embedder") / "tiny")


@pytest.fixture(scope="module")
def wanted(embedder: Path) -> BuildSettings:
    return BuildSettings(embedder=str(embedder), size=20, overlap=5)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, wanted: BuildSettings) -> Path:
    folder = tmp_path_factory.mktemp("single") / "index"
    build(DOCUMENTS, folder, wanted)
    return folder


def unit(matrix: Matrix) -> Matrix:
    return np.asarray(matrix / np.linalg.norm(matrix, axis=-1, keepdims=True), dtype=np.float32)


def found(index: Path, how: dict[str, Any], question: str) -> tuple[Hit, ...]:
    return asyncio.run(open_retriever(RetrieverSettings(index=index, k=10, **how)).search(Query(question)))


def vectors_of(index: Index) -> Matrix:
    return index.vectors.take(np.arange(len(index.vectors)))


@pytest.mark.parametrize("few", [-1, 20_000], ids=["a mask for FAISS", "a mask of few rows"])
@pytest.mark.parametrize("kind", ["flat", "fp16"])
@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 90), st.integers(1, 9), st.integers(1, 100), st.integers(1, 30)),
    density=st.none() | st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_shards_find_what_a_single_index_finds_also_among_equals(
    kind: Kind, few: int, sizes: tuple[int, int, int, int], density: float | None, seed: int
) -> None:
    rows, shards, k, alike = sizes
    random = np.random.default_rng(seed)
    matrix = unit(random.normal(size=(-(-rows // alike), 8)))[random.integers(0, -(-rows // alike), rows)]
    mask = None if density is None else random.random(rows) < density
    one, many = Vectors.build(matrix, kind), Vectors.build(matrix, kind, shards=min(shards, rows))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval.vectors, "FEW", few)
        pairs = [(one.search(q, k, mask), many.search(q, k, mask)) for q in (matrix[0], unit(random.normal(size=8)))]

    assert all(theirs == ours for ours, theirs in pairs)
    assert all(ours == sorted(ours, key=lambda pair: (-pair[1], pair[0])) for ours, _ in pairs)
    some = random.integers(0, rows, 20)
    assert np.array_equal(one.take(some), many.take(some))


def test_shards_in_groups_are_fp16_when_all_groups_are_read(tmp_path: Path) -> None:
    matrix = unit(np.random.default_rng(6).normal(size=(3000, 16)))
    Vectors.build(matrix, "ivf", shards=3).save(tmp_path / "ivf.faiss")
    grouped = Vectors.load(tmp_path / "ivf.faiss", "ivf", probes=len(matrix), shards=3)
    plain = Vectors.build(matrix, "fp16")

    for question in unit(np.random.default_rng(7).normal(size=(20, 16))):
        ours, theirs = grouped.search(question, 25), plain.search(question, 25)
        assert [row for row, _ in ours] == [row for row, _ in theirs]


def test_shards_in_groups_find_what_they_promise() -> None:
    random = np.random.default_rng(8)
    matrix = unit(random.normal(size=(40, 32))[random.integers(0, 40, 6000)] + 0.4 * random.normal(size=(6000, 32)))
    grouped, plain = Vectors.build(matrix, "ivf", shards=4), Vectors.build(matrix, "flat")
    questions = retrieval.vectors.turned(matrix, 100, seed=9)

    shared = [
        len({row for row, _ in grouped.search(one, 10)} & {row for row, _ in plain.search(one, 10)})
        for one in questions
    ]

    assert sum(shared) >= 0.97 * 10 * len(questions)


@given(st.integers(1, 500), st.integers(1, 20))
def test_ranges_cover_all_rows_once_and_evenly(rows: int, shards: int) -> None:
    ranges = ranges_of(rows, shards)

    assert [row for first, after in ranges for row in range(first, after)] == list(range(rows))
    assert max(after - first for first, after in ranges) - min(after - first for first, after in ranges) <= 1


@pytest.mark.parametrize("vectors", ["flat", "fp16"])
def test_every_way_to_search_finds_the_same_in_shards(tmp_path: Path, wanted: BuildSettings, vectors: Kind) -> None:
    build(DOCUMENTS, tmp_path / "one", replace(wanted, vectors=vectors))
    build(DOCUMENTS, tmp_path / "four", replace(wanted, vectors=vectors, shards=4))

    for how in WAYS:
        for question in ("d1 d8", "d3 d3 d20", "d22"):
            assert found(tmp_path / "four", how, question) == found(tmp_path / "one", how, question)
    assert np.array_equal(vectors_of(open_index(tmp_path / "four")), vectors_of(open_index(tmp_path / "one")))
    assert sorted(file.name for file in current(tmp_path / "four").glob("*.faiss")) == [
        f"index-000{number}.faiss" for number in range(1, 5)
    ]


def test_an_index_changes_its_shards_and_its_documents_without_embedding_what_it_has(
    tmp_path: Path, wanted: BuildSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(DOCUMENTS[:50], tmp_path / "index", replace(wanted, shards=3))
    asked: list[str] = []
    really = retrieval.build._embed
    monkeypatch.setattr(
        retrieval.build, "_embed", lambda name, sha256, texts: asked.extend(texts) or really(name, sha256, texts)
    )

    build(DOCUMENTS[:50], tmp_path / "index", replace(wanted, shards=2))
    nothing_new = list(asked)
    build(
        (*DOCUMENTS[5:50], Document(id="new", title="", text="d1 d23")), tmp_path / "index", replace(wanted, shards=4)
    )
    made = open_index(tmp_path / "index")

    assert (nothing_new, asked) == ([], ["d1 d23"])
    build(
        (*DOCUMENTS[5:50], Document(id="new", title="", text="d1 d23")), tmp_path / "fresh", replace(wanted, shards=4)
    )
    assert made.manifest.files == open_index(tmp_path / "fresh").manifest.files, "to the bit"


def test_a_build_that_dies_among_shards_goes_on_where_it_was(
    tmp_path: Path, wanted: BuildSettings, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval.reuse, "BLOCK", 5)
    calls: list[int] = []
    really = retrieval.build._embed

    def dying(name: str, sha256: str, texts: list[str]) -> Matrix:
        calls.append(len(texts))
        if len(calls) == 3:
            raise RetrievalError("the machine is gone")
        return really(name, sha256, texts)

    monkeypatch.setattr(retrieval.build, "_embed", dying)
    with pytest.raises(RetrievalError, match="gone"):
        build(DOCUMENTS, tmp_path / "index", replace(wanted, shards=4))
    left = len(list((tmp_path / "index" / UNFINISHED).glob("*/*.npz")))
    build(DOCUMENTS, tmp_path / "index", replace(wanted, shards=4))

    assert left == 2
    assert sum(calls) == len({passage.searchable for passage in open_index(single).passages}) + 5, "only what was lost"
    assert np.array_equal(vectors_of(open_index(tmp_path / "index")), vectors_of(open_index(single)))


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"other")])
def test_an_index_of_which_a_shard_is_not_whole_is_refused(tmp_path: Path, wanted: BuildSettings, damage: Any) -> None:
    build(DOCUMENTS, tmp_path / "index", replace(wanted, shards=3))
    damage(current(tmp_path / "index") / "index-0002.faiss")

    with pytest.raises(RetrievalError, match=r"index-0002\.faiss: (missing|damaged)"):
        open_index(tmp_path / "index")


def test_more_shards_than_passages_and_none_are_refused(tmp_path: Path, wanted: BuildSettings) -> None:
    with pytest.raises(RetrievalError, match="0 shards hold nothing"):
        replace(wanted, shards=0)
    with pytest.raises(RetrievalError, match=r"9 shards of \d passages: each needs one, so ask for fewer"):
        build(DOCUMENTS[:1], tmp_path / "index", replace(wanted, shards=9))


def test_another_embedder_under_the_same_name_is_refused(embedder: Path) -> None:
    assert open_same(str(embedder), model_hash(embedder)) is open_same(str(embedder), model_hash(embedder))
    with pytest.raises(RetrievalError, match="not the embedder that the build was started with"):
        open_same(str(embedder), "0" * 64)


def test_without_ray_the_command_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "a.txt").write_text("d1")

    code = main(["build", str(tmp_path / "a.txt"), str(tmp_path / "index"), "--ray", "local"])

    assert code == 1
    assert capsys.readouterr().err == "--ray needs Ray, which is not installed: make ray; or leave it out\n"


def test_nothing_imports_ray_before_it_is_asked_for() -> None:
    program = "import sys, retrieval.__main__, retrieval.build; sys.exit('ray' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_cluster_that_wants_a_token_which_is_not_here_is_told_in_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: make ray")
    (tmp_path / "a.txt").write_text("d1")
    build_it = ["-m", "retrieval", "build", str(tmp_path / "a.txt"), str(tmp_path / "index"), "--ray", "127.0.0.1:1"]
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_TOKEN")}

    done = subprocess.run(
        [sys.executable, *build_it],
        env={**without, "RAY_AUTH_MODE": "token", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("--ray 127.0.0.1:1: no cluster lets us in there (Token authentication is enabled but")
    assert done.stderr.endswith("copy its head's ~/.ray/auth_token to the same place\n")


def test_a_cluster_without_cpus_is_refused_before_it_is_waited_for() -> None:
    ray = pytest.importorskip("ray", reason="Ray is an extra: make ray")

    with shared("local") as each:
        ray.init(address="local", num_cpus=0, include_dashboard=False)
        with pytest.raises(RetrievalError, match=r"^--ray local: no machine of the cluster offers a CPU"):
            next(each(str, [1]))


def deadly(given: tuple[str, int]) -> int:
    """Kills its process with the fifth number, the first time."""
    folder, number = given
    died = Path(folder) / "died"
    if number == 5 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 12:
        raise RetrievalError("twelve is too many")
    return number


def test_ray_builds_what_one_process_builds_though_a_worker_dies_and_says_what_went_wrong(
    tmp_path: Path, wanted: BuildSettings, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: make ray")
    monkeypatch.setattr(retrieval.reuse, "BLOCK", 20)
    monkeypatch.setattr(retrieval.build, "CUT_AT_ONCE", 25)

    with shared("local") as each:
        build(DOCUMENTS, tmp_path / "index", replace(wanted, shards=4), None, each)
        numbers = each(deadly, [(str(tmp_path), number) for number in range(13)])
        assert [next(numbers) for _ in range(12)] == list(range(12)), "in order, none lost and none twice"
        with pytest.raises(RetrievalError, match=r"^twelve is too many$"):
            next(numbers)

    assert (tmp_path / "died").exists()
    ours, theirs = open_index(tmp_path / "index"), open_index(single)
    assert tuple(ours.passages) == tuple(theirs.passages)
    assert np.array_equal(vectors_of(ours), vectors_of(theirs))
    assert {name: sha256 for name, sha256 in ours.manifest.files.items() if ".faiss" not in name} == {
        name: sha256 for name, sha256 in theirs.manifest.files.items() if ".faiss" not in name
    }
