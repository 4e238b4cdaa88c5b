"""The kinds of strategy that are made of others: what each asks, in which words, and that it does something."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from retrieval.passage import Document, Hit, Query
from retrieval.retriever import Retriever
from retrieval.worked import ANSWER
from serve.chat import Answer, Conversation, Message, Reply, Sampling, Usage
from serve.layout import shown_in
from serve.pipeline import _answer
from serve.stack import Stack
from serve.strategies.best_of import BestOf
from serve.strategies.chain import Chain, Scratchpad
from serve.strategies.compress import Compress, compressed
from serve.strategies.decompose import Decompose
from serve.strategies.intent import Intent
from serve.strategies.kind import PROMPTS
from serve.strategies.kinds import Settings, build, needed
from serve.strategies.prompted import Prompted
from serve.strategies.second_look import SecondLook
from serve.strategies.summarise import Summarise

GOLDEN = Path(__file__).parent / "golden" / "prompts"

OWLS = Document(id="owls", title="Owls", text="Owls live in barns. An owl has two legs. Owls hoot at night.")
FOXES = Document(id="foxes", title="Foxes", text="Foxes live in dens. A fox has four legs. Foxes bark at night.")
BADGERS = Document(id="badgers", title="Badgers", text="Badgers live in setts. A badger has four legs.")
WORKED = Document(id="worked", title="", text="How many legs has a hen?", meta={ANSWER: "two"})
BOTH = Query("How many legs has an owl, and where do foxes live?")
OF: Mapping[str, Settings] = {
    "direct": Prompted(kind="direct"),
    "kind": Prompted(kind="instructed", instructions="Be kind."),
    "json": Prompted(kind="instructed", instructions="Answer as JSON."),
    "cot": Prompted(kind="cot", instructions="Think."),
}


@dataclass
class Teller:
    """A model that says one thing after another."""

    texts: Sequence[str]
    asked: list[tuple[Message, ...]] = field(default_factory=list)
    sampled: list[Sampling] = field(default_factory=list)
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=9, seed=4))

    async def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Reply:
        self.asked.append(tuple(messages))
        self.sampled.append(sampling or self.sampling)
        return Reply(text=self.texts[len(self.asked) - 1], usage=Usage(7, 3), finish_reason="stop", seconds=0.5)


@dataclass
class Library:
    """Finds the documents that share a word with the question; keeps what was searched for."""

    documents: Sequence[Document] = (OWLS, FOXES, BADGERS)
    searched: list[Query] = field(default_factory=list)

    async def search(self, query: Query) -> tuple[Hit, ...]:
        self.searched.append(query)
        words = query.text.casefold().replace("?", " ").replace(",", " ").split()
        found = [one for one in self.documents if one.id in words or one.id.rstrip("s") in words or one is WORKED]
        return tuple(Hit(one.cut(0, len(one.text)), 1 / n, n) for n, one in enumerate(found, start=1))


def built(settings: Settings) -> Callable[..., Any]:
    return build({**OF, "it": settings}, {})["it"]


async def ask(settings: Settings, model: Any, query: Query = BOTH, retriever: Retriever | None = None) -> Answer:
    return await _answer(built(settings), query, retriever or Library(), model)


# Prompts ------------------------------------------------------------------------------------------------------------

KINDS: Mapping[str, tuple[Settings, Sequence[str]]] = {
    "decompose-join": (
        Decompose(kind="decompose", of="kind", join=" and "),
        ("1. How many legs has an owl?\n2. Where do foxes live?", "Two [S1].", "In dens [S1]."),
    ),
    "decompose-then": (
        Decompose(kind="decompose", of="direct", then="kind"),
        ("How many legs has an owl?\nWhere do foxes live?", "Two.", "In dens.", "Two, and in dens."),
    ),
    "chain": (
        Chain(kind="chain", of="kind", steps=("Name the animals.", "Quote.")),
        ("Owl, fox.", "Two legs.", "Two."),
    ),
    "scratchpad": (Scratchpad(kind="scratchpad", of="kind"), ("S1 says two.", "Two.")),
    "second_look": (SecondLook(kind="second_look", of="kind"), ("Two.", "Two, and in dens.")),
    "best_of": (BestOf(kind="best_of", of="kind", samples=2), ("Two.", "Three.", "9", "1")),
    "intent": (Intent(kind="intent", routes={"legs": "kind", "homes": "cot"}, fallback="direct"), ("legs", "Two.")),
    "compress": (Compress(kind="compress", of="kind", keep=0.4), ("Two.",)),
    "summarise": (Summarise(kind="summarise", of="kind", to=50), ("Two legs.", "In dens.", "Two.")),
}


@pytest.mark.parametrize("name", KINDS)
async def test_every_prompt_of_a_kind_is_the_golden_one(name: str) -> None:
    """To accept a change: delete the file, run the tests twice, and review what git shows."""
    settings, texts = KINDS[name]
    model = Teller(texts)
    query = replace(BOTH, history=("Do you know animals?", "Some."))

    await ask(settings, model, query, Library((OWLS, FOXES, WORKED)))

    calls = ("".join(f"--- {one.role}\n{one.content}\n" for one in asked) for asked in model.asked)
    rendered = "\n".join(f"=== call {n}\n{call}" for n, call in enumerate(calls, start=1))
    golden = GOLDEN / f"flow-{name}.txt"
    if not golden.exists():
        golden.write_text(rendered, encoding="utf-8")
        pytest.fail(f"{golden} did not exist and was written")
    assert rendered == golden.read_text(encoding="utf-8")
    assert len(model.asked) == len(texts)


def test_a_run_is_keyed_by_the_prompts_of_its_kinds_and_none_is_shown_before_it_is_whole() -> None:
    for settings, _ in KINDS.values():
        assert not settings.streamed
        assert set(settings.prompts) == {one.name for one in PROMPTS.glob(f"{settings.name}*.txt")}
    asking = {settings.name for settings, _ in KINDS.values()} - {"chain", "compress"}
    assert {name for name in asking if (PROMPTS / f"{name}.txt").exists()} == asking


@pytest.mark.parametrize("name", KINDS)
async def test_ones_own_instructions_replace_ours(name: str) -> None:
    settings, texts = KINDS[name]
    if not hasattr(settings, "instructions"):
        return
    model = Teller(texts)

    await ask(replace(settings, instructions="As I say."), model)

    said = [one.content for asked in model.asked for one in asked]
    ours = (PROMPTS / f"{settings.name}.txt").read_text().partition("$")[0].strip()
    assert "As I say." in said
    assert not any(ours in one for one in said)


@pytest.mark.parametrize("name", KINDS)
async def test_a_question_among_calls_of_tools_keeps_its_turns(name: str) -> None:
    settings, texts = KINDS[name]
    model = Teller(texts)
    query = Conversation(BOTH.text, ("Who?", "I."), before=(Message("user", "Who?"), Message("assistant", "I.")))

    await ask(settings, model, query)

    assert all(Message("assistant", "I.") in asked for asked in model.asked)


# decompose ----------------------------------------------------------------------------------------------------------

PARTS = "How many legs has an owl?\nWhere do foxes live?"


def as_json(answer: str, *sources: int) -> str:
    return json.dumps({"answer": answer, "sources": sources})


async def test_parts_are_answered_each_with_its_own_passages_and_joined() -> None:
    library = Library()
    settings = Decompose(kind="decompose", of="direct", join="; ")

    answer = await ask(settings, Teller((PARTS, "Two [S1].", "Dens [S1][S7].")), retriever=library)

    assert answer.text == "Two [S1].; Dens [S2][S0].", "what a part was not shown stays a false citation"
    assert [one.text for one in library.searched] == PARTS.splitlines()
    assert [hit.passage.document for hit in answer.sources] == ["owls", "foxes"]
    assert (answer.notes, answer.usage) == ({"parts": 2.0}, Usage(21, 9))


async def test_blame_sees_every_passage_that_a_joined_answer_rests_on() -> None:
    settings = Decompose(kind="decompose", of="direct", join=" and ")

    answer = await ask(settings, Teller((PARTS, "Two", "Dens")), retriever=Library((*Library().documents, WORKED)))

    assert shown_in(answer.messages) == (f"Owls\n{OWLS.text}", f"Foxes\n{FOXES.text}")
    assert [one.passage.document for one in answer.sources] == ["owls", "foxes", "worked"], "passages before examples"
    assert [one.rank for one in answer.sources] == [1, 2, 3]


async def test_answers_that_are_json_are_joined_in_their_field_and_cite_the_union() -> None:
    settings = Decompose(kind="decompose", of="json", join=" and ", json="answer", cited="sources")
    texts = (PARTS, as_json("two", 1), as_json("dens", 1, 3))

    answer = await ask(settings, Teller(texts))
    broken = await ask(settings, Teller((PARTS, as_json("two", 1), "dens")))

    assert answer.text == as_json("two and dens", 0, 1, 2)
    assert broken.text == as_json("two", 1) + " and dens", "what is no JSON does not become it"


async def test_the_answers_to_the_parts_are_told_to_the_strategy_that_puts_them_together() -> None:
    model = Teller((PARTS, "Two.", "Dens.", "Two, and dens."))

    answer = await ask(Decompose(kind="decompose", of="direct", then="kind"), model)

    turns = [(one.role, one.content) for one in answer.messages]
    assert answer.text == "Two, and dens."
    assert ("assistant", "Two.") in turns
    assert ("user", "Where do foxes live?") in turns
    assert shown_in(answer.messages) == (f"Owls\n{OWLS.text}", f"Foxes\n{FOXES.text}")


@pytest.mark.parametrize("said", ["", "How many legs has an owl, and where do foxes live?", "<think>a\nb</think>One?"])
async def test_a_question_with_one_part_is_asked_as_it_stands(said: str) -> None:
    library = Library()

    answer = await ask(Decompose(kind="decompose", of="direct", join=" "), Teller((said, "Two.")), retriever=library)

    assert (answer.text, answer.notes, library.searched) == ("Two.", {"parts": 1.0}, [BOTH])


async def test_passages_of_the_union_stand_once_in_the_order_of_the_parts() -> None:
    parts = "What do foxes and owls eat?\nDo owls and badgers sleep?"

    answer = await ask(Decompose(kind="decompose", of="direct", join=" "), Teller((parts, "A [S2].", "B [S1][S2].")))

    assert [one.passage.document for one in answer.sources] == ["owls", "foxes", "badgers"]
    assert answer.text == "A [S2]. B [S1][S3]."


def test_how_parts_are_put_together_must_be_said_once() -> None:
    for wrong in ({}, {"join": " ", "then": "kind"}, {"then": "kind", "json": "answer"}, {"join": " ", "cited": "s"}):
        with pytest.raises(ValueError, match=r"`join`"):
            Decompose(kind="decompose", of="direct", **wrong)


# chain, scratchpad, second_look -------------------------------------------------------------------------------------


async def test_each_step_of_a_chain_knows_those_before_it_and_the_last_answer_too() -> None:
    library = Library()
    model = Teller(("Owl.", "<think>legs?</think>Two legs.", "Two."))

    answer = await ask(Chain(kind="chain", of="kind", steps=("Name it.", "Quote.")), model, retriever=library)

    said = [[one.content for one in asked if one.role == "assistant"] for asked in model.asked]
    assert said == [[], ["Owl."], ["Owl.", "Two legs."]]
    assert (answer.text, len(library.searched)) == ("Two.", 1)
    assert shown_in(answer.messages) == (f"Owls\n{OWLS.text}", f"Foxes\n{FOXES.text}")


async def test_what_stands_on_a_scratchpad_is_read_by_the_model_and_hidden_from_the_caller() -> None:
    model = Teller(("S1 says two legs.", "<think>So two.</think>\nTwo."))

    answer = await ask(Scratchpad(kind="scratchpad", of="kind"), model)

    assert Message("assistant", "S1 says two legs.") in model.asked[1]
    assert (answer.text, answer.completion, answer.notes) == ("Two.", None, {"hidden": 6.0})
    assert answer.steps == ("S1 says two legs.", "<think>So two.</think>\nTwo."), "whoever audits can read it"


async def test_a_second_look_is_the_answer_unless_nothing_is_seen() -> None:
    settings = SecondLook(kind="second_look", of="direct")

    better = await ask(settings, Teller(("Two.", "Two, and dens.")))
    same = await ask(settings, Teller(("Two.", "<think>Fine.</think>")))

    assert (better.text, better.notes) == ("Two, and dens.", {"changed": 1.0})
    assert (same.text, same.notes) == ("Two.", {"changed": 0.0})
    assert shown_in(better.messages) == (f"Owls\n{OWLS.text}", f"Foxes\n{FOXES.text}")


# best_of, intent ----------------------------------------------------------------------------------------------------


async def test_the_answer_that_the_model_grades_best_is_given_and_each_is_graded_once() -> None:
    model = Teller(("Three.", "two.", "three.", "4", "I say 9/10."))

    answer = await ask(BestOf(kind="best_of", of="direct"), model)

    assert (answer.text, answer.notes) == ("two.", {"confidence": 0.9, "different": 2.0})
    assert [one[-1].content.splitlines()[-1] for one in model.asked[3:]] == ["Answer: Three.", "Answer: two."]


async def test_of_answers_with_one_grade_the_commonest_is_given() -> None:
    model = Teller(("Three.", "Two.", "two.", "I cannot tell.", "Nor here."))

    answer = await ask(BestOf(kind="best_of", of="direct"), model)

    assert (answer.text, answer.notes) == ("Two.", {"confidence": 0.0, "different": 2.0})


async def test_of_one_answer_only_the_confidence_is_asked() -> None:
    model = Teller(("Two.", "no"))

    answer = await ask(BestOf(kind="best_of", of="direct", samples=1), model)

    assert (answer.text, answer.notes["confidence"], len(model.asked)) == ("Two.", 0.0, 2)


ROUTES = Intent(kind="intent", routes={"legs": "kind", "homes": "cot"}, fallback="direct")


@pytest.mark.parametrize(
    ("label", "system", "routed"), [("Legs.", "Be kind.", 1.0), ("homes", "Think.", 1.0), ("legs or homes", None, 0.0)]
)
async def test_a_question_is_answered_in_the_way_of_its_kind(label: str, system: str | None, routed: float) -> None:
    model = Teller((label, "Two."))

    answer = await ask(ROUTES, model)

    assert next((one.content for one in answer.messages if one.role == "system"), None) == system
    assert answer.notes["routed"] == routed


async def test_a_label_can_be_nothing_but_one_of_the_routes() -> None:
    model = Teller(("legs", "Two."))

    await ask(ROUTES, model)

    assert model.sampled[0].as_sent() == {
        **model.sampling.as_sent(),
        "structured_outputs": {"choice": ["legs", "homes"]},
    }
    assert hash(model.sampled[0]), "a run asks each prompt once, and looks it up by its sampling"
    assert model.sampled[1] == model.sampling


def test_every_route_is_a_part_of_the_strategy(tmp_path: Path) -> None:
    assert list(needed({**OF, "it": ROUTES}, ["it"])) == ["direct", "kind", "cot", "it"]
    (tmp_path / "stack.yaml").write_text(
        "model: a/b\nstrategies:\n  direct: {kind: direct}\n"
        "  it: {kind: intent, routes: {a: direct, b: it}, fallback: direct}\n"
        "  then: {kind: decompose, of: direct, then: direct}\n"
    )
    with pytest.raises(ValueError, match="is made of itself"):
        Stack.load(tmp_path / "stack.yaml")


# compress, summarise ------------------------------------------------------------------------------------------------


async def test_compression_keeps_what_shares_most_with_the_question_and_where_it_stands() -> None:
    query = Query("How many legs has an owl, or owls, and badgers?")

    answer = await ask(Compress(kind="compress", of="direct", keep=0.25), Teller(("Two.",)), query)
    whole = await ask(OF["direct"], Teller(("Two.",)), query)

    assert shown_in(answer.messages) == ("Owls\nAn owl has two legs.",)
    assert [one.passage.id for one in answer.sources] == ["owls@20-40"]
    assert sum(len(one.content) for one in answer.messages) < sum(len(one.content) for one in whole.messages)


async def test_sentences_that_stood_together_stay_together() -> None:
    hits = await Library().search(Query("owls foxes"))

    found = compressed("Where do owls live, and how many legs has an owl? Who has barns?", hits, keep=0.5)

    assert found[0].passage.text == "Owls live in barns. An owl has two legs."
    texts = {one.id: one.text for one in (OWLS, FOXES)}
    pieces = [one.passage for one in found]
    assert all(one.text == texts[one.document][one.start : one.end] for one in pieces)
    assert [one.rank for one in found] == list(range(1, len(found) + 1))


async def test_passages_that_share_nothing_with_the_question_are_shown_whole() -> None:
    hits = await Library().search(Query("owls foxes"))

    assert compressed("Quid?", hits, keep=0.1) == hits
    assert compressed("Quid?", (), keep=0.1) == ()


async def test_a_long_passage_is_told_in_short_until_it_fits() -> None:
    long = Document(id="owls", title="Owls", text="Owls hoot at night. " * 20)
    model = Teller((*["They hoot at night, says the page."] * 4, "They hoot.", "At night.", "Two."))
    settings = Summarise(kind="summarise", of="direct", to=40, at_once=100)

    answer = await ask(settings, model, Query("owls"), Library((long,)))

    assert shown_in(answer.messages) == ("Owls\nThey hoot.\nAt night.",)
    assert len(model.asked) == 7, "four pieces, then two pieces of what was told of them, then the question"


async def test_a_summary_claims_no_characters_and_what_fits_stays_as_it_is() -> None:
    model = Teller(("Hoot.", "Two."))

    answer = await ask(Summarise(kind="summarise", of="direct", to=50), model, Query("owls, badgers"))

    assert [one.passage.id for one in answer.sources] == ["owls@0-0", "badgers@0-46"]
    assert shown_in(answer.messages) == ("Owls\nHoot.", f"Badgers\n{BADGERS.text}")


async def test_a_model_that_makes_it_no_shorter_is_asked_no_more() -> None:
    model = Teller(("word " * 100, "Two."))

    answer = await ask(Summarise(kind="summarise", of="direct", to=50), model, Query("owls"))

    assert shown_in(answer.messages) == (f"Owls\n{OWLS.text}",)
    assert answer.sources[0].passage.id == "owls@0-60"
