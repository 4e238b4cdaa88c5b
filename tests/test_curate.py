"""Curated chats: no question on both sides, no loss without a reason, prompts as they were asked."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.task import read_examples
from retrieval.files import write_jsonl
from retrieval.passage import Hit, Passage, Query
from scripts.apart import groups
from scripts.curate import Curated, Wanted, curate
from serve.capture import Capture, Captured, Feedback
from serve.layout import layout
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from tests.exchanges import HIT, answered
from train.chat import read_chats
from train.overlap import Text, check, read_texts

ROOT = Path(__file__).parents[1]
STACK = Stack(
    model="pocket",
    strategies={
        "direct": Prompted(kind="direct"),
        "told": Prompted(kind="instructed", instructions="Answer in one line."),
        "reasoned": Prompted(kind="cot", instructions="Think."),
    },
)
OTHER_HIT = Hit(Passage("oda", "Oda", "Oda founded Brell.", 40, 58), 0.4, 2)
GOOD = Captured(
    id="c0",
    at=1_764_000_000.0,
    combination="house:hybrid:told",
    messages=({"role": "user", "content": "Who founded the town of Varn?"},),
    text="Mira Tall [S1].",
    sources=(HIT, OTHER_HIT),
    finish_reason="stop",
    rating="up",
)


CALLED = (
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {}}]},
    {"role": "tool", "content": "1891", "tool_call_id": "c1"},
)


def said(*turns: str, **changes: Any) -> Captured:
    """A chat of these turns, the person's first."""
    roles = ("user", "assistant")
    messages = tuple({"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns))
    return replace(GOOD, messages=messages, **changes)


def curated(*chats: Captured, share: float = 0.0, tests: tuple[str, ...] = (), **wanted: Any) -> Curated:
    texts = [Text(where=f"test.jsonl:{n}", question=one) for n, one in enumerate(tests, start=1)]
    return curate(chats, Wanted(**wanted), STACK, texts, share)


SUBJECTS = ("the founder of Varn", "the dose of the blue salve", "the harbour of Brell", "the keeper of the old mill")
FRAMES = ("Who or what is {}?", "who or what is {}", "Please tell me: who or what is {}?", "Whoo or what is {}?", "{}")
QUESTION = st.builds(lambda frame, about: frame.format(about), st.sampled_from(FRAMES), st.sampled_from(SUBJECTS))
TURNS = st.lists(st.one_of(QUESTION, st.sampled_from(("Why?", "thanks", "Hello"))), min_size=1, max_size=3)
CHATS = st.lists(
    st.builds(
        lambda turns, rating, correction, way: said(
            *_talk(turns),
            rating=rating,
            correction=correction,
            combination=f"house:hybrid:{way}",
        ),
        TURNS,
        st.sampled_from(("up", "down", None)),
        st.sampled_from(("", "Oda")),
        st.sampled_from(("told", "direct", "reasoned", "gone")),
    ),
    max_size=12,
).map(lambda chats: [replace(chat, id=f"c{n}") for n, chat in enumerate(chats)])


def _talk(turns: list[str]) -> list[str]:
    return [part for turn in turns for part in (turn, "Noted.")][:-1]


def _asked(row: dict[str, Any]) -> list[Text]:
    """Every user turn of a training row, without the passages above the question."""
    turns = [turn["content"].rpartition("Question: ")[2] for turn in row["messages"] if turn["role"] == "user"]
    return [Text(where=row["meta"]["id"], question=turn) for turn in turns]


@settings(max_examples=60)
@given(chats=CHATS, share=st.sampled_from((0.0, 0.3, 0.5, 1.0)), seed=st.integers(0, 9))
def test_no_question_is_on_both_sides_and_every_chat_is_accounted_for(
    chats: list[Captured], share: float, seed: int
) -> None:
    given_tests = ("Who or what is the harbour of Brell?",)
    made = curated(*chats, share=share, tests=given_tests, rating="any")
    again = curated(*Random(seed).sample(chats, len(chats)), share=share, tests=given_tests, rating="any")

    tests = [Text(where="test", question=one) for one in (*given_tests, *(row["question"] for row in made.candidates))]
    ids = [row["meta"]["id"] for row in made.training] + [row["id"] for row in made.candidates]
    assert check([text for row in made.training for text in _asked(row)], tests).refused == ()
    assert sorted([*ids, *(one.id for one in made.left_out)]) == sorted(chat.id for chat in chats)
    assert all(one.why for one in made.left_out)
    assert (again.training, again.candidates) == (made.training, made.candidates)


def test_turns_of_a_conversation_and_alike_questions_are_one_group() -> None:
    names = groups(
        [
            ["Who founded the town of Varn?"],
            ["Who founded the town of Varn?", "And when was that, in which year?"],
            ["Hello", "And when was that, in which year?", "thanks", "Who was there?"],
            ["who foundd the town of Varn"],
            ["Where is the harbour of Brell?", "thanks", "Is it open?"],
        ]
    )

    assert len(set(names[:4])) == 1
    assert names[4] != names[0]


def test_a_row_holds_the_prompt_as_its_strategy_lays_it_out_and_learns_the_last_answer_only() -> None:
    made = curated(said("Who founded Varn?", "Who asks?", "A clerk asks who founded Varn."))

    (row,) = made.training
    query = Query("A clerk asks who founded Varn.", ("Who founded Varn?", "Who asks?"))
    prompt = layout((), query, GOOD.sources, "Answer in one line.")
    assert [(turn["role"], turn["content"]) for turn in row["messages"][:-1]] == [(m.role, m.content) for m in prompt]
    assert row["messages"][-1] == {"role": "assistant", "content": "Mira Tall [S1]."}
    assert [turn.get("weight") for turn in row["messages"] if turn["role"] == "assistant"] == [0, None]


def test_a_correction_replaces_the_answer_even_of_a_chat_that_was_rated_down() -> None:
    made = curated(replace(GOOD, rating="down", correction="Oda"))

    assert made.training[0]["messages"][-1]["content"] == "Oda"


@pytest.mark.parametrize(
    ("chat", "wanted", "why"),
    [
        (replace(GOOD, rating=None), {}, "not asked for: its rating is missing"),
        (replace(GOOD, rating="down"), {"rating": "any"}, "rated down and not corrected"),
        (replace(GOOD, finish_reason="length"), {}, "broken off"),
        (replace(GOOD, text=" "), {}, "empty answer"),
        (replace(GOOD, sampling={"tools": [{"type": "function"}]}), {}, "tools: "),
        (replace(GOOD, messages=(*GOOD.messages, *CALLED)), {}, "tools: "),
        (replace(GOOD, combination="house:hybrid:reasoned"), {}, "its words are lost"),
        (replace(GOOD, combination="house:hybrid:gone"), {}, "its prompt is lost"),
        (GOOD, {"combinations": ("base:*",)}, "not asked for: it is by house:hybrid:told"),
        (GOOD, {"since": GOOD.at + 1}, "not asked for: it is older"),
        (replace(GOOD, sources=()), {"with_sources": True}, "not asked for: it has no sources"),
        (GOOD, {"corrected": True}, "not asked for: it has no correction"),
    ],
)
def test_what_is_left_out_is_listed_with_the_reason(chat: Captured, wanted: dict[str, Any], why: str) -> None:
    made = curated(chat, **wanted)

    assert (made.training, made.candidates) == ([], [])
    assert [one.why[: len(why)] for one in made.left_out] == [why]


def test_a_question_of_a_given_test_set_is_on_neither_side_however_it_is_written() -> None:
    for share in (0.0, 1.0):
        made = curated(GOOD, share=share, tests=("who foundd the town of varn",))

        assert (made.training, made.candidates) == ([], [])
        assert made.left_out[0].why.startswith("in the test set already: test.jsonl:1 (near copy")


def test_a_candidate_has_every_answer_once_and_the_evidence_that_is_cited() -> None:
    better = replace(GOOD, id="c1", text="Mira.", rating="down", correction="Mira Tall of Varn [S2]")
    (row,) = curated(GOOD, better, share=1.0).candidates
    (uncited,) = curated(replace(GOOD, text="Mira Tall"), share=1.0).candidates
    (corrected,) = curated(replace(GOOD, correction="Oda"), share=1.0).candidates

    assert (row["answers"], row["evidence"]) == (("Mira Tall of Varn", "Mira Tall."), ("oda@40-58",))
    assert (uncited["evidence"], uncited["meta"]["evidence"]) == (("varn@0-31", "oda@40-58"), "retrieved")
    assert (corrected["evidence"], corrected["meta"]["evidence"]) == ((), "none")


@pytest.mark.parametrize(
    "messages",
    [
        ({"role": "system", "content": "You are a clerk."}, *GOOD.messages),
        ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, *GOOD.messages),
    ],
)
def test_a_question_that_needs_what_came_before_it_is_no_candidate(messages: tuple[dict[str, str], ...]) -> None:
    made = curated(replace(GOOD, messages=messages), share=1.0)

    assert made.candidates == []
    assert made.left_out[0].why.startswith("no question by itself")


def test_the_command_writes_what_training_and_evaluation_read(tmp_path: Path) -> None:
    (tmp_path / "stack.yaml").write_text("model: m\nurl: http://127.0.0.1:9/v1\nstrategies: {direct: {kind: direct}}\n")
    write_jsonl(tmp_path / "test.jsonl", [{"id": "t", "question": "Which dose has salve 3?", "answers": ["one"]}])
    with Capture(tmp_path / "chats.jsonl") as kept:
        for n in range(20):
            asked = ({"role": "user", "content": f"Which dose has salve {n}?"},)
            kept.observe(answered(id=f"r{n}", combination="base:none:direct", messages=asked, text=f"{n} drops"))
            kept.hear(Feedback(id=f"r{n}", rating="up"))
    arguments = [
        "chats.jsonl",
        "--stack",
        "stack.yaml",
        "--out",
        "out",
        "--against",
        "test.jsonl",
        "--test-share",
        "0.4",
    ]

    done = subprocess.run(
        [sys.executable, "-m", "scripts.curate", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    training, candidates = read_chats(tmp_path / "out/train.jsonl"), read_examples(tmp_path / "out/candidates.jsonl")
    left_out = [json.loads(line) for line in (tmp_path / "out/left_out.jsonl").read_text().splitlines()]
    assert len(training) + len(candidates) == 19
    assert min(len(training), len(candidates)) > 0
    assert [one["id"] for one in left_out] == ["r3"]
    assert check(read_texts(tmp_path / "out/train.jsonl"), read_texts(tmp_path / "out/candidates.jsonl")).refused == ()
    assert done.stdout.splitlines()[-1].endswith("before it joins a test set")
