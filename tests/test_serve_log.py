"""A line of the log says how a request went, and never what was said in it."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.passage import Hit, Passage
from serve.log import QUOTE, WITHHELD, line, tell
from tests.exchanges import answered

SECRET = st.text("αβγδεζηθ λμν", min_size=1, max_size=60)
"""An alphabet that nothing else of a line is written in."""
CONTENT = SECRET | st.lists(st.builds(lambda text: {"type": "text", "text": text}, SECRET), min_size=1)
MESSAGES = st.lists(st.builds(lambda content: {"role": "user", "content": content}, CONTENT)).map(tuple)


def test_a_request_is_one_line_with_what_a_keeper_needs() -> None:
    said = line(answered())

    assert "\n" not in said
    assert json.loads(said) == {
        "at": "2025-11-24T16:00:00.250+00:00",
        "id": "r1",
        "route": "chat",
        "combination": "house:hybrid:instructed",
        "key": "support",
        "status": 200,
        "stream": True,
        "prompt_tokens": 120,
        "completion_tokens": 7,
        "sources": ["varn@0-31"],
        "unknown_citations": 1,
        "finish_reason": "stop",
        "queue_seconds": 0.002,
        "search_seconds": 0.03,
        "first_seconds": 0.2,
        "seconds": 1.5,
    }


@given(
    messages=MESSAGES, answer=SECRET, passage=SECRET, status=st.sampled_from([200, 400, 499, 502, 503]), data=st.data()
)
def test_no_word_of_a_message_a_source_or_an_answer_is_logged(
    messages: tuple[dict[str, object], ...], answer: str, passage: str, status: int, data: st.DataObject
) -> None:
    texts = [answer, passage, *(m["content"] for m in messages if isinstance(m["content"], str))]
    quoted = data.draw(st.sampled_from(texts))
    exchange = answered(
        messages=messages,
        text=answer,
        sources=(Hit(Passage("varn", passage, passage, 0, 31), 0.5, 1),),
        status=status,
        error=f"the engine said: {quoted}",
    )

    said = line(exchange)

    assert not set("αβγδεζηθλμν") & set(said)


def test_an_outage_is_told_and_a_callers_mistake_is_not() -> None:
    outage = answered(status=503, error="http://engine/v1 cannot be reached; 4 attempts")
    mistake = answered(status=400, error="temperature is 9")

    assert json.loads(line(outage))["error"] == outage.error
    assert "error" not in json.loads(line(mistake))


@pytest.mark.parametrize("shared", [QUOTE, QUOTE + 30])
def test_an_error_that_quotes_part_of_a_long_prompt_is_withheld(shared: int) -> None:
    prompt = "The patient of room nine has asked for her file, and for a copy of it."
    exchange = answered(
        status=502, messages=({"role": "user", "content": prompt},), error=f"bad: {prompt[7 : 7 + shared]!r}"
    )

    assert json.loads(line(exchange))["error"] == WITHHELD


def test_the_line_is_the_whole_log_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "serve"):
        tell(answered(id="chatcmpl-%s"))

    assert [json.loads(record.getMessage())["id"] for record in caplog.records] == ["chatcmpl-%s"]
