"""Embedders and re-rankers learn: they beat the untrained model on questions they have not seen, and come out whole."""

import asyncio
import errno
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from retrieval.build import build
from retrieval.documents import read_documents
from retrieval.files import FileError, model_hash
from retrieval.index import open_index
from retrieval.manifest import BuildSettings
from retrieval.measure import kinds_of, means, measure
from retrieval.metrics import judged
from retrieval.passage import RetrievalError
from retrieval.rerank import open_reranker
from retrieval.topics import read_topics
from tests.tiny_search import make_beir, make_embedder, make_encoder
from train import embedder, reranker
from train.door import TrainError
from train.judged import read_judged
from train.recipe import Recipe
from train.retrieval_recipe import RerankerRecipe, RetrievalRecipe, read_recipe
from train.tune import Door, Lesson, keep, run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder, and models that know nothing."""
    folder = tmp_path_factory.mktemp("world")
    make_beir(folder / "beir")
    make_embedder(folder / "embedder")
    make_encoder(folder / "encoder")
    common = "data: beir\ncheck_against: [beir/qrels/test.tsv]\noutput: models\nmax_length: 16\nseed: 3\n"
    (folder / "embedder.yaml").write_text(
        common + "name: tuned\nmodel: embedder\nepochs: 8\nbatch: 16\nlearning_rate: 0.05\n"
    )
    (folder / "reranker.yaml").write_text(
        common + "name: reader\nmodel: encoder\nminer: embedder\nepochs: 10\nlearning_rate: 5.0e-3\n"
    )
    return folder


def trained(door: Door, world: Path, *words: str) -> Path:
    """The folder that this recipe makes."""
    recipe = read_recipe(door.recipe, world / f"{door.noun}.yaml", words)
    run(door, recipe)
    return recipe.output / recipe.name


def card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "provenance.json").read_text())
    return found


def dense(world: Path, folder: Path, index: Path) -> float:
    """nDCG@10 on the questions that were not learnt."""
    build(read_documents(world / "beir"), index, BuildSettings(embedder=str(folder)))
    found = measure({"dense": kinds_of(index)["dense"]}, read_topics(world / "beir", "test"))
    return means(found["dense"])["nDCG@10"]


def test_a_trained_embedder_beats_the_untrained_one_on_questions_it_has_not_seen(world: Path, tmp_path: Path) -> None:
    folder = trained(embedder.DOOR, world)

    before, after = (dense(world, one, tmp_path / one.name) for one in (world / "embedder", folder))

    assert after > before + 0.3
    found = card(folder)
    assert found["loss_last"] < found["loss_first"] - 0.3
    assert found["overlap"]["refused"] == {}
    assert found["overlap"]["compared_in_meaning"] is False


def test_the_hash_in_a_models_card_is_the_one_in_the_manifest_of_its_index(world: Path, tmp_path: Path) -> None:
    folder = trained(embedder.DOOR, world)

    manifest = build(read_documents(world / "beir"), tmp_path / "index", BuildSettings(embedder=str(folder)))

    assert manifest.inputs.embedder_sha256 == card(folder)["sha256"] == model_hash(folder)
    assert card(folder)["identity"]["base"]["model"] == model_hash(world / "embedder")


def test_an_index_of_another_embedder_is_refused_with_the_command_that_mends_it(world: Path, tmp_path: Path) -> None:
    folder = trained(embedder.DOOR, world, "name=passing", "epochs=1", f"output={tmp_path}")
    build(read_documents(world / "beir"), tmp_path / "index", BuildSettings(embedder=str(folder)))
    folder.rename(tmp_path / "away")
    with pytest.raises(RetrievalError, match=r"no sentence-transformers model is here") as gone:
        open_index(tmp_path / "index")

    trained(embedder.DOOR, world, "name=passing", "epochs=2", f"output={tmp_path}")

    with pytest.raises(RetrievalError, match="another version of the embedder") as other:
        open_index(tmp_path / "index")
    command = f"`python -m retrieval build DOCS {tmp_path / 'index'} --embedder "
    assert f"{command}FOLDER`" in str(gone.value)
    assert f"{command}{folder}`" in str(other.value)
    build(read_documents(world / "beir"), tmp_path / "index", BuildSettings(embedder=str(folder)))
    assert open_index(tmp_path / "index").manifest.inputs.embedder_sha256 == model_hash(folder)


@pytest.mark.parametrize("door", [embedder.DOOR, reranker.DOOR], ids=lambda door: door.noun)
def test_the_same_recipe_makes_the_same_model(world: Path, tmp_path: Path, door: Door) -> None:
    one, two = (trained(door, world, "epochs=1", f"name={name}", f"output={tmp_path}") for name in ("one", "two"))

    assert model_hash(one) == model_hash(two)
    assert model_hash(one) != model_hash(trained(door, world, "epochs=1", "seed=4", f"output={tmp_path}"))


@pytest.mark.parametrize("door", [embedder.DOOR, reranker.DOOR], ids=lambda door: door.noun)
def test_what_is_made_is_not_made_again_and_never_written_over(world: Path, door: Door) -> None:
    folder = trained(door, world)
    before = model_hash(folder)
    command = ["--config", str(world / f"{door.noun}.yaml")]
    heavy = "[name for name in ('torch', 'transformers', 'datasets') if name in sys.modules]"
    program = f"import sys; from train.{door.noun} import main; print(main({command!r}), {heavy})"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert "nothing left to do" in done.stdout
    assert done.stdout.endswith("0 []\n")
    with pytest.raises(TrainError, match=rf"a.? {door.noun} made differently \(epochs \d+ -> 9\): delete it"):
        trained(door, world, "epochs=9")
    assert model_hash(folder) == before


def test_a_question_of_the_test_set_is_not_learnt(world: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.tsv"
    lines = [(world / "beir" / "qrels" / f"{name}.tsv").read_text().split("\n", 1) for name in ("train", "test")]
    both.write_text(lines[0][0] + "\n" + lines[0][1] + lines[1][1])
    questions = len({line.split("\t")[0] for line in lines[0][1].splitlines()})
    with pytest.raises(TrainError, match=r"queries\.jsonl:1 text: the question is in .*queries\.jsonl:1 "):
        trained(embedder.DOOR, world, f"qrels={both}", f"output={tmp_path}")

    folder = trained(embedder.DOOR, world, f"qrels={both}", f"output={tmp_path}", "leaks=drop", "epochs=1")

    assert card(folder)["questions"] == questions
    assert len(card(folder)["dropped_questions"]) == 20


def lesson(world: Path, **settings: Any) -> Lesson:
    judged = read_judged(world / "beir", world / "beir" / "qrels" / "train.tsv")
    return Lesson(
        recipe=RetrievalRecipe(data=world / "beir", dtype="float32", **settings),
        base=world / "embedder",
        miner=world / "embedder",
        questions=judged.questions,
        judged=judged,
    )


def test_wrong_documents_are_the_nearest_that_are_not_relevant(world: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from train.encoders import mine

    model = SentenceTransformer(str(world / "embedder"), device="cpu")
    given = lesson(world, negatives=3, skip_nearest=2)

    mined = mine(model, given)

    documents = given.judged.documents
    vectors = model.encode_document(list(documents), normalize_embeddings=True)
    for question in given.questions:
        order = np.argsort(-(vectors @ model.encode_query(question.text, normalize_embeddings=True)), kind="stable")
        wrong = [documents[n] for n in order if documents[n] not in given.judged.relevant[question.text]]
        assert not {*mined[question.text]} & given.judged.relevant[question.text]
        assert mined[question.text][:3] == wrong[2:5]
        assert len(mined[question.text]) >= 3 * len(question.relevant)


def test_a_loss_that_is_not_a_number_stops_the_training_and_writes_nothing(world: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"the loss of step \d+ is not a number: lower learning_rate"):
        trained(embedder.DOOR, world, "learning_rate=1.0e+38", f"output={tmp_path / 'models'}", "epochs=9")

    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path, when: str) -> None:
    def save(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "before":
        (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(FileError, match=r"cannot be written: .*Free some space or set output"):
        keep(tmp_path / "models" / "mine", save, {})

    assert [file.name for file in tmp_path.rglob("*")] == (["models"])


def test_instructions_before_questions_and_documents_are_learnt_as_they_are_used(world: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from train.encoders import _prompts

    model = SentenceTransformer(str(world / "embedder"), device="cpu")
    row = {"anchor": "q1", "positive": "d1", "negative_0": "d2"}
    assert _prompts(model, row) == {}

    model.prompts = {"query": "q2 ", "passage": "d3 "}

    prompts = _prompts(model, row)
    assert model.encode_query("q1") == pytest.approx(model.encode(prompts["anchor"] + "q1", prompt=""))
    for column in ("positive", "negative_0"):
        assert model.encode_document("d1") == pytest.approx(model.encode(prompts[column] + "d1", prompt=""))


def ranked(world: Path, scores: Callable[[str, Sequence[str]], Sequence[float]]) -> float:
    """nDCG@10 of the relevant documents among all false ones in this order, on the questions that were not learnt."""
    found = []
    for topic in read_topics(world / "beir", "test"):
        corpus = read_documents(world / "beir")
        documents = [one for one in corpus if one.id in topic.grades or one.text.endswith("false")]
        order = np.argsort(-np.asarray(scores(topic.text, [one.text for one in documents])), kind="stable")
        ranked = {topic.id: [documents[n].id for n in order]}
        found.append(judged(ranked, {topic.id: topic.grades})[topic.id]["nDCG@10"])
    return fmean(found)


def test_a_trained_reranker_beats_its_untrained_head_and_is_one_that_search_accepts(world: Path) -> None:
    from sentence_transformers import CrossEncoder

    folder = trained(reranker.DOOR, world)
    opened = open_reranker(folder, model_hash(folder))
    blank = CrossEncoder(str(world / "encoder"), num_labels=1, device="cpu")

    before = ranked(world, lambda question, texts: blank.predict([(question, text) for text in texts]))
    after = ranked(world, lambda question, texts: asyncio.run(opened.scores((question, *texts))))

    assert after > before + 0.3
    assert card(folder)["loss_last"] < card(folder)["loss_first"]


def test_questions_close_in_meaning_are_listed_and_never_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from train.chat import read_chats
    from train.lora import without_leaks

    asked, learnt = "How do I get my money back?", "How can I get my money back?"
    messages = [{"role": "user", "content": learnt}, {"role": "assistant", "content": "Ask."}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": asked, "answers": ["Ask."]}) + "\n")
    recipe = Recipe(model="m", data=tmp_path / "chats.jsonl", check_against=(tmp_path / "test.jsonl",))
    chats = read_chats(recipe.data)

    plain = without_leaks(recipe, chats)
    compared = without_leaks(replace(recipe, check_embedder="all-MiniLM-L6-v2"), chats)

    assert [list(found[0]) for found in (plain, compared)] == [list(chats)] * 2
    assert isinstance(plain[1], dict)
    assert isinstance(compared[1], dict)
    assert (plain[1]["compared_in_meaning"], plain[1]["listed"]) == (False, {})
    assert (compared[1]["compared_in_meaning"], compared[1]["listed"]) == ("all-MiniLM-L6-v2", {"close in meaning": 1})
    assert f"{tmp_path / 'chats.jsonl'}:1 messages: the question resembles" in capsys.readouterr().out


def test_a_recipe_of_one_door_is_no_recipe_of_the_other(world: Path) -> None:
    assert issubclass(RerankerRecipe, RetrievalRecipe)
    with pytest.raises(FileError, match="miner: unknown key"):
        read_recipe(RetrievalRecipe, world / "reranker.yaml")
    with pytest.raises(FileError, match="negatives: "):
        read_recipe(RerankerRecipe, world / "reranker.yaml", ["negatives=0"])
