"""What a capture keeps is whole lines that can be read again, whatever the disk, the caller or a power cut does."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.files import FileError
from serve import capture
from serve.asked import Refusal, read
from serve.capture import Capture, Feedback, read_captured
from serve.chat import ServeError
from tests.exchanges import HIT, answered
from tests.logs import told

ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@given(texts=st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT.filter(str.strip)), min_size=1, max_size=5))
def test_what_was_said_is_read_again_as_it_was(
    texts: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("kept") / "chats.jsonl"
    with Capture(file) as kept:
        for number, (asked, said, better) in enumerate(texts):
            kept.observe(answered(id=f"c{number}", messages=({"role": "user", "content": asked},), text=said))
            kept.hear(Feedback(id=f"c{number}", rating="down", correction=better))

    read = read_captured(file)

    assert [(one.messages[0]["content"], one.text, one.correction) for one in read] == texts
    assert all((one.rating, one.sources, one.combination) == ("down", (HIT,), answered().combination) for one in read)


def test_later_feedback_counts_key_by_key(tmp_path: Path) -> None:
    with Capture(tmp_path / "chats.jsonl") as kept:
        kept.observe(answered())
        kept.hear(Feedback(id="chatcmpl-r1", rating="up", correction="Mira Tall"))
        kept.hear(Feedback(id="r1", rating="down"))

    (chat,) = read_captured(tmp_path / "chats.jsonl")

    assert (chat.rating, chat.correction) == ("down", "Mira Tall")


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    new, old = tmp_path / "deep" / "new.jsonl", tmp_path / "old.jsonl"
    old.touch(0o666)

    for file in (new, old):
        Capture(file).__exit__()

    assert [stat.S_IMODE(file.stat().st_mode) for file in (new, old)] == [0o600, 0o600]


@pytest.mark.parametrize(
    "left_out", [answered(status=502, error="broke off"), answered(status=499), answered(route="search")]
)
def test_only_chats_that_were_answered_whole_are_kept(left_out: object, tmp_path: Path) -> None:
    with Capture(tmp_path / "chats.jsonl") as kept:
        kept.observe(left_out)  # type: ignore[arg-type]

        with pytest.raises(Refusal, match="no captured chat"):
            kept.hear(Feedback(id="r1", rating="up"))

    assert (tmp_path / "chats.jsonl").read_bytes() == b""


def test_a_restart_still_knows_what_was_kept_and_drops_half_a_line(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    with Capture(file) as kept:
        kept.observe(answered(id='odd " id'))
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:40])

    with Capture(file) as again:
        again.hear(Feedback(id='odd " id', rating="up"))

    assert [one.rating for one in read_captured(file)] == ["up"]


def test_a_file_of_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("Dear diary,\nno line end here")

    with pytest.raises(ServeError, match="no captured chat"):
        Capture(tmp_path / "diary.txt")

    assert (tmp_path / "diary.txt").read_text().endswith("no line end here")


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "MOST_IDS", 3)
    with Capture(tmp_path / "chats.jsonl") as kept:
        for number in range(5):
            kept.observe(answered(id=f"c{number}"))

        kept.hear(Feedback(id="c2", rating="up"))
        with pytest.raises(Refusal) as refused:
            kept.hear(Feedback(id="c1", rating="up"))

    assert refused.value.status == 404


def test_full_files_stay_beside_the_one_that_is_written_and_are_read_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two chats fill a file. What is said later of a chat in one of them counts, after a restart too."""
    file = tmp_path / "chats [1].jsonl"
    with Capture(file) as kept:
        kept.observe(answered(id="c0"))
        monkeypatch.setattr(capture, "PIECE_BYTES", file.stat().st_size + 1)
        for number in range(1, 5):
            kept.observe(answered(id=f"c{number}"))
        kept.hear(Feedback(id="c0", rating="up"))
        with pytest.raises(ServeError, match="another gateway captures"):
            Capture(file)
    with Capture(file) as again:
        again.hear(Feedback(id="c2", rating="down"))

    names = sorted(one.name for one in tmp_path.iterdir())
    assert names == [file.name, *(f"{file.name}.000{number}" for number in (1, 2, 3))]
    assert {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()} == {0o600}
    read = read_captured(file)
    assert [one.id for one in read] == [f"c{number}" for number in range(5)]
    assert [one.rating for one in read] == ["up", None, "down", None, None]


def test_where_no_other_file_can_be_made_a_full_one_takes_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def refused(*_: object) -> int:
        raise OSError(24, "Too many open files")

    file = tmp_path / "chats.jsonl"
    monkeypatch.setattr(capture, "PIECE_BYTES", 1)
    with Capture(file) as kept:
        kept.observe(answered(id="c0"))
        with monkeypatch.context() as full:
            full.setattr(os, "open", refused)
            kept.observe(answered(id="c1"))
        kept.observe(answered(id="c2"))

    assert [one.id for one in read_captured(file)] == ["c0", "c1", "c2"]
    assert len([*tmp_path.iterdir()]) == 2


def test_two_gateways_do_not_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    with Capture(file):
        before = held_open(file)
        with pytest.raises(ServeError, match="another gateway captures"):
            Capture(file)
        assert held_open(file) == before > 0

    Capture(file).__exit__()
    assert held_open(file) == 0


def held_open(file: Path) -> int:
    """How often this process has it open; of its other files, some may be those of another test's threads."""
    return sum(os.path.realpath(one) == str(file) for one in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("place", [lambda folder: folder, lambda folder: folder / "a_file" / "chats.jsonl"])
def test_a_place_that_takes_no_chats_is_refused_at_the_door(place: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()

    with pytest.raises(ServeError, match=r"chats cannot be kept here .*`capture:`"):
        Capture(place(tmp_path))


def test_a_full_disk_fails_no_answer_is_said_once_and_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A quarter of the third line still goes in, and nothing of the fourth."""
    file = tmp_path / "chats.jsonl"
    with Capture(file) as kept:
        kept.observe(answered(id="c0"))
        with monkeypatch.context() as full:
            real = os.write
            full.setattr(os, "write", lambda handle, line: real(handle, line[: len(line) // 4]))
            for number in range(1, 4):
                kept.observe(answered(id=f"c{number}"))
            with pytest.raises(Refusal) as refused:
                kept.hear(Feedback(id="c0", rating="up"))
        kept.observe(answered(id="c4"))

    assert refused.value.status == 503
    assert [one.id for one in read_captured(file)] == ["c0", "c4"]
    no_longer, again = told(caplog)
    assert "chats are no longer kept" in no_longer
    assert "chats are kept again; 3 were lost" in again


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"id": "c", "rating": "up", "stars": 5}, "stars"),
        ({"id": "c", "rating": 5}, "rating"),
        ({"id": "c"}, "a rating"),
        ({"rating": "up"}, "id"),
        ({"id": "c", "comment": "x" * 20_001}, "comment"),
        ([], "dictionary|object"),
    ],
)
def test_feedback_that_says_nothing_or_too_much_is_refused_by_name(body: object, said: str) -> None:
    with pytest.raises(Refusal, match=said) as refused:
        read(Feedback, json.dumps(body).encode())

    assert refused.value.status == 400


def test_a_line_that_is_neither_chat_nor_feedback_is_named(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text('{"id": "c", "text": "half"}\n')

    with pytest.raises(FileError, match=r"chats.jsonl:1: is neither a captured chat nor feedback"):
        read_captured(tmp_path / "chats.jsonl")
