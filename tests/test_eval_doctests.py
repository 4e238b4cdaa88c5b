"""The examples in the docstrings of the evaluation are true."""

import doctest
import importlib

import pytest

MODULES = """
calibration calls citing gold init judge_findings judge_metrics judge_model numeric objects pairwise questions reading
splits task wording words
"""


@pytest.mark.parametrize("module", MODULES.split())
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"eval.{module}"), optionflags=doctest.ELLIPSIS)

    assert result.attempted
    assert not result.failed
