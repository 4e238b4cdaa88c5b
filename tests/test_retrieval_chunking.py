"""Passages stand where they say they stand, and nothing is lost between them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.chunking import passages, spans
from retrieval.manifest import BuildSettings
from retrieval.passage import Document, RetrievalError

TEXTS = st.text(alphabet="ab.!?\"') \n\t\u00a0é漢🦊", max_size=400)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    size = draw(st.integers(1, 60))
    return size, draw(st.integers(0, (size - 1) // 2))


@given(TEXTS, sizes())
def test_a_passage_is_a_piece_of_its_document(text: str, size: tuple[int, int]) -> None:
    document = Document(id="d", title="T", text=text, meta={"year": 1})

    for piece in passages(document, *size):
        assert piece.text == text[piece.start : piece.end]
        assert len(piece.text) <= size[0]
        assert piece.text == piece.text.strip()
        assert (piece.document, piece.title, piece.meta) == ("d", "T", {"year": 1})


@given(TEXTS, sizes())
def test_every_visible_character_is_in_some_passage(text: str, size: tuple[int, int]) -> None:
    covered = {position for start, end in spans(text, *size) for position in range(start, end)}

    assert covered >= {position for position, character in enumerate(text) if not character.isspace()}


@given(TEXTS, sizes())
def test_passages_move_forward_and_repeat_no_more_than_the_overlap(text: str, size: tuple[int, int]) -> None:
    found = list(spans(text, *size))

    for (start, end), (next_start, next_end) in pairwise(found):
        assert start < next_start
        assert end < next_end
        assert end - next_start <= size[1]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Short enough.", ["Short enough."]),
        ("First paragraph.\n\nSecond one. More of it.", ["First paragraph.", "Second one. More of it."]),
        ("The first is here. Two is there.", ["The first is here.", "Two is there."]),
        ("no full stop in this long line", ["no full stop in this long", "line"]),
        ("x" * 60, ["x" * 25, "x" * 25, "x" * 10]),
        (" \n ", []),
    ],
)
def test_a_text_is_cut_at_the_best_place_there_is(text: str, pieces: list[str]) -> None:
    assert [text[start:end] for start, end in spans(text, 25, 0)] == pieces


def test_a_document_that_is_only_a_title_can_still_be_found() -> None:
    (piece,) = passages(Document(id="d", title="Varn Treaty", text=""), 100, 10)

    assert (piece.title, piece.text, piece.id) == ("Varn Treaty", "", "d@0-0")


@pytest.mark.parametrize(("size", "overlap"), [(100, 50), (0, 0), (-5, 0), (100, -1)])
def test_an_overlap_that_would_not_move_forward_is_refused(size: int, overlap: int) -> None:
    with pytest.raises(RetrievalError, match="overlap"):
        BuildSettings(size=size, overlap=overlap)
