"""The matrix of clients says what is wrong, where, and what a client drops by itself."""

from typing import Any

from scripts.check_clients import checks, problems, table
from scripts.client_probe import CITED, heard, seen

TEXT = '{"answer": "red", "sources": [1]}'
ANSWER: dict[str, Any] = {
    "texts": [TEXT],
    "reasons": ["stop"],
    "usage": [9, 5],
    "logprobs": 5,
    "sources": ["varn@0-9"],
    "where": "",
}
TOLD: dict[str, Any] = {
    "models": ["a:none:direct"],
    "plain": ANSWER,
    "max_tokens": ANSWER | {"usage": [9, 3], "reasons": ["length"]},
    "stop": ANSWER | {"texts": ['{"answer": "red", "']},
    "seed": [["x"], ["x"], ["y"], ["z"]],
    "n": ANSWER | {"texts": ["x", "y", "z"]},
    "logprobs": ANSWER,
    "stream": ANSWER,
    "structured": {"colour": "red"},
    "cited": ANSWER | {"texts": [CITED]},
    "follow up": ANSWER,
}


def test_what_is_right_holds() -> None:
    held = checks(TOLD, TOLD, ["a:none:direct"])

    assert all(held.values())
    assert list(problems({"curl": held}, {"curl": TOLD})) == []


def test_what_is_wrong_is_said_with_what_was_seen() -> None:
    wrong = {"models": None, "seed": "BadRequestError: no", "structured": {"colour": "green"}}
    told = TOLD | wrong | {"stream": ANSWER | {"usage": None}}

    held = {"openai": checks(told, TOLD, ["a:none:direct"])}

    assert held["openai"]["models"] is None
    assert [one.partition(": ")[2] for one in problems(held, {"openai": told})] == [
        "seed: BadRequestError: no",
        f"stream: {told['stream']}",
        "schema: {'colour': 'green'}",
    ]


def test_what_a_client_drops_is_no_failure() -> None:
    told = TOLD | {"stream": ANSWER | {"sources": None}}

    held = {"langchain": checks(told, TOLD, ["a:none:direct"])}

    assert list(problems(held, {"langchain": told})) == []
    assert list(table(held))[1].endswith("drops")


def test_answers_and_streams_are_read_alike() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 5}
    choice = {"message": {"content": TEXT}, "finish_reason": "stop", "logprobs": {"content": [1] * 5}}
    whole = seen({"choices": [choice], "usage": usage, "sources": [{"id": "varn@0-9"}]})
    chunks = [
        {"choices": [{"delta": {"content": TEXT[:5]}, "finish_reason": None}], "sources": [{"id": "varn@0-9"}]},
        {"choices": [{"delta": {"content": TEXT[5:]}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    ]

    assert whole == ANSWER
    assert heard(chunks).items() <= whole.items()
