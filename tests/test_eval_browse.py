"""The files of answers: everything is in them, each text once, and none of it is ever more than data."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from eval import report
from eval.analysis import Analysis, analyse
from eval.browse import FOLDER, pieces, write_answers
from eval.folder import Results
from eval.leaks import Check, Leaks, Sighting
from eval.material import Material
from eval.record import Failure, Record
from eval.report import save
from serve.chat import Message
from serve.combination import GOLD, Combination
from tests.eval_simulation import grid_of, simulate

GRID = grid_of(["base", "tuned"], ["none", "dense", "gold"], ["direct", "brief"], "base:none:direct")
VOTED = Combination.parse("tuned:dense:brief")
EVIL = '</script><script>alert(1)</script><!-- \u2028\u2029 "quoted" \\ __proto__ \ud800'


@pytest.fixture(scope="module")
def results() -> Results:
    found = simulate(GRID, lambda cell, part: 0.4 + 0.3 * (cell.retriever != "none"), 30, 0)
    answers = {item: voted(record) for item, record in found.records[VOTED].items()}
    return replace(found, records={**found.records, VOTED: answers})


def voted(record: Record) -> Record:
    """As from a strategy that asks more than once."""
    return replace(record, notes={"confidence": 0.6667, "blocked": 0}, steps=("Let me see.", record.text))


def index_of(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    (file,) = (folder / FOLDER).glob("index-*.js")
    index, parts = data_of(file)
    return index, parts


def data_of(file: Path) -> list[Any]:
    """What a file of data calls the program with."""
    call = re.fullmatch(r"fulcrum\.\w+\((.*)\);\n", file.read_text(encoding="utf-8"), re.DOTALL)
    assert call
    return json.loads(f"[{call[1]}]")


def each_question(folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each question with the chunk that holds it, in order."""
    _, parts = index_of(folder)
    chunks = [data_of(folder / FOLDER / name)[1] for _, name in parts]
    found = [(one, chunk) for chunk in chunks for one in chunk["questions"]]
    assert [first for first, _ in parts] == [
        sum(len(chunk["questions"]) for chunk in chunks[:place]) for place in range(len(chunks))
    ]
    return found


def read_back(answer: list[Any], chunk: dict[str, Any], record: Record, scorers: list[str]) -> Record:
    """The record that an answer in a file tells of."""
    prompt, sources, text, scores, before, after, seconds, ended, *told = answer
    notes, steps = told or ({}, ())
    texts = chunk["texts"]
    turns = [Message(role, "".join(texts[one] for one in cut)) for role, cut in chunk["prompts"][prompt]]
    return replace(
        record,
        prompt=tuple(turns),
        sources=tuple(
            replace(old, passage=texts[new[0]], score=new[1])
            for old, new in zip(record.sources, chunk["sources"][sources], strict=True)
        ),
        text=texts[text],
        scores=dict(zip(scorers, scores, strict=True)),
        usage=replace(record.usage, prompt_tokens=before, completion_tokens=after),
        seconds=seconds,
        finish_reason=texts[ended],
        notes=notes,
        steps=tuple(texts[one] for one in steps),
    )


