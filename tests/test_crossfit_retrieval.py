"""Every question is measured once, by models that have not learnt it, and what is done is not done again."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from retrieval.files import read_judgements
from retrieval.stats import paired
from retrieval.topics import Topic, read_topics
from scripts.crossfit_retrieval import BEFORE, UNTRAINED, _part, main
from tests.tiny_search import make_beir, make_embedder, make_encoder, write_qrels

FOLDS = 2


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A finished cross-fit of models that fit in a test: its command and its folder."""
    world = tmp_path_factory.mktemp("world")
    beir = make_beir(world / "beir")
    pairs = []
    for file in sorted((beir / "qrels").glob("*.tsv")):
        pairs += [(query, document) for query, document, _ in read_judgements(file)]
        file.unlink()
    write_qrels(beir / "qrels" / "all.tsv", pairs)
    models = {
        "embedder.model": make_embedder(world / "embedder"),
        "reranker.miner": world / "embedder",
        "reranker.model": make_encoder(world / "encoder"),
    }
    words = [f"{key}={folder}" for key, folder in models.items()]
    words += ["max_length=16", "embedder.learning_rate=0.05", "batch=16"]
    command = [str(beir), "--folds", str(FOLDS), "--out", str(world / "out"), *words]
    assert main(command) == 0
    return command, world / "out"


def figures(out: Path) -> Any:
    return json.loads((out / "crossfit.json").read_text())


def test_every_question_is_measured_once_by_models_that_have_not_learnt_it(done: tuple[list[str], Path]) -> None:
    command, out = done
    measured: list[str] = []
    for fold in out.glob(f"fold-*-of-{FOLDS}"):
        learnt, held_out = (
            {query for query, _, _ in read_judgements(fold / f"{name}.tsv")} for name in ("learnt", "measured")
        )
        assert not learnt & held_out
        for noun in ("embedder", "reranker"):
            card = json.loads((fold / noun / "provenance.json").read_text())
            assert card["data"]["qrels"] == str(fold / "learnt.tsv")
            assert card["questions"] + len(card["dropped_questions"]) == len(learnt)
            assert card["overlap"]["test_questions"] == len(held_out)
            for rows in json.loads((fold / f"{noun}.json").read_text())["scores"].values():
                assert {*rows} == held_out
        measured += held_out

    assert sorted(measured) == sorted(topic.id for topic in read_topics(Path(command[0])))


def test_the_figures_are_those_of_the_questions(done: tuple[list[str], Path]) -> None:
    _, out = done
    parts = [json.loads(file.read_text()) for file in (out / "untrained.json", *sorted(out.glob("fold-*/*er.json")))]
    rows: dict[str, dict[str, float]] = {}
    for part in parts:
        for name, scores in part["scores"].items():
            rows.setdefault(name, {}).update({question: found["nDCG@10"] for question, found in scores.items()})

    assert {*rows} == {*UNTRAINED, *BEFORE}
    for name, scores in rows.items():
        assert figures(out)["means"][name]["nDCG@10"] == pytest.approx(fmean(scores.values()))
    for one in figures(out)["comparisons"]:
        after, before = ([rows[one[side]][name] for name in sorted(rows["dense"])] for side in ("after", "before"))
        expected = paired(after, before)
        assert one["difference"] == pytest.approx(expected.estimate.value)
        assert one["ci"] == pytest.approx([expected.estimate.low, expected.estimate.high])
        assert one["p_holm"] >= one["p"]
        verdict = one["sentence"].rpartition(": ")[2]
        assert ("as far as" in verdict) == (one["p_holm"] >= 0.05)
        assert verdict.startswith(("training helps", "better")) == (one["p_holm"] < 0.05 and one["difference"] > 0)


def test_what_is_done_is_not_done_again(done: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    command, out = done
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    said = figures(out)

    assert main(command) == 0

    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")} == before
    assert figures(out) == said
    assert capsys.readouterr().err.count("nothing left to do") == 2 * FOLDS


def test_a_figure_is_kept_for_what_it_was_made_of_and_no_longer(tmp_path: Path) -> None:
    made = iter(({"scores": 1}, {"scores": 2}))
    topics = [Topic("q1", "red?", {"d1": 1})], [Topic("q1", "red?", {"d2": 1})]

    found = [_part(tmp_path / "part.json", (each,), lambda: next(made))["scores"] for each in (topics[0], *topics)]

    assert found == [1, 1, 2]


def test_other_settings_in_the_same_folder_are_refused(
    done: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command, _ = done

    assert main([*command, "epochs=2"]) == 1

    assert "made differently (epochs 1 -> 2)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--folds", "1"], "2 folds at least"), (["--splits", "train", "test"], "no judgements named 'train'")],
)
def test_rounds_that_cannot_be_made_are_refused(
    done: tuple[list[str], Path], words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([done[0][0], *words]) == 1

    assert says in capsys.readouterr().err
