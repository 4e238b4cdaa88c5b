"""What embedders and re-rankers learn from is checked before anything is loaded; no batch teaches a wrong answer."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from retrieval.embed import PACKAGED as SEARCHED_WITH
from retrieval.embed import locate
from retrieval.passage import Document
from tests.tiny_search import make_beir, write_beir, write_qrels
from train import embedder, reranker
from train.door import TrainError
from train.judged import Question, draw, read_judged
from train.pairs import Row, batches, rows
from train.retrieval_recipe import PACKAGED, RetrievalRecipe, read_recipe
from train.tune import find_encoder

ROOT = Path(__file__).parents[1]
CRANFIELD = ROOT.parent / "shared" / "data" / "retrieval" / "cranfield"
BROKEN = {
    "corpus.jsonl": (
        '{"_id": "d1", "text": "one"}\n{"title": "no id", "text": "two"}\n{"_id": "d1", "text": "again"}\n'
        '{"_id": "d2", "text": 5}\n',
        [":2 _id: is missing - ", ":3 _id: 'd1' is already on line 1 - ", ":4 text: "],
    ),
    "queries.jsonl": (
        '{"_id": "q1", "text": "why?"}\n{"_id": "q2", "text": " "}\n',
        [":2 text: is missing or empty - "],
    ),
    "qrels/train.tsv": (
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1 d1 1\nq1\td1\thigh\n",
        [":3 row: expected query-id, ", ":4 row: expected query-id, "],
    ),
}


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_beir(tmp_path_factory.mktemp("beir"))


def write(folder: Path, *names: str) -> Path:
    """The broken files of these names, and good ones for the rest."""
    write_beir(folder, [{"_id": "d1", "text": "one"}, {"_id": "d2", "text": "two"}], [{"_id": "q1", "text": "why?"}])
    write_qrels(folder / "qrels" / "train.tsv", [("q1", "d1")])
    for name in names:
        (folder / name).write_text(BROKEN[name][0])
    return folder


@pytest.mark.parametrize("names", [list(BROKEN), *([name] for name in BROKEN)])
def test_every_problem_of_the_three_files_is_told_at_once(tmp_path: Path, names: list[str]) -> None:
    folder = write(tmp_path, *names)

    with pytest.raises(TrainError) as error:
        read_judged(folder, folder / "qrels" / "train.tsv")

    told = str(error.value).splitlines()
    expected = [f"{folder / name}{says}" for name in names for says in BROKEN[name][1]]
    assert len(told) == len(expected)
    assert all(line.startswith(beginning) for line, beginning in zip(told, expected, strict=True))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("q1\td1\t1\nq1\td2\t1\n", "train.tsv:1 row: expected a header"),
        ("query-id\tcorpus-id\tscore\nq9\td1\t1\n", "train.tsv:2 query-id: 'q9' is not in queries.jsonl - add it"),
        ("query-id\tcorpus-id\tscore\nq1\td9\t1\n", "train.tsv:2 corpus-id: 'd9' is not in corpus.jsonl - add it"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t0\n", "train.tsv:1 score: no document is relevant"),
    ],
)
def test_judgements_that_point_nowhere_are_refused(tmp_path: Path, lines: str, says: str) -> None:
    folder = write(tmp_path)
    (folder / "qrels" / "train.tsv").write_text(lines)

    with pytest.raises(TrainError, match=says):
        read_judged(folder, folder / "qrels" / "train.tsv")


def test_only_grades_above_0_are_learnt_and_documents_without_text_are_left_out(tmp_path: Path) -> None:
    corpus = [{"_id": name, "title": "T", "text": name} for name in "abc"] + [{"_id": "empty", "text": " "}]
    write_beir(tmp_path, corpus, [{"_id": "q", "text": "why?"}, {"_id": "r", "text": "how?"}])
    file = write_qrels(tmp_path / "qrels" / "train.tsv", [("q", "a"), ("q", "empty"), ("r", "empty")])
    file.write_text(file.read_text() + "q\tb\t0\nq\tc\t-1\n")

    judged = read_judged(tmp_path, file)

    assert [(one.text, one.relevant) for one in judged.questions] == [("why?", ("T\na",))]
    assert judged.documents == ("T\na", "T\nb", "T\nc")


@pytest.mark.parametrize(("title", "text"), [("A title", "A text."), ("", "A text."), ("A title", "")])
def test_a_document_is_learnt_as_it_is_searched(tmp_path: Path, title: str, text: str) -> None:
    write_beir(tmp_path, [{"_id": "d", "title": title, "text": text}], [{"_id": "q", "text": "why?"}])
    file = write_qrels(tmp_path / "qrels" / "train.tsv", [("q", "d")])

    searched = Document(id="d", title=title, text=text).cut(0, len(text)).searchable

    assert read_judged(tmp_path, file).documents == (searched,)


def test_the_default_base_is_the_embedder_that_searches() -> None:
    assert PACKAGED == SEARCHED_WITH
    assert find_encoder(PACKAGED) == locate(SEARCHED_WITH)


@pytest.mark.parametrize("seed", range(5))
def test_no_batch_holds_a_document_that_answers_another_row(seed: int) -> None:
    random = Random(seed)
    documents = [f"d{n}" for n in range(60)]
    questions = [
        Question(where="f:1", text=f"q{n}", relevant=tuple(random.sample(documents, random.randrange(1, 9))))
        for n in range(40)
    ]
    relevant = {one.text: frozenset(one.relevant) for one in questions}
    wrong = {one.text: [d for d in documents if d not in relevant[one.text]] for one in questions}
    table = rows(questions, wrong, each=2)

    made = batches(table, relevant, size=8, seed=seed)

    assert Counter(number for batch in made for number in batch) == Counter(range(len(table)))
    assert max(map(len, made)) == 8
    for batch in made:
        for number in batch:
            others = {value for other in batch if other != number for value in list(table[other].values())[1:]}
            assert not others & relevant[table[number]["anchor"]]
            assert sum(table[other]["anchor"] == table[number]["anchor"] for other in batch) == 1
    assert batches(table, relevant, size=8, seed=seed) == made != batches(table, relevant, size=8, seed=seed + 1)


def test_each_relevant_document_gets_wrong_ones_of_its_own_while_there_are_enough() -> None:
    question = Question(where="f:1", text="q", relevant=("a", "b"))

    enough = rows([question], {"q": ["w", "x", "y", "z"]}, each=2)
    scarce = rows([question], {"q": ["w", "x", "y"]}, each=2)

    assert [tuple(row.values()) for row in enough] == [("q", "a", "w", "x"), ("q", "b", "y", "z")]
    assert tuple(scarce[1].values()) == ("q", "b", "y", "w")
    assert rows([question], {}, each=0) == [{"anchor": "q", "positive": "a"}, {"anchor": "q", "positive": "b"}]


def test_a_draw_takes_some_of_what_is_relevant_and_the_same_ones_again() -> None:
    question = Question(where="f:1", text="q", relevant=tuple("abcdefgh"))

    [drawn] = draw([question], 3, seed=0)

    assert len({*drawn.relevant} & {*question.relevant}) == 3
    assert draw([question], 3, seed=0) == (drawn,)
    assert draw([question], 20, seed=0)[0].relevant != ()
    assert draw([question], None, seed=0) == (question,)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["epochs=0"], "epochs: "),
        (["epoch=2"], "unknown key; did you mean 'epochs'"),
        (["name=Out Of Bounds"], "names no folder"),
        (["qrels={beir}/qrels/nowhere.tsv", "check_against=[{beir}/none.tsv]"], "nowhere.tsv: there is no such file"),
        (["check_against=[{beir}/qrels/train.tsv]"], "text: the question is in"),
        (["model={beir}"], "no model folder"),
        (["skip_nearest=1000"], "none is left for a wrong answer"),
    ],
)
@pytest.mark.parametrize("door", [embedder, reranker])
def test_what_cannot_be_trained_is_refused_before_torch_loads(
    door: object, words: list[str], says: str, beir: Path, tmp_path: Path
) -> None:
    name = door.__name__  # type: ignore[attr-defined]
    (tmp_path / "recipe.yaml").write_text(f"data: {beir}\noutput: models\n")
    command = ["--config", str(tmp_path / "recipe.yaml"), *(word.format(beir=beir) for word in words)]
    heavy = "[name for name in ('torch', 'transformers', 'datasets') if name in sys.modules]"
    program = f"import sys; from {name} import main; print(main({command!r}), {heavy})"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)

    assert done.stdout == "1 []\n", done.stderr
    assert says in done.stderr
    assert not (tmp_path / "models").exists()


def test_paths_of_a_recipe_start_at_it_and_those_of_the_command_line_where_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "there" / "mine.yaml").write_text("data: beir\nmodel: ../mine\ncheck_against: [test.jsonl]\n")
    monkeypatch.chdir(tmp_path)

    written = read_recipe(RetrievalRecipe, tmp_path / "there" / "mine.yaml")
    recipe = read_recipe(
        RetrievalRecipe, tmp_path / "there" / "mine.yaml", ["output=made", "check_against=[a.tsv, b.jsonl]"]
    )

    assert recipe.name == "mine"
    assert recipe.data == tmp_path / "there" / "beir"
    assert recipe.qrels == tmp_path / "there" / "beir" / "qrels" / "train.tsv"
    assert recipe.model == str(tmp_path / "mine")
    assert recipe.check_against == (tmp_path / "a.tsv", tmp_path / "b.jsonl")
    assert written.check_against == (tmp_path / "there" / "test.jsonl",)
    assert recipe.output == tmp_path / "made"


@pytest.mark.parametrize("door", [embedder, reranker])
def test_help_ends_with_a_line_to_paste(door: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        door.main(["--help"])  # type: ignore[attr-defined]

    assert capsys.readouterr().out.splitlines()[-1].startswith("example: python -m train.")


@pytest.mark.skipif(not CRANFIELD.exists(), reason="Cranfield is not beside this checkout")
def test_where_questions_share_documents_ordinary_batches_teach_wrong_answers_and_ours_none() -> None:
    judged = read_judged(CRANFIELD, CRANFIELD / "qrels" / "all.tsv")
    relevant = judged.relevant
    table = rows(judged.questions, {}, each=0)
    ordinary: list[list[int]] = []
    for number in Random(0).sample(range(len(table)), len(table)):  # no text twice, as the library's NO_DUPLICATES
        texts = {*table[number].values()}
        fits = (batch for batch in ordinary if len(batch) < 32)
        batch = next((one for one in fits if not any(texts & {*table[other].values()} for other in one)), None)
        ordinary.append([number]) if batch is None else batch.append(number)

    assert 0.2 < share_of_wrong(ordinary, table, relevant) < 0.35
    assert share_of_wrong(batches(table, relevant, 32, seed=0), table, relevant) == 0


def share_of_wrong(made: list[list[int]], table: list[Row], relevant: Mapping[str, frozenset[str]]) -> float:
    """The share of rows whose question has a right answer among what the batch takes for wrong ones."""
    wrong = [
        any(table[other]["positive"] in relevant[table[number]["anchor"]] for other in batch if other != number)
        for batch in made
        for number in batch
    ]
    return sum(wrong) / len(wrong)