@pytest.mark.parametrize("enough", [200_000, 500])
def test_every_record_can_be_read_back(
    enough: int, results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.browse.ENOUGH", enough)

    write_answers(analyse(results), tmp_path)

    index, parts = index_of(tmp_path)
    cells = [Combination.parse(name) for name in index["cells"]]
    assert set(cells) == set(results.records)
    assert (len(parts) > 1) == (enough == 500)
    for example, (one, chunk) in zip(results.examples, each_question(tmp_path), strict=True):
        assert (one["question"], tuple(one["gold"])) == (example.question, example.answers)
        for cell, answer in zip(cells, one["answers"], strict=True):
            record = results.records[cell][example.id]
            assert read_back(answer, chunk, record, index["scorers"]) == replace(
                record, seconds=round(record.seconds, 4)
            )


def test_of_more_questions_than_a_browser_can_look_through_some_are_there_and_the_page_says_so(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.browse.MOST", 7)

    page = save(analyse(results), tmp_path).read_text()

    ids = [row[0] for row in index_of(tmp_path)[0]["questions"]]
    asked = [one.id for one in results.examples]
    assert (len(ids), len(asked)) == (7, 30)
    assert ids == [item for item in asked if item in ids]
    assert [one["question"] for one, _ in each_question(tmp_path)] == [
        one.question for one in results.examples if one.id in ids
    ]
    assert "Here are 7 of the 30 questions, drawn by lot" in page
    assert all(item in ids for item in re.findall(r"#answers\?cell=[^\"]*;id=(\w+)", page))


def test_the_index_has_the_scores_and_leaves_of_the_analysis(results: Results, tmp_path: Path) -> None:
    analysis = analyse(results)

    write_answers(analysis, tmp_path)

    index, _ = index_of(tmp_path)
    named = {code: name for code, name, _, _ in index["leaves"]}
    assert index["cells"] == [row.combination for row in analysis.rows]
    assert index["cells"][index["baseline"]] == "base:none:direct"
    for name, scores, codes in zip(index["cells"], index["scores"], index["codes"], strict=True):
        cell = Combination.parse(name)
        assert scores == [record.scores["exact"] for record in results.records[cell].values()]
        assert [named[code] for code in codes] == list(analysis.blamed[cell].values())


def test_a_missing_answer_has_its_reason_and_one_that_was_never_asked_has_none(
    results: Results, tmp_path: Path
) -> None:
    cell, oracle = Combination("base", "dense", "direct"), Combination("base", GOLD, "direct")
    unmarked = (replace(results.examples[0], evidence=()), *results.examples[1:])
    records = {
        one: {item: record for item, record in found.items() if (one, item) not in ((cell, "q0"), (oracle, "q0"))}
        for one, found in results.records.items()
    }
    failure = Failure(id="q0", combination=cell, reason="the engine died", attempts=3)

    write_answers(
        analyse(
            replace(results, examples=unmarked, records=records, failures={**results.failures, cell: {"q0": failure}})
        ),
        tmp_path,
    )

    index, _ = index_of(tmp_path)
    one, chunk = each_question(tmp_path)[0]
    reason, attempts = one["answers"][index["cells"].index(str(cell))]
    place = index["cells"].index(str(oracle))
    assert (chunk["texts"][reason], attempts) == ("the engine died", 3)
    assert one["answers"][place] is None
    assert (index["scores"][place][0], index["codes"][place][0]) == (None, "-")


def test_a_text_that_many_answers_share_stands_once(results: Results, tmp_path: Path) -> None:
    passage = "[S1] Register\nA page that is long, and that every combination is shown."
    long = {
        cell: {
            item: replace(one, prompt=(Message("user", f"{passage}\n\nQuestion: {item}"),))
            for item, one in found.items()
        }
        for cell, found in results.records.items()
    }

    write_answers(analyse(replace(results, records=long)), tmp_path)

    (file,) = (tmp_path / FOLDER).glob("answers-*.js")
    assert file.read_text().count("A page that is long") == 1
    assert file.read_text().count('Question: q7"') == 1


@given(some.text(alphabet=some.sampled_from(["\n", "[", "S", "1", "]", " ", "a"]), max_size=40))
def test_pieces_lose_nothing(text: str) -> None:
    assert "".join(pieces(text)) == text


def evil(results: Results) -> Analysis:
    examples = tuple(replace(one, question=EVIL, answers=(EVIL,), meta={"slice": EVIL}) for one in results.examples)
    records = {
        cell: {item: replace(one, text=EVIL, prompt=(Message("user", EVIL),)) for item, one in found.items()}
        for cell, found in results.records.items()
    }
    seen = Sighting(id="q1", question=EVIL, where="there", seen=EVIL, kind="exact", score=1.0, leak=True)
    checks = (Check(material=Material(kind="corpus", used_by=("dense",), place="there"), sightings=(seen,)),)
    return analyse(replace(results, examples=examples, records=records), Leaks(checks=checks))


def test_what_was_written_can_end_no_line_no_script_and_no_encoding(results: Results, tmp_path: Path) -> None:
    write_answers(evil(results), tmp_path)

    for file in (tmp_path / FOLDER).glob("[ai]*.js"):
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) == 1
        assert not re.search(r"</|<!", text)
    one, chunk = each_question(tmp_path)[1]
    assert one["question"] == EVIL
    assert EVIL in chunk["texts"]
    assert one["seen"] == [["corpus of dense", "exact", EVIL]]


def test_made_again_nothing_is_written_and_what_is_outdated_goes(results: Results, tmp_path: Path) -> None:
    save(analyse(results), tmp_path)
    (tmp_path / FOLDER / "notes.js").write_text("mine")
    first = {file: file.stat().st_mtime_ns for file in (tmp_path / FOLDER).iterdir()}

    save(analyse(results), tmp_path)
    again = {file: file.stat().st_mtime_ns for file in (tmp_path / FOLDER).iterdir()}
    save(analyse(results.only({f"q{n}" for n in range(20)})), tmp_path)
    fewer = {file.name for file in (tmp_path / FOLDER).iterdir()}

    assert again == first
    assert len(fewer) == 4
    assert fewer & {file.name for file in first} == {"notes.js", *(one for one in fewer if one.startswith("table-"))}
    page = (tmp_path / "report.html").read_text()
    assert {name for name in fewer if f"{FOLDER}/{name}" in page} == {one for one in fewer if one[0] in "ti"}


def test_a_death_before_the_new_page_stands_leaves_the_old_one_whole(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(analyse(results), tmp_path)
    before = {file.name: file.read_text() for file in (tmp_path / FOLDER).iterdir()}
    page = (tmp_path / "report.html").read_text()

    def dies(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "render", dies)
    with pytest.raises(KeyboardInterrupt):
        save(analyse(results.only({"q1", "q2", "q3"})), tmp_path)

    after = {file.name: file.read_text() for file in (tmp_path / FOLDER).iterdir()}
    assert (tmp_path / "report.html").read_text() == page
    assert before.items() <= after.items()
