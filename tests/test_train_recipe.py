import json
from dataclasses import replace
from pathlib import Path

import pytest

from retrieval.files import FileError
from train.base import check_base, find_base, fingerprint, sha256
from train.door import TrainError
from train.lora import DEMO, main
from train.provenance import CARD, Identity, card, check_space, identify, is_finished
from train.recipe import NOT_SERVED, Recipe, read_recipe
from train.retrieval_recipe import RerankerRecipe, RetrievalRecipe
from train.retrieval_recipe import read_recipe as read_retrieval_recipe

ROOT = Path(__file__).parents[1]


def written(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def test_paths_in_a_recipe_are_relative_to_it_and_those_on_the_command_line_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "recipes", "model: ../base\ndata: chats.jsonl\noutput: ../adapters\n")
    monkeypatch.chdir(tmp_path)

    read, overridden = read_recipe(file), read_recipe(file, ["data=here.jsonl", "output=out"])

    assert (read.model, read.data) == (str(tmp_path / "base"), tmp_path / "recipes" / "chats.jsonl")
    assert (overridden.data, overridden.output) == (tmp_path / "here.jsonl", tmp_path / "out")


def test_a_model_id_stays_an_id(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "model: Qwen/Qwen3-8B\ndata: a.jsonl\n")).model == "Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("settings", "name"), [([], "mine"), (["quantize=nf4"], "mine-nf4"), (["name=other", "quantize=nf4"], "other")]
)
def test_an_adapter_is_named_after_its_recipe(settings: list[str], name: str, tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "model: ./m\ndata: a.jsonl\n"), settings).name == name


@pytest.mark.parametrize("name", ["base", "Mine", "a/b", "../up", ""])
def test_a_name_that_could_not_be_served_is_refused(name: str, tmp_path: Path) -> None:
    file = written(tmp_path, f"model: ./m\ndata: a.jsonl\nname: '{name}'\n")
    if not name:
        assert read_recipe(file).name == "mine"
        return

    with pytest.raises(TrainError, match="cannot name an adapter: use lower-case letters"):
        read_recipe(file)


BAD_SETTINGS = {
    "lr=1e-4": "lr: unknown key",
    "lerning_rate=1e-4": "did you mean 'learning_rate'?",
    "rank=12": "rank: Input should be 1, 8, 16, 32, 64, 128, 256, 320 or 512",
    "epochs=0": "epochs: Input should be greater than or equal to 1",
    "quantize=int8": "quantize: Input should be 'none' or 'nf4'",
    "tokens_per_step=512": "a step holds at least one pack, so raise the first or lower the second",
    "epochs": "is not key=value",
}


@pytest.mark.parametrize("setting", BAD_SETTINGS)
def test_a_setting_that_means_nothing_is_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(FileError) as error:
        read_recipe(written(tmp_path, "model: ./m\ndata: a.jsonl\n"), [setting])

    assert BAD_SETTINGS[setting] in str(error.value)


@pytest.mark.parametrize("key", NOT_SERVED)
def test_an_adapter_that_vllm_would_refuse_is_refused_at_the_start_with_the_reason(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, f"model: ./m\ndata: a.jsonl\n{key}: true\n")

    assert main(["--config", str(file)]) == 1
    assert main([f"{key}=true"]) == 1

    in_file, on_line = capsys.readouterr().err.splitlines()
    reason = f"{key}: vLLM serves no adapter with {NOT_SERVED[key]}"
    assert in_file.startswith(f"{file}:3: {reason}")
    assert on_line.startswith(f"{key}=true: {reason}")


