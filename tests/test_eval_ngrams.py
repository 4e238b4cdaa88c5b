"""ROUGE, BLEU, chrF and GLEU are those of their libraries, sentence by sentence and over a corpus."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import settings as at_most
from hypothesis import strategies as st

from eval.example import Example
from eval.scoring.figures import figures
from eval.scoring.kinds import Kind, ScorerSettings
from eval.scoring.scorers import build, signatures

SAID = ("The dog bit the man.", "It was not unexpected.", "The man bit him first.", "")
GOLDS = (
    ("The dog bit the man.", "The dog had bit the man."),
    ("It wasn't surprising.", "No one was surprised."),
    ("The man had just bitten him.", "The man had bitten the dog."),
    ("He left.", "He went away."),
)
EXAMPLES = tuple(Example(id=str(n), question="?", answers=golds) for n, golds in enumerate(GOLDS))


def one(kind: str) -> dict[str, ScorerSettings]:
    assert kind in get_args(Kind)
    return {kind: ScorerSettings(kind=kind)}  # type: ignore[arg-type]


def figure(kind: str, said: tuple[str, ...] = SAID, examples: tuple[Example, ...] = EXAMPLES) -> dict[str, float]:
    answers: Any = [(example, SimpleNamespace(text=text)) for example, text in zip(examples, said, strict=True)]
    return figures(one(kind), answers)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_the_corpus_figure_and_its_signature_are_those_of_sacrebleus_program(metric: str, tmp_path: Path) -> None:
    (tmp_path / "said").write_text("".join(text + "\n" for text in SAID))
    for n in (0, 1):
        (tmp_path / f"gold{n}").write_text("".join(golds[n] + "\n" for golds in GOLDS))
    command = [sys.executable, "-m", "sacrebleu", "gold0", "gold1", "-i", "said", "-m", metric, "-w", "10"]
    printed = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)

    assert 100 * figure(metric)[f"{metric}_corpus"] == pytest.approx(printed["score"], abs=1e-9)
    assert signatures(one(metric), EXAMPLES)[f"{metric}_corpus"] == printed["signature"]


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_the_sentence_figures_are_those_of_sacrebleus_program(metric: str, tmp_path: Path) -> None:
    (tmp_path / "said").write_text("".join(text + "\n" for text in SAID[:3]))
    for n in (0, 1):
        (tmp_path / f"gold{n}").write_text("".join(golds[n] + "\n" for golds in GOLDS[:3]))
    command = [sys.executable, "-m", "sacrebleu", "gold0", "gold1", "-i", "said", "-m", metric, "-sl", "-b", "-w", "10"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    judge = build(one(metric), metric, ())[metric]

    ours = [100 * judge(example, text, ()) for example, text in zip(EXAMPLES[:3], SAID[:3], strict=True)]

    assert ours == pytest.approx([float(figure) for figure in printed], abs=1e-9)


def test_corpus_bleu_is_no_mean_of_sentence_bleus() -> None:
    judge = build(one("bleu"), "bleu", ())["bleu"]

    mean = math.fsum(judge(example, text, ()) for example, text in zip(EXAMPLES, SAID, strict=True)) / len(SAID)

    assert abs(mean - figure("bleu")["bleu_corpus"]) > 0.03


def test_examples_may_have_different_numbers_of_gold_answers() -> None:
    uneven = (EXAMPLES[0], Example(id="1", question="?", answers=GOLDS[1][:1]))

    assert signatures(one("bleu"), uneven)["bleu_corpus"].startswith("nrefs:var|")
    assert 0 < figure("bleu", SAID[:2], uneven)["bleu_corpus"] < 1


def test_a_signature_tells_sentence_from_corpus_and_names_the_version() -> None:
    found = signatures(one("bleu") | one("rougeL") | one("gleu") | one("exact"), EXAMPLES)

    assert found["bleu"] == found["bleu_corpus"].replace("eff:no", "eff:yes")
    assert found["rougeL"].startswith("rougeL|measure:f|stemmer:no|refs:best|rouge-score:")
    assert found["gleu"].startswith("gleu|n:1-4|tok:13a|nltk:")
    assert "exact" not in found


def test_gleu_is_nltks() -> None:
    from nltk.translate.gleu_score import corpus_gleu, sentence_gleu

    judge, parted = build(one("gleu"), "gleu", ())["gleu"], Example(id="q", question="?", answers=("the cat sat .",))

    assert judge(parted, "the cat ran.", ()) == sentence_gleu([["the", "cat", "sat", "."]], ["the", "cat", "ran", "."])
    assert figure("gleu", ("the cat ran.",), (parted,))["gleu_corpus"] == pytest.approx(
        corpus_gleu([[["the", "cat", "sat", "."]]], [["the", "cat", "ran", "."]])
    )


def lcs(one: list[str], other: list[str]) -> int:
    """The longest common subsequence, by the textbook."""
    if not one or not other:
        return 0
    if one[-1] == other[-1]:
        return 1 + lcs(one[:-1], other[:-1])
    return max(lcs(one[:-1], other), lcs(one, other[:-1]))


words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=5).map(" ".join)


@given(words, st.lists(words, min_size=1, max_size=3))
@at_most(max_examples=50)
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(said: str, golds: list[str]) -> None:
    judge = build(one("rougeL"), "rougeL", ())["rougeL"]

    def by_hand(gold: str) -> float:
        ours, theirs = said.split(), gold.split()
        shared = lcs(ours, theirs)
        return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0

    assert judge(Example(id="q", question="?", answers=tuple(golds)), said, ()) == pytest.approx(
        max(map(by_hand, golds))
    )


@pytest.mark.parametrize("kind", ["bleu", "chrf", "gleu", "rouge1", "rouge2", "rougeL"])
def test_the_gold_answer_itself_has_all_and_nothing_has_nothing(kind: str) -> None:
    judge, example = build(one(kind), kind, ())[kind], Example(id="q", question="?", answers=("the red fox ran",))

    assert judge(example, "the red fox ran", ()) == pytest.approx(1)
    assert judge(example, "", ()) == 0
    assert judge(example, "owls hoot", ()) < 0.2


def test_a_short_reply_is_not_asked_for_words_that_the_gold_answer_has_not() -> None:
    judge = build(one("bleu"), "bleu", ())["bleu"]

    assert judge(Example(id="q", question="?", answers=("red fox",)), "red fox", ()) == pytest.approx(1)


def test_no_answers_at_all_have_no_figure() -> None:
    assert math.isnan(figure("bleu", (), ())["bleu_corpus"])
