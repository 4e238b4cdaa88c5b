"""An index answers as brute force would, is built once, and is opened whole or not at all."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import get_args

import numpy as np
import pytest

from retrieval.__main__ import main
from retrieval.build import build
from retrieval.embed import PACKAGED, locate, open_embedder
from retrieval.files import FileError, file_hash, model_hash, read_yaml
from retrieval.generation import current
from retrieval.index import Index, open_index
from retrieval.manifest import BuildSettings, Manifest, to_json
from retrieval.measure import kinds_of, means, measure
from retrieval.metrics import RANKED
from retrieval.passage import Document, Hit, Query, RetrievalError
from retrieval.retriever import NoRetrieval, Retriever, open_retriever
from retrieval.search import KINDS
from retrieval.settings import Kind, RetrieverSettings
from retrieval.topics import Topic

ROOT = Path(__file__).parents[1]

ANIMALS = ("fox", "owl", "newt", "hare", "crane", "otter", "viper", "trout", "heron", "lynx")
PLACES = ("barn", "lake", "moor", "wood", "dune", "reef", "cliff", "marsh")
DOCUMENTS = tuple(
    Document(
        id=f"{animal}-{place}",
        title=animal.title(),
        text=f"The {animal} lives by the {place}. " * 3,
        meta={"place": place},
    )
    for animal in ANIMALS
    for place in PLACES
)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real sentence-transformers folder of the smallest kind: one random vector for each word piece."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("embedder")
    tokenizer = Tokenizer.from_file(str(locate(PACKAGED) / "tokenizer.json"))
    weights = np.random.default_rng(7).normal(size=(tokenizer.get_vocab_size(), 16)).astype(np.float32)
    modules = [StaticEmbedding(tokenizer, embedding_weights=weights), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def settings(embedder: Path) -> BuildSettings:
    return BuildSettings(embedder=str(embedder), size=60, overlap=20)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, settings: BuildSettings) -> Path:
    folder = tmp_path_factory.mktemp("index") / "animals"
    build(DOCUMENTS, folder, settings)
    return folder


@pytest.fixture
def index(path: Path) -> Index:
    return open_index(path)


def search(retriever: Retriever, text: str) -> tuple[Hit, ...]:
    return asyncio.run(retriever.search(Query(text)))


def test_every_passage_is_a_piece_of_its_document_with_its_metadata(index: Index) -> None:
    sources = {document.id: document for document in DOCUMENTS}

    assert {piece.document for piece in index.passages} == set(sources)
    for piece in index.passages:
        assert piece.text == sources[piece.document].text[piece.start : piece.end]
        assert piece.meta == sources[piece.document].meta


@pytest.mark.parametrize("k", [1, 7, 10_000])
def test_dense_search_is_brute_force_over_all_vectors(index: Index, k: int) -> None:
    vectors = index.embedder.passages([f"{piece.title}\n{piece.text}" for piece in index.passages])
    question = index.embedder.passages(["an owl on the cliff"])[0]
    scores = vectors @ question

    hits = search(KINDS["dense"](index, k), "an owl on the cliff")

    assert [hit.score for hit in hits] == pytest.approx(sorted(scores, reverse=True)[:k], abs=1e-5)
    rows = [index.passages.index(hit.passage) for hit in hits]
    assert len(set(rows)) == len(rows) == min(k, len(index.passages))
    assert [hit.score for hit in hits] == pytest.approx([scores[row] for row in rows], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_hits_are_ranked_from_1_and_there_are_k_of_them(index: Index, kind: Kind) -> None:
    hits = search(KINDS[kind](index, 4), "heron reef")

    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert sorted((hit.score for hit in hits), reverse=True) == [hit.score for hit in hits]


def test_hybrid_puts_first_what_both_put_high(index: Index) -> None:
    dense, lexical, hybrid = (search(KINDS[kind](index, 300), "heron reef") for kind in ("dense", "lexical", "hybrid"))
    ranks = [{hit.passage.id: hit.rank for hit in hits} for hits in (dense, lexical)]

    for hit in hybrid[:10]:
        assert hit.score == pytest.approx(
            sum(1 / (60 + rank[hit.passage.id]) for rank in ranks if hit.passage.id in rank)
        )


def test_the_control_arm_draws_the_same_passages_for_the_same_question(index: Index) -> None:
    drawn = {text: search(KINDS["random"](index, 5), text) for text in ("one", "two")}

    assert search(KINDS["random"](index, 5), "one") == drawn["one"]
    assert drawn["one"] != drawn["two"]
    assert len({hit.passage.id for hit in drawn["one"]}) == 5


def test_every_kind_that_can_be_written_can_be_opened() -> None:
    assert set(get_args(Kind)) == set(KINDS)


def test_no_retrieval_finds_nothing() -> None:
    assert search(NoRetrieval(), "heron reef") == ()


def test_many_questions_at_once_get_the_answers_they_get_alone(index: Index) -> None:
    hybrid = KINDS["hybrid"](index, 3)
    questions = [f"{animal} {place}" for animal in ANIMALS for place in PLACES]

    async def together() -> list[tuple[Hit, ...]]:
        return await asyncio.gather(*(hybrid.search(Query(question)) for question in questions))

    assert asyncio.run(together()) == [search(hybrid, question) for question in questions]


def test_an_index_is_opened_once_however_many_retrievers_use_it(path: Path) -> None:
    dense, random = (open_retriever(RetrieverSettings(kind=kind, index=path)) for kind in ("dense", "random"))

    assert dense.first.index is random.first.index  # type: ignore[attr-defined]


def test_measuring_counts_a_perfect_and_a_hopeless_question(path: Path) -> None:
    topics = [Topic("q1", "heron reef", {"heron-reef": 1}), Topic("q2", "zzz", {"owl-barn": 1})]

    lexical = measure(kinds_of(path), topics)["lexical"]

    assert lexical[1].hits == ()
    assert {name: means(lexical)[name] for name in RANKED} == dict.fromkeys(RANKED, 0.5)


def test_measuring_against_another_corpus_is_refused(path: Path) -> None:
    with pytest.raises(RetrievalError, match="another corpus"):
        measure(kinds_of(path), [Topic("q1", "heron", {"no-such-document": 1})])


def test_building_again_with_the_same_inputs_loads_no_model(
    path: Path, settings: BuildSettings, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = ({"_id": one.id, "title": one.title, "text": one.text, **one.meta} for one in DOCUMENTS)
    corpus.write_text("\n".join(map(json.dumps, rows)))
    command = ["build", str(corpus), str(path), "--embedder", settings.embedder, "--size", "60", "--overlap", "20"]
    heavy = "[name for name in ('torch', 'faiss', 'bm25s') if name in sys.modules]"
    program = f"import sys; from retrieval.__main__ import main; print(main({command!r}), {heavy})"

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert "nothing to do" in said
    assert said.endswith("0 []\n")
    assert current(path).name == "gen-0001"


@pytest.mark.parametrize("change", ["documents", "settings"])
def test_other_inputs_make_another_generation(tmp_path: Path, settings: BuildSettings, change: str) -> None:
    first = build(DOCUMENTS[:4], tmp_path / "index", settings)
    documents = DOCUMENTS[:5] if change == "documents" else DOCUMENTS[:4]
    size = 80 if change == "settings" else 60

    second = build(documents, tmp_path / "index", replace(settings, size=size))

    assert current(tmp_path / "index").name == "gen-0002"
    assert open_index(tmp_path / "index").manifest == second != first


def test_the_same_inputs_make_the_same_files(tmp_path: Path, settings: BuildSettings, path: Path) -> None:
    assert build(DOCUMENTS, tmp_path / "again", settings).files == open_index(path).manifest.files


def test_a_build_mends_a_damaged_index_of_the_same_inputs(tmp_path: Path, settings: BuildSettings) -> None:
    build(DOCUMENTS[:4], tmp_path / "index", settings)
    (current(tmp_path / "index") / "index.faiss").write_bytes(b"?")
    with pytest.raises(RetrievalError, match=r"index.faiss: damaged"):
        open_index(tmp_path / "index")

    build(DOCUMENTS[:4], tmp_path / "index", settings)

    assert open_index(tmp_path / "index").manifest.documents == 4


def test_an_index_and_its_embedder_can_be_moved_together_and_reached_by_a_link(embedder: Path, tmp_path: Path) -> None:
    copytree(embedder, tmp_path / "old" / "embedders" / "mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "indexes").symlink_to(tmp_path / "old" / "indexes")
    (tmp_path / "old" / "indexes").mkdir()
    settings = BuildSettings(embedder=str(tmp_path / "old" / "embedders" / "mine"))
    build(DOCUMENTS[:4], tmp_path / "elsewhere" / "indexes" / "docs", settings)

    linked = open_index(tmp_path / "elsewhere" / "indexes" / "docs")
    (tmp_path / "old").rename(tmp_path / "new")

    assert linked.manifest == open_index(tmp_path / "new" / "indexes" / "docs").manifest


def rewritten(path: Path, folder: Path, manifest: Manifest) -> Path:
    """A copy of the index whose manifest says something else."""
    copytree(path, folder)
    lie = folder / "gen-0001" / "manifest.json"
    lie.write_text(to_json(manifest))
    (folder / "CURRENT").write_text(f"gen-0001 {file_hash(lie)}")
    return folder


def test_counts_that_do_not_agree_are_refused(path: Path) -> None:
    manifest = open_index(path).manifest
    lying = rewritten(path, path.parent / "lying", replace(manifest, passages=manifest.passages + 1))

    with pytest.raises(RetrievalError, match=r"passages.npy: holds \d+ rows where manifest.json says"):
        open_index(lying)


def test_a_manifest_that_was_edited_by_hand_is_refused(path: Path) -> None:
    copy = Path(copytree(path, path.parent / "edited"))
    file = copy / "gen-0001" / "manifest.json"
    file.write_text(file.read_text().replace('"dimension": 16', '"dimension": 17'))

    with pytest.raises(RetrievalError, match=r"manifest.json: is not what was written: .*; make the index with"):
        open_index(copy)


def test_an_embedder_that_has_changed_since_is_refused(embedder: Path, tmp_path: Path) -> None:
    copy = Path(copytree(embedder, tmp_path / "mine"))
    build(DOCUMENTS[:4], tmp_path / "index", BuildSettings(embedder=str(copy)))
    (copy / "tokenizer_config.json").write_text('{"do_lower_case": false}')

    with pytest.raises(RetrievalError, match="another version of the embedder") as refusal:
        open_index(tmp_path / "index")

    assert f"build DOCS {tmp_path / 'index'} --embedder {copy}`" in str(refusal.value)


@pytest.mark.parametrize(("name", "says"), [("nowhere", "no sentence-transformers model"), ("pickled", "safetensors")])
def test_a_folder_that_is_no_safe_embedder_is_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "modules.json").write_text("[]")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")

    with pytest.raises(RetrievalError, match=says):
        build(DOCUMENTS, tmp_path / "index", BuildSettings(embedder=str(tmp_path / name)))


def test_documents_without_text_are_refused(tmp_path: Path, settings: BuildSettings) -> None:
    with pytest.raises(RetrievalError, match="no text"):
        build([Document(id="d", title="", text=" ")], tmp_path / "index", settings)

    assert not (tmp_path / "index").exists()


def test_the_packaged_embedder_puts_like_near_like() -> None:
    folder = locate(PACKAGED)
    vectors = open_embedder(folder, model_hash(folder)).passages(
        ["A man is eating food.", "A man eats bread.", "Tax law of 1974."]
    )

    assert vectors.shape == (3, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


REFUSED_AT_THE_DOOR = """
import sys
from pathlib import Path
from retrieval.__main__ import main

