"""Which domain a question belongs to."""

import asyncio
import doctest
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from retrieval import route
from retrieval.batch import Vectors
from retrieval.files import FileError, read_yaml
from retrieval.passage import RetrievalError
from retrieval.route import Router, RouteSettings, introduction, open_router, read_labelled

WORDS = ("long", "coal", "dose", "drops")
LABELLED = [(f"how {word} n{n}", "harbour" if word in WORDS[:2] else "clinic") for n in range(4) for word in WORDS]


class Embedder:
    """Counts words; fails the first `outages` times it is asked."""

    def __init__(self, outages: int = 0) -> None:
        self.asked: list[str] = []
        self.outages = outages

    async def __call__(self, text: str) -> Vectors:
        self.asked.append(text)
        is_out = len(self.asked) <= self.outages
        await asyncio.sleep(0)
        if is_out:
            raise ConnectionError("no embedder")
        return np.array([text.split().count(word) for word in WORDS], dtype=np.float32)


def write(file: Path, rows: Sequence[object]) -> RouteSettings:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RouteSettings(questions=file, label="domain")


def rows(**counts: int) -> list[object]:
    return [{"question": "how?", "meta": {"domain": name}} for name, count in counts.items() for _ in range(count)]


def test_what_the_doctests_say() -> None:
    assert doctest.testmod(route).failed == 0


async def test_a_question_goes_where_its_like_belong() -> None:
    router = Router(Embedder(), LABELLED)

    found = [await router.label(text) for text in ("coal and long", "the dose in drops", "coal", "drops")]

    assert found == ["harbour", "clinic", "harbour", "clinic"]


async def test_it_learns_with_the_first_question_once_for_all_who_ask() -> None:
    embed = Embedder()
    router = Router(embed, LABELLED)
    assert embed.asked == []

    found = await asyncio.gather(*(router.label("coal") for _ in range(20)))

    assert set(found) == {"harbour"}
    assert sorted(embed.asked) == sorted([question for question, _ in LABELLED] + 20 * ["coal"])


def test_it_answers_in_any_event_loop() -> None:
    router = Router(Embedder(), LABELLED)

    assert [asyncio.run(router.label("coal")), asyncio.run(router.label("dose"))] == ["harbour", "clinic"]


async def test_after_an_outage_it_learns_when_it_is_asked_again() -> None:
    router = Router(Embedder(outages=1), LABELLED)

    with pytest.raises(ConnectionError, match="no embedder"):
        await router.label("coal")

    assert await router.label("coal") == "harbour"


async def test_who_gives_up_waiting_takes_nothing_from_the_others() -> None:
    router = Router(Embedder(), LABELLED)
    impatient, patient = (asyncio.ensure_future(router.label("coal")) for _ in range(2))
    await asyncio.sleep(0)

    impatient.cancel()

    assert await patient == "harbour"


async def test_two_routers_that_learnt_the_same_are_the_same() -> None:
    one, other = Router(Embedder(), LABELLED), Router(Embedder(), LABELLED)

    await one.label("coal")
    await other.label("dose")

    assert np.array_equal(one._learnt().result().coef_, other._learnt().result().coef_)


def test_labels_are_read_as_text(tmp_path: Path) -> None:
    settings = write(tmp_path / "q.jsonl", [{"question": "how?", "meta": {"domain": 3}}])

    assert read_labelled(settings) == [("how?", "3")]


def test_every_line_that_teaches_nothing_is_named(tmp_path: Path) -> None:
    settings = write(
        tmp_path / "q.jsonl",
        [{"question": " "}, {"question": "how?"}, *rows(harbour=9), {"question": "how?", "meta": {"domain": ["a"]}}],
    )

    with pytest.raises(FileError) as error:
        open_router(settings, Embedder())

    assert str(error.value).splitlines() == [
        f"{settings.questions}:1: question: expected a text",
        f"{settings.questions}:2: meta.domain: expected a text, the question's label",
        f"{settings.questions}:12: meta.domain: expected a text, the question's label",
    ]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "here are only no label at all"),
        ({"harbour": 9}, "here are only harbour"),
        ({"harbour": 9, "clinic": 4}, r"too few for clinic \(4\)"),
    ],
)
def test_too_little_to_learn_from_is_refused_when_it_is_opened(
    tmp_path: Path, counts: dict[str, int], said: str
) -> None:
    with pytest.raises(RetrievalError, match=said):
        open_router(write(tmp_path / "q.jsonl", rows(**counts)), Embedder())


def test_a_text_about_a_domain_that_no_question_has_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", rows(harbour=5, clinic=5)).questions
    settings = RouteSettings(questions=file, label="domain", about={"habour": "Lengths are in metres."})

    with pytest.raises(RetrievalError, match=r"labelled habour; there are clinic, harbour"):
        open_router(settings, Embedder())


def test_settings_that_say_nothing_are_refused() -> None:
    with pytest.raises(RetrievalError, match=r"route\.label is blank"):
        RouteSettings(questions=Path("q.jsonl"), label=" ")
    with pytest.raises(RetrievalError, match="the text for harbour is blank"):
        RouteSettings(questions=Path("q.jsonl"), label="domain", about={"harbour": ""})


def test_what_is_shown_first_about_a_domain() -> None:
    shown = introduction({"harbour": "Lengths are in metres."}, "harbour")

    assert shown is not None
    assert (shown.document, shown.title, shown.text) == (
        "about:harbour",
        "About: harbour",
        "Lengths are in metres.",
    )
    assert introduction({}, "harbour") is None


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    settings = RouteSettings(questions=Path("q.jsonl"), label="domain")

    assert settings.under(tmp_path).questions == tmp_path.resolve() / "q.jsonl"


def test_settings_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "route.yaml").write_text(
        "questions: q.jsonl\nlabel: domain\nabout: {harbour: Lengths are in metres.}\n"
    )

    read = read_yaml(tmp_path / "route.yaml", RouteSettings)

    assert read == RouteSettings(questions=Path("q.jsonl"), label="domain", about={"harbour": "Lengths are in metres."})
