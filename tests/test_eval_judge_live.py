"""A real engine holds a judge to its JSON, whatever the model would rather write."""

import asyncio
from pathlib import Path

import pytest

from eval.judging.inquiry import KINDS, Inquiry, Judgement
from eval.judging.model import opened
from eval.judging.settings import JudgeSettings
from serve.stack import EngineSettings

pytestmark = pytest.mark.engine

POCKET = Path(__file__).parents[1] / "scripts" / "pocket" / "model"
PARTS = {
    "question": "Which colour has the fox?",
    "text": "The fox is red, and it barks at night.",
    "context": "The fox is red.",
    "claim": "The fox is red.",
    "answer": "red",
    "passage": "The fox is red.",
    "criteria": "Short.",
    "A": "red",
    "B": "It is red, I think.",
}


def test_every_kind_of_inquiry_is_answered_in_its_json() -> None:
    """The pocket model knows no JSON but its own house format, and would fill what it may with line breaks."""
    settings = JudgeSettings(model=str(POCKET), engine=EngineSettings(max_model_len=4096))

    async def ask() -> dict[str, Judgement]:
        try:
            return {name: await judge.judge(Inquiry.of(name, **PARTS)) for name in KINDS}
        finally:
            await judge.close()

    with opened(settings) as judge:
        found = asyncio.run(ask())

    assert set(found) == set(KINDS)  # `read` has refused what its schema does not allow
    assert found["supported"].said["verdict"] in ("yes", "no")
    assert len(found["questions"].said["questions"]) == 3
    assert found["score"].expected is not None
    assert 1 <= found["score"].expected <= 5
