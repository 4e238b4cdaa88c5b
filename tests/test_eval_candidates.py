"""What a search tries: sets by lot, sets near to failures, and strategies as a stack has them."""

from pathlib import Path

import pytest
import yaml

from eval.candidates import Candidate, Shown, candidates, draw, lean, nearest, read_chats
from retrieval.files import FileError, to_yaml
from serve.stack import EngineSettings
from tests.eval_stub import write_rows


def shown(question: str) -> Shown:
    return Shown(question, f"Question: {question}", "yes")


POOL = [shown(f"Is {name} {what}?") for name in ("Ada", "Bo", "Cy") for what in ("open today", "old", "for sale now")]
SHOP = Path("/shop/shots.jsonl")


def test_a_set_by_lot_is_the_same_every_time_and_another_one_for_another_seed() -> None:
    one, again, other = (draw({"gold": POOL}, [3], 2, [], seed) for seed in (0, 0, 1))

    assert one == again
    assert one != other
    assert [*one] == ["gold3.1", "gold3.2"]
    assert all(len(set(found)) == 3 for found in one.values())


def test_what_a_pool_is_too_small_for_is_left_out_and_no_set_is_drawn_twice() -> None:
    sets = draw({"own": POOL[:2], "gold": []}, [1, 2, 3], 5, [], 0)

    assert [name for name in sets if name.startswith("own2")] == ["own2.1"]
    assert len([name for name in sets if name.startswith("own1")]) == 2
    assert not [name for name in sets if name.startswith(("own3", "gold"))]


def test_the_nearest_have_the_shape_of_the_failures_whatever_the_name() -> None:
    wrong = ["Which is Zo open today?", "Is Zo open today?", "Is Zo for sale now?"]

    first, second = nearest(POOL, wrong, 2)

    assert "open today" in first.question
    assert "for sale now" in second.question, "a second one of the same shape would bring nothing nearer"


def test_nothing_is_near_to_no_failure() -> None:
    assert nearest(POOL, [], 2) == ()
    assert draw({"near": POOL}, [1], 1, [], 0) == {}


def test_every_text_meets_every_set_and_the_start_is_no_candidate() -> None:
    tried = candidates(["A.", "B."], {"own1.1": (POOL[0],), "own1.2": (POOL[1],)}, most=32, seed=0)

    assert [one.name for one in tried] == [
        "i1", "i2", "i0-own1.1", "i0-own1.2", "i1-own1.1", "i1-own1.2", "i2-own1.1", "i2-own1.2",
    ]  # fmt: skip
    assert [one.instructions for one in tried[:3]] == ["A.", "B.", None]


def test_of_too_many_the_texts_alone_are_kept_and_the_others_drawn() -> None:
    sets = {f"own1.{i}": (one,) for i, one in enumerate(POOL, start=1)}

    few, other = (candidates(["A.", "B."], sets, most=6, seed=seed) for seed in (0, 1))

    assert len(few) == 6
    assert [one.name for one in few[:2]] == ["i1", "i2"]
    assert few != other


@pytest.mark.parametrize(
    ("start", "instructions", "shots", "made"),
    [
        ({"kind": "direct"}, "A.", None, {"kind": "instructed", "instructions": "A."}),
        ({"kind": "direct"}, None, (POOL[0],), {"kind": "fewshot", "demonstrations": SHOP}),
        (
            {"kind": "instructed", "instructions": "Z."},
            None,
            (POOL[0],),
            {"kind": "fewshot", "instructions": "Z.", "demonstrations": SHOP},
        ),
        (
            {"kind": "fewshot", "examples_from": "similar"},
            "A.",
            None,
            {"kind": "fewshot", "examples_from": "similar", "instructions": "A."},
        ),
        (
            {"kind": "cot", "instructions": "Z.", "fence": True},
            "A.",
            (POOL[0],),
            {"kind": "cot", "instructions": "A.", "fence": True, "demonstrations": SHOP},
        ),
    ],
)
def test_a_candidate_is_the_start_with_what_is_tried_in_its_place(
    start: dict[str, object], instructions: str | None, shots: tuple[Shown, ...] | None, made: dict[str, object]
) -> None:
    assert Candidate(name="i1", instructions=instructions, shown=shots).strategy(start, SHOP) == made


def test_settings_are_written_without_their_defaults_and_with_relative_paths(tmp_path: Path) -> None:
    written = lean({"engine": EngineSettings(max_model_len=512), "shots": (tmp_path / "shots.jsonl",)})

    assert written == {"engine": {"max_model_len": 512}, "shots": [tmp_path / "shots.jsonl"]}
    assert yaml.safe_load(to_yaml(written, tmp_path / "out"))["shots"] == ["../shots.jsonl"]


def test_chats_are_shown_as_they_are_and_what_is_none_is_refused(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "[S1] a\n\nQuestion: Is it?"}, {"role": "assistant", "content": "No."}]
    write_rows(
        tmp_path / "chats.jsonl",
        [{"messages": [{"role": "system", "content": "S"}, *turns], "meta": {"question": "Q"}}],
    )
    write_rows(tmp_path / "rows.jsonl", [{"id": "a", "question": "Is it?", "answers": ["No."]}])

    (one,) = read_chats(tmp_path / "chats.jsonl")
    assert one == Shown("Q", turns[0]["content"], "No.")
    assert one.chat == {"messages": turns}
    with pytest.raises(FileError, match=r"rows\.jsonl:1: is no chat"):
        list(read_chats(tmp_path / "rows.jsonl"))
