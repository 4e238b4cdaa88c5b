"""The examples in the docstrings of the serving room are true."""

import doctest
import importlib

import pytest

MODULES = """
arithmetic combination complaint fence layout passed reading sql.queries sql.shown strategies.arithmetic
strategies.best_of strategies.intent strategies.prompted strategies.vote
"""


@pytest.mark.parametrize("module", MODULES.split())
def test_the_examples_in_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"serve.{module}"), optionflags=doctest.ELLIPSIS)

    assert result.attempted
    assert not result.failed
