"""The examples in the docstrings of the evaluation are true."""

import doctest
import importlib

import pytest

MODULES = """
gold init judging.calibration judging.findings judging.metrics judging.model judging.pairwise questions scoring.calls
plan confidence scoring.numeric scoring.objects scoring.reading scoring.tables scoring.words selective splits task
wording worth
"""


@pytest.mark.parametrize("module", MODULES.split())
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"eval.{module}"), optionflags=doctest.ELLIPSIS)

    assert result.attempted
    assert not result.failed
