import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.passage import Hit, Passage
from serve.asked import ChatRequest, Refusal, chosen, read
from serve.chat import Answer, Sampling, Usage
from serve.combination import Combination
from serve.layout import layout
from serve.upstream import Chunk
from serve.wire import Envelope, Relay

OFFERED = {text: Combination.parse(text) for text in ("base:none:direct", "house:none:direct", "house:dense:direct")}


def request(**fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "Who?"}]
    return read(ChatRequest, json.dumps({"model": "base:none:direct", "messages": messages} | fields).encode())


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an old vLLM field": ({"guided_json": {}}, "guided_json: Unexpected keyword argument; use `structured_outputs`"),
    "two unknown fields": ({"store": True, "best_of": 2}, "best_of: "),
    "very many answers": ({"n": 17}, "n: Input should be less than or equal to 16"),
    "an unknown speaker": ({"messages": turns(("judge", "x"))}, "messages.0.role: "),
    "not a number": ({"temperature": float("nan")}, "not a JSON object"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
    "words as a number": ({"temperature": "hot"}, "temperature: "),
}


@pytest.mark.parametrize(("fields", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_means_nothing_here_is_refused_by_name(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refusal) as caught:
        request(**fields)

    assert caught.value.status == 400
    assert sentence in str(caught.value)
    assert sentence == "not a JSON object" or all(name in str(caught.value) for name in fields)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'"x"'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal, match="not a JSON object"):
        read(ChatRequest, body)


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


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    said = {"role": "assistant", "content": "Odo [S1].", "refusal": None, "reasoning": None, "tool_calls": []}
    citation = {"type": "url_citation", "url_citation": {"url": "source:varn"}}
    cited = said | {"annotations": [citation], "provider_specific_fields": {"refusal": None}}

    query = request(messages=[*turns(("user", "Who?")), cited, *turns(("user", "And why?"))]).query()

    assert (query.text, query.history) == ("And why?", ("Who?", "Odo [S1]."))


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
    assert request(**fields).sampling(Sampling(max_tokens=7)).as_sent() == sampling.as_sent()


@pytest.mark.parametrize("fields", [{"temperature": -1}, {"max_tokens": 0}, {"top_p": 2}])
def test_impossible_sampling_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        request(**fields).sampling(Sampling())

    assert caught.value.body["error"]["param"] in fields


def test_an_unknown_model_is_not_found_and_near_ones_are_named() -> None:
    with pytest.raises(Refusal, match="did you mean house:dense:direct") as caught:
        chosen(request(model="house:dens:direct").model, OFFERED)

    assert (caught.value.status, caught.value.body["error"]["code"]) == (404, "model_not_found")


PASSAGE = Passage(document="varn", title="Varn", text="rules Varn", start=4, end=14)
HITS = (Hit(PASSAGE, 0.5, 1), Hit(replace(PASSAGE, meta={"url": "https://varn.example"}), 0.25, 2))


def answer(text: str, **fields: Any) -> Answer:
    made = Answer(text=text, messages=(), sources=HITS, usage=Usage(7, 3), seconds=0.1, finish_reason="stop")
    return replace(made, **fields)


def test_an_answer_carries_its_text_its_tokens_its_sources_and_where_it_cites_them() -> None:
    whole = Envelope("chat", "chatcmpl-1", "base:none:direct").whole(answer("Odo [S1], says [S2], not [S9]."))

    message = whole["choices"][0]["message"]
    assert (message["role"], message["content"]) == ("assistant", "Odo [S1], says [S2], not [S9].")
    first, second = message["annotations"]
    cited = {"document": "varn", "passage": "varn@4-14", "start_index": 4, "end_index": 8, "title": "Varn"}
    assert first == {"type": "url_citation", "url_citation": {"url": "source:varn%404-14", **cited}}
    assert second["url_citation"]["url"] == "https://varn.example"
    assert whole["unknown_citations"] == 1
    assert whole["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
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


def test_what_the_server_said_besides_is_passed_on() -> None:
    choices = [
        {
            "index": n,
            "message": {"role": "assistant", "content": None, "tool_calls": [n]},
            "finish_reason": "tool_calls",
        }
        for n in range(2)
    ]
    said = {
        "id": "x",
        "model": "y",
        "choices": choices,
        "usage": {"prompt_tokens_details": {"cached_tokens": 2}},
        "z": 1,
    }

    whole = Envelope("chat", "chatcmpl-1", "base:none:direct").whole(answer("", completion=said))

    assert [choice["message"]["tool_calls"] for choice in whole["choices"]] == [[0], [1]]
    assert (whole["id"], whole["model"], whole["z"]) == ("chatcmpl-1", "base:none:direct", 1)
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def chunk(head: str, **choice: Any) -> Chunk:
    body = {"index": 0, "delta": {}, "finish_reason": None} | choice
    raw = f'{head}"choices":[{json.dumps(body)}]}}'.encode()
    return Chunk(raw, json.loads(raw))


HEADS = {
    "as vLLM writes it": '{"id":"a","object":"chat.completion.chunk","created":1,"model":"pocket",',
    "without a model": '{"id":"a",',
    "with more before": '{"service":"x","id":"a","model":"pocket",',
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@given(pieces=st.lists(st.text(max_size=8), max_size=6))
def test_every_event_of_a_stream_has_our_name_and_its_own_words(head: str, pieces: list[str]) -> None:
    relay = Relay(Envelope("chat", "chatcmpl-1", "house:none:direct"), HITS)
    heard = [
        chunk(head, delta={"role": "assistant", "content": ""}),
        *(chunk(head, delta={"content": piece}, logprobs={"content": [piece]}) for piece in pieces),
        chunk(head, finish_reason="stop"),
    ]

    told = [json.loads(relay.heard(one).removeprefix(b"data: ")) for one in heard]

    assert {(one["id"], one["model"]) for one in told} == {("chatcmpl-1", "house:none:direct")}
    assert [one["choices"][0]["delta"].get("content", "") for one in told[1:-1]] == pieces
    assert [one["choices"][0]["logprobs"]["content"] for one in told[1:-1]] == [[piece] for piece in pieces]
    assert [("sources" in one, "annotations" in one["choices"][0]["delta"]) for one in told] == [
        (True, False),
        *[(False, False)] * len(pieces),
        (False, True),
    ]
    assert relay.text == "".join(pieces)


def test_an_event_that_names_its_model_last_is_renamed_too() -> None:
    relay = Relay(Envelope("chat", "chatcmpl-1", "house:none:direct"))
    raw = b'{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}],"id":"a","model":"pocket"}'

    told = [json.loads(relay.heard(Chunk(raw, json.loads(raw))).removeprefix(b"data: ")) for _ in range(2)]

    assert [one["model"] for one in told] == ["house:none:direct"] * 2


def test_tool_turns_reach_the_model_as_they_were_written_and_the_search_as_words() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "ring", "arguments": "{}"}}
    exchange = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "It rang.", "tool_call_id": "c"},
    ]
    messages = [*turns(("user", "Hi")), *exchange, *turns(("assistant", "Done."), ("user", "Again?")), *exchange]

    query = request(messages=messages, tools=[{"type": "function", "function": {"name": "ring"}}]).query()
    laid_out = [turn.as_sent() for turn in layout((), query, ())]

    assert (query.text, query.history) == ("Again?", ("Hi", "Done."))
    assert laid_out == [*messages[:4], {"role": "user", "content": "Question: Again?"}, *exchange]
