"""Kinds of strategy that hold an answer to its passages, to a form, or to a confidence: each changes what is said."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from retrieval.files import FileError
from retrieval.passage import Document, Hit, Query
from retrieval.retriever import NoRetrieval, Retriever
from serve.chat import Answer, Message, Reply, Requested, Sampling, ServeError, Usage
from serve.pipeline import _answer
from serve.sampled import asking, sampled
from serve.stack import Stack
from serve.strategies.checked import Checked
from serve.strategies.confident import Confident
from serve.strategies.fact_check import FactCheck
from serve.strategies.fallback import Fallback
from serve.strategies.kinds import Settings, build
from serve.strategies.prompted import Prompted
from serve.strategies.quote_check import QuoteCheck
from serve.strategies.schema import Schema
from serve.strategies.vote import Vote
from serve.upstream import Line, Server, Upstream
from tests.serve_stub import echoing
from tests.test_serve_strategies import agrees_with

QUERY = Query("Which colour has the owl?")
SAYS = Sampling(max_tokens=9, seed=4)
GOLDEN = Path(__file__).parent / "golden" / "prompts"
FORM = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


@dataclass
class Told:
    """A model that answers what it is asked by a function of the last message, and keeps every prompt and sampling."""

    says: Callable[[str], str]
    logprobs: tuple[float, ...] = ()
    prompts: list[tuple[Message, ...]] = field(default_factory=list)
    asked: list[Sampling] = field(default_factory=list)
    sampling: Sampling = SAYS

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        self.prompts.append(tuple(messages))
        self.asked.append(sampling or self.sampling)
        text = self.says(messages[-1].content)
        return Reply(text=text, usage=Usage(7, 3), finish_reason="stop", seconds=0.5, logprobs=self.logprobs)


class Found:
    """Two passages, whatever is asked."""

    async def search(self, query: Query) -> tuple[Hit, ...]:
        texts = {"Owls": "The owl is dark red. It hoots.", "Foxes": "The fox is white. It barks."}
        documents = [Document(id=title, title=title, text=text) for title, text in texts.items()]
        return tuple(Hit(one.cut(0, len(one.text)), 1.0, n) for n, one in enumerate(documents, start=1))


async def made(settings: Settings, model: Told, retriever: Retriever | None = None) -> Answer:
    """What this kind makes of the question, where `first` and `second` are there to be made of."""
    named: dict[str, Settings] = {
        "first": Prompted(kind="direct"),
        "second": Prompted(kind="instructed", instructions="Be careful."),
        "confident": Confident(kind="confident", of="first"),
        "this": settings,
    }
    return await _answer(build(named, {})["this"], QUERY, retriever or Found(), model)


def reader(answer: str, supported: str = "") -> Callable[[str], str]:
    """A model that gives this answer, and says yes to claims with these words in them."""

    def says(content: str) -> str:
        claim = content.rpartition("\n\nClaim: ")[2]
        return answer if claim == content else "yes" if supported and supported in claim else "no"

    return says


# ---- fact_check


async def test_an_answer_that_the_passages_do_not_support_is_blocked() -> None:
    model = Told(reader("It is green like a lime. It hoots in the dark night.", supported="hoots"))

    answer = await made(FactCheck(kind="fact_check", of="first", instead="not stated"), model)

    assert answer.text == "not stated"
    assert answer.notes == {"claims": 2, "confidence": 0.5, "blocked": 1}
    assert [one.content.rpartition("Claim: ")[2] for *_, one in model.prompts[1:]] == [
        "It is green like a lime.",
        "It hoots in the dark night.",
    ]


async def test_one_that_they_support_well_enough_is_told_as_it_was() -> None:
    model = Told(reader("It is green like a lime. It hoots in the dark night.", supported="hoots"))

    answer = await made(FactCheck(kind="fact_check", of="first", threshold=0.5), model)

    assert answer.text == "It is green like a lime. It hoots in the dark night."
    assert answer.notes == {"claims": 2, "confidence": 0.5, "blocked": 0}
    assert answer.usage == Usage(21, 9), "checking is paid for"


async def test_a_claim_is_put_as_the_golden_prompt_has_it_and_can_be_answered_by_yes_or_no_alone() -> None:
    model = Told(reader('{"answer": "dark red", "sources": [1]}', supported="dark red"))

    answer = await made(FactCheck(kind="fact_check", of="first", json="answer"), model)

    agrees_with(GOLDEN / "fact_check.txt", model.prompts[1])
    assert model.asked[1].as_sent()["structured_outputs"] == {"choice": ["yes", "no"]}
    assert (answer.text, answer.notes["blocked"]) == ('{"answer": "dark red", "sources": [1]}', 0)


async def test_a_check_is_greedy_and_has_no_seed_that_the_stack_has_not() -> None:
    model = Told(reader("Red.", supported="Red"), sampling=Sampling(temperature=0.7))

    await made(FactCheck(kind="fact_check", of="first"), model)

    assert [(one.temperature, one.seed) for one in model.asked] == [(0.7, None), (0.0, None)]


async def test_without_passages_a_claim_rests_on_nothing_and_nobody_is_asked() -> None:
    model = Told(reader("Red.", supported="Red"))

    answer = await made(FactCheck(kind="fact_check", of="first"), model, NoRetrieval())

    assert (answer.text, answer.notes["blocked"], len(model.prompts)) == ("unknown", 1, 1)


@pytest.mark.parametrize("kind", [FactCheck(kind="fact_check", of="first"), QuoteCheck(kind="quote_check", of="first")])
async def test_who_says_not_to_know_claims_nothing_and_is_not_checked(kind: Settings) -> None:
    model = Told(reader(" Unknown."))

    answer = await made(kind, model)

    assert (answer.text, answer.notes["blocked"], len(model.prompts)) == (" Unknown.", 0, 1)


def test_not_knowing_is_told_in_the_form_of_the_answers() -> None:
    kind = Checked(of="first", json="answer", instead='{"answer": "unknown", "sources": []}')

    assert kind.abstains('{"answer": "Unknown", "sources": [2]}')
    assert not kind.abstains('{"answer": "unknown red", "sources": []}')


# ---- quote_check


@pytest.mark.parametrize(
    ("said", "told", "notes"),
    [
        ('It is "dark red" [S1].', 'It is "dark red" [S1].', (1, 1, 1, 0)),
        ('It is "dark red" [S2].', "unknown", (1, 0, 0, 1)),
        ('It is "dark red" [S7].', "unknown", (1, 0, 0, 1)),
        ("It is dark red.", "unknown", (0, 0, 0, 1)),
        ('"Dark  red" and "loud" [S1].', '"Dark  red" and [...].', (2, 1, 0.5, 0)),
    ],
)
async def test_a_quote_must_stand_in_what_it_cites(said: str, told: str, notes: tuple[float, ...]) -> None:
    answer = await made(QuoteCheck(kind="quote_check", of="first", threshold=0.5), Told(reader(said)))

    assert answer.text == told
    assert answer.notes == dict(zip(("quotes", "found", "confidence", "blocked"), notes, strict=True))


@pytest.mark.parametrize(("value", "cited", "blocked"), [("dark red", 1, 0), ("dark red", 2, 1), ("dark", 1, 0)])
async def test_the_field_of_a_json_answer_is_its_quote(value: str, cited: int, blocked: int) -> None:
    said = json.dumps({"answer": value, "sources": [cited]})
    instead = '{"answer": "unknown", "sources": []}'

    kind = QuoteCheck(kind="quote_check", of="first", json="answer", instead=instead)
    answer = await made(kind, Told(reader(said)))

    assert (answer.text, answer.notes["blocked"]) == (instead if blocked else said, blocked)


# ---- schema


def sent(model: Told) -> Mapping[str, Any]:
    return model.asked[0].as_sent()


async def test_a_schema_goes_to_the_engine_and_the_rest_of_the_sampling_stays() -> None:
    model = Told(reader("{}"))

    await made(Schema(kind="schema", of="first", schema=FORM), model)

    form = {"name": "reply", "schema": FORM, "strict": True}
    demanded = {"response_format": {"type": "json_schema", "json_schema": form}}
    assert sent(model) == {**SAYS.as_sent(), **demanded}


async def test_choices_go_to_the_engine() -> None:
    model = Told(reader("red"))

    await made(Schema(kind="schema", of="first", choices=("red", "white")), model)

    assert sent(model)["structured_outputs"] == {"choice": ["red", "white"]}


async def test_a_schema_can_lie_in_a_file_of_the_stack(tmp_path: Path) -> None:
    (tmp_path / "form.json").write_text(json.dumps(FORM))
    (tmp_path / "stack.yaml").write_text(
        "model: a/b\nstrategies: {direct: {kind: direct}, formed: {kind: schema, of: direct, file: form.json}}\n"
    )
    settings = Stack.load(tmp_path / "stack.yaml").strategies["formed"]

    assert isinstance(settings, Schema)
    assert settings.demanded() == FORM
    assert settings.files == {"file": tmp_path / "form.json"}, "a run is keyed by its content"


def test_what_is_no_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "form.json").write_text("[]")
    with pytest.raises(FileError, match=r"form.json: a JSON schema is an object"):
        Schema(kind="schema", of="first", file=tmp_path / "form.json").demanded()
    with pytest.raises(ValueError, match="one of `schema`"):
        Schema(kind="schema", of="first", schema=FORM, choices=("a",))


def test_what_is_asked_for_adds_up_and_calls_that_ask_for_other_things_are_not_the_same() -> None:
    both = asking(asking(Told(reader("")), logprobs=True), n=1)
    other = asking(Told(reader("")), logprobs=False, n=1)
    hot = sampled(both, temperature=0.5)

    assert isinstance(hot.sampling, Requested)
    assert hot.sampling.more == {"logprobs": True, "n": 1}
    assert len({both.sampling: 1, other.sampling: 2, hot.sampling: 3, SAYS: 4}) == 4, "calls are shared by it"


# ---- confident and fallback


async def test_a_confidence_is_the_geometric_mean_of_the_tokens_probabilities() -> None:
    model = Told(reader("red"), logprobs=(math.log(0.9), math.log(0.4)))

    answer = await made(Confident(kind="confident", of="first"), model)

    assert answer.notes == {"confidence": pytest.approx(0.6)}
    assert sent(model)["logprobs"] is True


async def test_the_confidence_is_that_of_the_call_in_which_the_answer_stands() -> None:
    """Of a checked answer it is not that of the check."""

    @dataclass
    class Sure(Told):
        async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
            reply = await Told.chat(self, messages, sampling)
            sure = math.log(0.5 if reply.text == "It is red." else 1.0)
            return Reply(text=reply.text, usage=Usage(), finish_reason="stop", seconds=0, logprobs=(sure,))

    named: dict[str, Settings] = {
        "first": Prompted(kind="direct"),
        "checked": FactCheck(kind="fact_check", of="first"),
        "this": Confident(kind="confident", of="checked"),
    }
    model = Sure(reader("It is red.", supported="red"))
    answer = await build(named, {})["this"](QUERY, Found(), model)

    assert answer.notes["confidence"] == pytest.approx(0.5)


async def test_a_server_that_tells_no_probabilities_is_no_confidence_of_none() -> None:
    with pytest.raises(ServeError, match="tells no log-probabilities"):
        await made(Confident(kind="confident", of="first"), Told(reader("red")))


async def test_the_servers_probabilities_reach_the_reply() -> None:
    with echoing() as echo:
        async with Line(Server((echo.url,))) as line:
            model = Upstream(line, "tiny", SAYS)
            told = await asking(model, logprobs=True).chat((Message("user", "Who?"),))
            untold = await model.chat((Message("user", "Who?"),))

    assert (told.logprobs, untold.logprobs) == ((-4.0,), ())


@pytest.mark.parametrize(("probability", "text"), [(0.9, "first"), (0.5, "second")])
async def test_below_the_threshold_another_strategy_answers(probability: float, text: str) -> None:
    class Two(Told):
        async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
            self.says = lambda _: "second" if messages[0].content == "Be careful." else "first"
            return await Told.chat(self, messages, sampling)

    settings = Fallback(kind="fallback", of="confident", threshold=0.8, otherwise="second")
    answer = await made(settings, Two(str, logprobs=(math.log(probability),)))

    assert (answer.text, answer.notes) == (
        text,
        {"confidence": pytest.approx(probability), "fallback": float(text == "second")},
    )


async def test_or_it_is_handed_over_in_fixed_words() -> None:
    settings = Fallback(kind="fallback", of="confident", threshold=0.8, words="A colleague will answer.")

    answer = await made(settings, Told(reader("red"), logprobs=(math.log(0.5),)))

    assert (answer.text, answer.notes["fallback"]) == ("A colleague will answer.", 1)


async def test_what_states_no_confidence_cannot_be_fallen_back_from() -> None:
    with pytest.raises(ServeError, match="'first' states no confidence"):
        await made(Fallback(kind="fallback", of="first", threshold=0.8, words="No."), Told(reader("red")))
    with pytest.raises(ValueError, match="one of `otherwise`"):
        Fallback(kind="fallback", of="first", threshold=0.8)


async def test_kinds_are_made_of_each_other() -> None:
    named: dict[str, Settings] = {
        "first": Prompted(kind="direct"),
        "formed": Schema(kind="schema", of="first", schema=FORM),
        "vote": Vote(kind="vote", of="formed", samples=3),
        "this": Confident(kind="confident", of="vote"),
    }
    model = Told(reader("red"), logprobs=(math.log(0.5),))

    await build(named, {})["this"](QUERY, Found(), model)

    assert len({one.seed for one in model.asked}) == 3
    assert all({"response_format", "logprobs"} <= one.as_sent().keys() for one in model.asked)
