"""At reduced size, what `scripts/check_screening.py` shows in full: the winner is kept for half of the answers."""

import numpy as np
import pytest

from scripts.check_screening import Drawer, Kind, main
from scripts.raced_grids import biases, equal, likely, outcome


def kind(drawer: Drawer, grids: int) -> Kind:
    draw = np.random.default_rng(grids)
    worlds = [drawer(draw) for _ in range(grids)]
    return Kind("some", tuple(outcome(world, draw) for world in worlds))


def test_the_winner_is_kept_for_about_half_of_the_answers() -> None:
    found = kind(likely, grids=100)

    # Of 2,000 grids 98.7 and 96.5 of 100 are kept, for 48.7 % of the answers; here are 100, and the seed is fixed.
    assert found.share("same") >= 0.95
    assert found.share("near") >= 0.92
    assert found.share("calls") <= 0.53
    assert found.share("loss") <= found.share("loss_in_full") + 0.002


def test_of_equal_combinations_hardly_ever_one_is_adopted() -> None:
    found = kind(equal, grids=40)

    assert found.share("adopted") <= 0.08
    assert found.share("same") >= 0.85


def test_effects_of_a_screened_grid_come_back_from_the_first_round() -> None:
    for one in biases(grids=100):
        assert abs(one.first - one.truth) < 4 * one.first_error, one


def test_too_few_grids_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as few:
        main(["--grids", "3"])

    assert few.value.code == 1
    assert "take 1000 or more" in capsys.readouterr().err
