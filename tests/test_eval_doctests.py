"""The examples in the docstrings of the evaluation are true."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["calls", "citing", "gold", "numeric", "objects", "reading", "wording", "words"])
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"eval.{module}"), optionflags=doctest.ELLIPSIS)

    assert result.attempted
    assert not result.failed