for name in sys.argv[1:]:
    assert main(["build", name, str(Path(name).parent / "index")]) == 1, name
assert main(["search", str(Path(name).parent / "index"), "question"]) == 1
heavy = [name for name in ("torch", "faiss", "sentence_transformers", "bm25s") if name in sys.modules]
assert not heavy, heavy
"""


def test_the_command_refuses_bad_documents_before_it_loads_anything(tmp_path: Path) -> None:
    bad = {
        "empty.jsonl": "",
        "blank.jsonl": '{"_id": "a", "text": ""}\n',
        "twice.jsonl": '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n',
        "torn.jsonl": '{"_id": "a", "text": "x"}\n{"_id": "b", "te',
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
    program = [sys.executable, "-c", REFUSED_AT_THE_DOOR, *(str(tmp_path / name) for name in bad)]

    done = subprocess.run(program, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "twice.jsonl:2: document 'a' is already on line 1" in done.stderr
    assert "torn.jsonl:2: not JSON" in done.stderr
    assert "there is no index here" in done.stderr
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("words", [[], ["bild"], ["build", "docs"], ["search", "index", "q", "-k", "few"]])
def test_a_wrong_usage_ends_with_1(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)

    assert end.value.code == 1
    assert "usage: python -m retrieval" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["build"], ["search"], ["measure"], ["tune"]])
def test_help_ends_with_a_line_to_paste(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])

    assert capsys.readouterr().out.splitlines()[-1].startswith("example: python -m retrieval ")


def test_searching_from_the_command_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(path), "heron reef", "-k", "2"]) == 0
    assert capsys.readouterr().out.startswith("1. Heron  [heron-reef@")
    assert main(["search", str(path), "heron reef", "-k", "2", "--json"]) == 0
    assert [hit["rank"] for hit in json.loads(capsys.readouterr().out)] == [1, 2]


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("kind: hybird\nindex: i\n", ":1: kind: "),
        ("kind: dense\nindex: i\nk: 0\n", "at least 1 passage"),
        ("kind: dense\nindex: i\nK: 3\n", ":3: K: unknown key"),
        ("kind: dense\n", "index: this key is required"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, yaml: str, says: str) -> None:
    (tmp_path / "stack.yaml").write_text(yaml)

    with pytest.raises(FileError, match=says):
        read_yaml(tmp_path / "stack.yaml", RetrieverSettings)
