"""The weight of hybrid search is chosen by brute force on some questions, and measured on the others."""

import json
import math
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from retrieval.__main__ import main
from retrieval.build import build
from retrieval.documents import read_documents
from retrieval.manifest import BuildSettings
from retrieval.ranking import convex
from retrieval.topics import Topic, folds
from retrieval.tune import FITTED, WEIGHTS, Candidates, crossfit
from tests.tiny_search import make_beir, make_embedder

DOCUMENTS = tuple(f"d{n}" for n in range(12))


def candidates(count: int, seed: int = 0) -> list[Candidates]:
    """Questions with one relevant document each, which both searches like better than chance."""
    random = np.random.default_rng(seed)
    found = []
    for n in range(count):
        dense, lexical = random.uniform(-0.2, 0.6, 12), random.uniform(0, 10, 12) * (random.random(12) > 0.4)
        dense[0] += 0.25
        lexical[0] += 2.5
        topic = Topic(f"q{n}", "?", {"d0": 1})
        by_dense = tuple(DOCUMENTS[row] for row in np.argsort(-dense))
        found.append(
            Candidates(topic=topic, documents=DOCUMENTS, dense=dense, lexical=lexical, untuned={"dense": by_dense})
        )
    return found


def gain(one: Candidates, weight: float) -> float:
    """nDCG@10 with one relevant document, by its definition."""
    place = [row for row, _ in convex(one.dense, one.lexical, weight, 12)].index(0)
    return 1 / math.log2(place + 2) if place < 10 else 0.0


def test_every_question_is_measured_with_the_best_weight_of_the_other_folds() -> None:
    found = candidates(40)
    parts = folds([one.topic for one in found], 5)

    tuned = crossfit(found, parts)

    fitted = []
    for part, chosen in zip(parts, tuned.chosen, strict=True):
        held_out = [one for one in found if one.topic in part]
        others = [one for one in found if one.topic not in part]
        assert chosen == max(WEIGHTS, key=lambda weight: fmean(gain(one, weight) for one in others))
        fitted += [gain(one, chosen) for one in held_out]
    assert tuned.means[FITTED].value == pytest.approx(fmean(fitted))
    assert tuned.flattered == pytest.approx(max(fmean(gain(one, weight) for one in found) for weight in WEIGHTS))
    assert tuned.flattered >= tuned.means[FITTED].value
    assert tuned.differences["dense"].estimate.value == pytest.approx(
        tuned.means[FITTED].value - tuned.means["dense"].value
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_beir(folder / "beir")
    build(
        read_documents(folder / "beir"), folder / "index", BuildSettings(embedder=str(make_embedder(folder / "model")))
    )
    return folder


def test_where_words_say_nothing_all_the_weight_is_dense(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", str(world / "index"), str(world / "beir"), "--split", "test"]

    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([*command, "--folds", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()

    # No question shares a word with a document: any weight above 0 ranks as dense search does, and 0 finds nothing.
    assert found["means"]["lexical"]["value"] == 0
    assert found["weight"] == 0.05
    assert found["chosen"] == [0.05] * 5
    assert found["means"][FITTED] == found["means"]["dense"]
    assert found["differences"]["dense"]["p_holm"] == 1.0
    assert lines[-1] == "Next: write `weight: 0.05` into the hybrid retriever of stack.yaml."


@pytest.mark.parametrize(("count", "says"), [("1", "2 folds at least"), ("21", "there are 20 questions")])
def test_folds_that_cannot_be_made_are_refused(
    world: Path, capsys: pytest.CaptureFixture[str], count: str, says: str
) -> None:
    assert main(["tune", str(world / "index"), str(world / "beir"), "--split", "test", "--folds", count]) == 1

    assert says in capsys.readouterr().err
