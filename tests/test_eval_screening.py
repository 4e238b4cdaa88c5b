"""Hopeless combinations stop early, the winner does not, and the same answers always come to the same decisions."""

from dataclasses import replace

import numpy as np
import pytest

from eval.screening import Race, by_lot, chance, ends, first_round, in_family, screen
from eval.task import Example
from scripts.raced_grids import World, race_of, responses
from serve.combination import Combination

BASE, GOOD, POOR = (Combination("base", retriever, "direct") for retriever in ("none", "dense", "random"))
ARM = Combination("base", "gold", "direct")
TUNED, TUNED_ARM = Combination("lora", "dense", "direct"), Combination("lora", "gold", "direct")


def examples(n: int) -> list[Example]:
    return [
        Example(id=f"q{i}", question=f"Which {i}?", answers=("that",), meta={"slice": "hard" if i % 5 == 0 else "easy"})
        for i in range(n)
    ]


def race(right: dict[Combination, float], n: int = 120, asked: int | None = None) -> Race:
    """Of every ten questions that are asked one after the other, each combination gets its share right."""
    order = by_lot(examples(n))
    return Race(
        order=order,
        scores={
            cell: {item: float((i + 3 * place) % 10 < 10 * share) for i, item in enumerate(order[:asked])}
            for place, (cell, share) in enumerate(right.items())
        },
        failed={},
        baseline=BASE,
    )


def test_the_order_is_drawn_by_lot_and_each_part_has_its_share_of_every_slice() -> None:
    test_set = examples(100)
    hard = {one.id for one in test_set if one.slice == "hard"}

    order = by_lot(test_set)

    assert sorted(order) == sorted(one.id for one in test_set)
    assert order == by_lot(test_set[::-1]) != tuple(one.id for one in test_set)
    for part in (order[:20], order[:50]):
        assert abs(len(hard.intersection(part)) - len(part) / 5) <= 1


def test_a_question_that_is_added_does_not_shuffle_the_others() -> None:
    before, after = by_lot(examples(99)), by_lot(examples(100))

    moved = [item for item in before if abs(before.index(item) - after.index(item)) > 2]

    assert not moved


def test_who_is_far_behind_stops_at_the_first_look_and_who_is_close_goes_on() -> None:
    screened = screen(race({BASE: 0.2, GOOD: 0.8, POOR: 0.1, TUNED: 0.7}))

    assert set(screened.stops) == {POOR}
    stop = screened.stops[POOR]
    assert (stop.asked, stop.leader) == (ends(120)[0], GOOD)
    assert stop.behind == pytest.approx(0.7, abs=0.05)
    assert screened.asked == 120


def test_the_baseline_is_never_stopped() -> None:
    screened = screen(race({BASE: 0.0, GOOD: 1.0}))

    assert not screened.stops


def test_a_look_waits_for_every_combination_that_is_still_in_the_race() -> None:
    first, second, _ = ends(120)
    early = race({BASE: 0.2, GOOD: 0.8, POOR: 0.1}, asked=first)
    waiting = replace(early, scores={**early.scores, GOOD: {}})

    assert screen(waiting).asked == first
    assert not screen(waiting).stops
    assert screen(early).asked == second
    assert set(screen(early).stops) == {POOR}


def test_a_question_without_an_answer_is_not_waited_for_and_its_combination_is_not_judged() -> None:
    whole = race({BASE: 0.2, GOOD: 0.8, POOR: 0.1})
    lost = whole.order[3]
    poorly = {item: score for item, score in whole.scores[POOR].items() if item != lost}

    screened = screen(replace(whole, scores={**whole.scores, POOR: poorly}, failed={POOR: {lost}}))

    assert not screened.stops
    assert screened.asked == 120


def test_an_oracle_arm_goes_on_while_somebody_needs_it_and_never_leads() -> None:
    needed = screen(race({BASE: 0.2, GOOD: 0.8, ARM: 1.0, TUNED: 0.1, TUNED_ARM: 1.0}))

    assert set(needed.stops) == {TUNED, TUNED_ARM}
    assert needed.stops[TUNED].leader == GOOD
    assert needed.stops[TUNED_ARM].asked == needed.stops[TUNED].asked


def test_answers_beyond_a_stop_change_nothing() -> None:
    whole = race({BASE: 0.2, GOOD: 0.8, POOR: 0.1})
    first = ends(120)[0]
    short = {item: whole.scores[POOR][item] for item in whole.order[:first]}

    assert screen(replace(whole, scores={**whole.scores, POOR: short})) == screen(whole)


def test_being_behind_on_most_of_the_questions_is_harder_to_make_up() -> None:
    behind, ahead = [0.0] * 6 + [1.0] * 20, [1.0] * 26

    early, late = chance(behind, ahead, share=0.1), chance(behind, ahead, share=0.9)

    assert late < early < 0.05
    assert chance(ahead, behind, share=0.5) == 1
    assert chance(ahead, ahead, share=0.5) == 1


def test_graded_scores_are_judged_as_well() -> None:
    draw = np.random.default_rng(1)
    ours = draw.random(40)

    assert chance((0.8 * ours).tolist(), ours.tolist(), share=0.3) < 0.001


def test_who_stopped_counts_in_the_family() -> None:
    assert in_family([0.01], stopped=0) == [0.01]
    assert in_family([0.01], stopped=9) == pytest.approx([0.1])


def test_effects_are_estimated_from_what_every_combination_was_asked() -> None:
    whole = race({BASE: 0.2, GOOD: 0.8, POOR: 0.1})

    first = first_round(whole.scores, whole.order)

    assert {frozenset(table) for table in first.values()} == {frozenset(whole.order[: ends(120)[0]])}


@pytest.mark.parametrize("n", [1, 2, 6])
def test_a_tiny_test_set_stops_nobody(n: int) -> None:
    assert not screen(race({BASE: 0.0, GOOD: 1.0, POOR: 0.0}, n=n)).stops


def test_a_race_of_answers_that_were_drawn_keeps_a_clear_winner() -> None:
    world = World({BASE: 0.2, GOOD: 0.7, POOR: 0.25}, n=300)

    rows, _ = responses(world, np.random.default_rng(3))

    assert GOOD not in screen(race_of(list(world.truth), rows)).stops
