import json
from typing import Any

import pytest

from retrieval.passage import Hit, Passage
from serve.chat import Answer, Message, Sampling, Usage
from serve.combination import Combination
from serve.wire import ChatRequest, Completion, Refusal

OFFERED = tuple(Combination.parse(text) for text in ("base:none:direct", "house:none:direct", "house:dense:direct"))


def request(**fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "Who?"}]
    return ChatRequest.parse(json.dumps({"model": "base:none:direct", "messages": messages} | fields).encode())


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "tools": ({"tools": []}, "tools: "),
    "an old vLLM field": ({"guided_json": {}}, "guided_json: "),
    "two unknown fields": ({"logit_bias": {}, "best_of": 2}, "best_of: "),
    "several answers": ({"n": 2}, "n: Input should be 1"),
    "a tool's turn": ({"messages": turns(("tool", "x"))}, "messages.0.role: "),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
    "words as a number": ({"temperature": "hot"}, "temperature: "),
}


@pytest.mark.parametrize(("fields", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_means_nothing_here_is_refused_by_name(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refusal) as caught:
        request(**fields)

    assert caught.value.status == 400
    assert sentence in str(caught.value)
    assert all(name in str(caught.value) for name in fields)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'"x"'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal, match="not a JSON object"):
        ChatRequest.parse(body)


def test_null_means_left_out() -> None:
    assert request(temperature=None, tools=None).sampling(Sampling(temperature=0.3)).temperature == 0.3


def test_the_error_has_openais_shape() -> None:
    with pytest.raises(Refusal) as caught:
        request(best_of=2)

    error = caught.value.body["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "best_of", None)


def test_the_last_user_message_is_the_question_and_the_turns_before_it_are_history() -> None:
    said = turns(
        ("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Who?"), ("user", "And why?")
    )

    query = request(messages=said, metadata={"db_id": "pets"}).query()

    assert (query.text, query.history) == ("Who?\n\nAnd why?", ("Hi", "Hello"))
    assert query.meta == {"db_id": "pets", "system_message": "Be brief."}


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "Who "}, {"type": "text", "text": "rules?"}]

    assert request(messages=[{"role": "user", "content": parts}]).query().text == "Who rules?"


@pytest.mark.parametrize("said", [turns(("system", "x")), turns(("user", "x"), ("assistant", "y")), []])
def test_without_a_question_at_the_end_there_is_nothing_to_answer(said: list[dict[str, str]]) -> None:
    with pytest.raises(Refusal, match="the last message must be the user's"):
        request(messages=said).query()


SAMPLED: list[tuple[dict[str, Any], Sampling]] = [
    ({}, Sampling(max_tokens=7)),
    ({"temperature": 0.5, "top_p": 0.9}, Sampling(max_tokens=7, temperature=0.5, top_p=0.9)),
    ({"max_tokens": 3}, Sampling(max_tokens=3)),
    ({"max_tokens": 3, "max_completion_tokens": 4}, Sampling(max_tokens=4)),
    ({"seed": 0, "stop": "\n"}, Sampling(max_tokens=7, seed=0, stop=("\n",))),
    ({"stop": ["a", "b"]}, Sampling(max_tokens=7, stop=("a", "b"))),
]


@pytest.mark.parametrize(("fields", "sampling"), SAMPLED)
def test_a_caller_overrides_the_stacks_sampling_field_by_field(fields: dict[str, Any], sampling: Sampling) -> None:
    assert request(**fields).sampling(Sampling(max_tokens=7)) == sampling


@pytest.mark.parametrize("fields", [{"temperature": -1}, {"max_tokens": 0}, {"top_p": 2}])
def test_impossible_sampling_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        request(**fields).sampling(Sampling())

    assert caught.value.body["error"]["param"] in fields


def test_an_unknown_model_is_not_found_and_near_ones_are_named() -> None:
    with pytest.raises(Refusal, match="did you mean house:dense:direct") as caught:
        request(model="house:dens:direct").combination(OFFERED)

    assert (caught.value.status, caught.value.body["error"]["code"]) == (404, "model_not_found")


def test_an_answer_carries_its_text_its_tokens_and_its_sources() -> None:
    passage = Passage(document="varn", title="Varn", text="rules Varn", start=4, end=14)
    answer = Answer(
        text="Odo.",
        messages=(Message("user", "Who?"),),
        sources=(Hit(passage, 0.5, 1),),
        usage=Usage(7, 3),
        seconds=0.1,
        finish_reason="stop",
    )

    whole = Completion("base:none:direct").whole(answer)

    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "Odo."}
    assert whole["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert whole["sources"] == Completion("x").opening(answer.sources)["sources"]
    assert whole["sources"][0] == {
        "n": 1,
        "id": "varn@4-14",
        "document": "varn",
        "title": "Varn",
        "text": "rules Varn",
        "start": 4,
        "end": 14,
        "score": 0.5,
    }