@pytest.mark.parametrize("file", sorted((ROOT / "train" / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_of_the_house_can_be_read(file: Path) -> None:
    kind = {"embedder": RetrievalRecipe, "reranker": RerankerRecipe}.get(file.stem)

    assert (read_retrieval_recipe(kind, file) if kind else read_recipe(file)).name in (file.stem, "demo")


def test_a_missing_data_file_says_where_data_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(DEMO), f"data={tmp_path / 'none.jsonl'}"]) == 1

    assert capsys.readouterr().err == (
        f"{tmp_path / 'none.jsonl'}: there is no such file; `make demo` writes the demo's, "
        "or set data=FILE to your own chats\n"
    )


RECIPE = Recipe(model="m", data=Path("d"), name="t")

REFUSED_BASES = {
    "quantised": ({"quantization_config": {"quant_method": "awq"}}, "is already quantised"),
    "encoder": ({"is_encoder_decoder": True}, "only decoder models"),
    "pictures": ({"text_config": {}}, "only text models"),
    "experts": ({"num_experts": 64}, "use a dense model"),
    "short": (
        {"max_position_embeddings": 2048},
        "reads at most 2048 tokens, but max_length is 4096: set max_length=2048",
    ),
}


@pytest.mark.parametrize("case", REFUSED_BASES)
def test_a_base_that_cannot_be_trained_or_served_is_refused_before_it_is_loaded(case: str) -> None:
    config, said = REFUSED_BASES[case]

    with pytest.raises(TrainError) as error:
        check_base(config, RECIPE)

    assert said in str(error.value)


def test_a_folder_that_is_no_model_is_refused_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="is no model folder"):
        find_base(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(TrainError, match="is an adapter, not a base model"):
        find_base(str(tmp_path))


def test_a_model_that_was_never_fetched_is_refused_with_the_command_that_fetches_it() -> None:
    with pytest.raises(TrainError, match=r"run `python scripts/fetch.py nobody/nothing`, or give a folder"):
        find_base("nobody/nothing")


def test_a_hash_is_of_the_bytes_or_is_the_name_the_hub_gave_them(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_text("x")
    (tmp_path / "model.safetensors").symlink_to(blob)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.md").write_text("not part of the model")

    assert fingerprint(tmp_path) == {
        "config.json": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "model.safetensors": "ab" * 32,
    }
    assert sha256(tmp_path / "config.json") == fingerprint(tmp_path)["config.json"]


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Recipe, Path, Path]:
    """A recipe, its base, and an adapter folder made from them."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (tmp_path / "chats.jsonl").write_text("{}")
    recipe = Recipe(model=str(base), data=tmp_path / "chats.jsonl", name="t")
    folder = tmp_path / "adapters" / "t"
    folder.mkdir(parents=True)
    (folder / CARD).write_text(json.dumps(card(recipe, identify(recipe, base), base, "unchecked", {})))
    return recipe, base, folder


def test_an_adapter_is_finished_when_recipe_data_and_base_are_the_same(finished: tuple[Recipe, Path, Path]) -> None:
    recipe, base, folder = finished

    assert is_finished(folder, identify(recipe, base))
    assert is_finished(folder, identify(replace(recipe, name="other", output=Path("/")), base))
    assert not is_finished(folder.with_name("u"), identify(recipe, base))


def _another_rate(recipe: Recipe, base: Path) -> Identity:
    return identify(replace(recipe, learning_rate=1e-3), base)


def _another_row(recipe: Recipe, base: Path) -> Identity:
    recipe.data.write_text("{}\n{}")
    return identify(recipe, base)


def _another_base(recipe: Recipe, base: Path) -> Identity:
    (base / "chat_template.jinja").write_text("{{ messages }}")
    return identify(recipe, base)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_another_rate, "learning_rate None -> 0.001"),
        (_another_row, "the data changed"),
        (_another_base, "the base model changed"),
    ],
)
def test_an_adapter_made_differently_is_never_written_over(
    change: object, said: str, finished: tuple[Recipe, Path, Path]
) -> None:
    recipe, base, folder = finished
    assert callable(change)

    with pytest.raises(TrainError) as error:
        is_finished(folder, change(recipe, base))

    assert f"holds an adapter made differently ({said}): delete it" in str(error.value)


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_folder_that_is_no_adapter_of_ours_is_left_alone(
    content: str | None, finished: tuple[Recipe, Path, Path]
) -> None:
    recipe, base, folder = finished
    (folder / CARD).unlink() if content is None else (folder / CARD).write_text(content)

    with pytest.raises(TrainError, match="delete it, or choose another name"):
        is_finished(folder, identify(recipe, base))


def test_a_disk_that_is_too_full_is_noticed_before_training(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "there", {"hidden_size": 64, "num_hidden_layers": 2}, rank=8)

    with pytest.raises(TrainError, match=r"MiB are free there and an adapter needs [\d,]+ MiB: free some space"):
        check_space(tmp_path, {"hidden_size": 10**9, "num_hidden_layers": 10**4}, rank=512)
