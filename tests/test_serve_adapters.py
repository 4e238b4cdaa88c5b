import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest

from serve.adapters import lora_rank, problems, stage
from tests.tiny import make_adapter, make_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model` and an `adapter` for it."""
    folder = tmp_path_factory.mktemp("made")
    make_adapter(folder / "adapter", make_model(folder / "model"))
    return folder


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    return copytree(made / "adapter", tmp_path / "adapter")


def change(adapter: Path, **settings: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def trained_on(adapter: Path, files: dict[str, str]) -> None:
    (adapter / "provenance.json").write_text(json.dumps({"identity": {"base": files}}))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_adapter_made_for_the_model_has_no_problems(made: Path, adapter: Path) -> None:
    trained_on(adapter, {file.name: sha256(file) for file in (made / "model").iterdir()})

    assert list(problems(adapter, made / "model")) == []


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (rmtree, "there is no folder"),
    "a pickle": (lambda at: (at / "adapter_model.bin").touch(), "adapter_model.bin: a pickle can run any code"),
    "no weights": (lambda at: (at / "adapter_model.safetensors").unlink(), "it has no adapter_model.safetensors"),
    "no config": (lambda at: (at / "adapter_config.json").unlink(), "it has no adapter_config.json"),
    "broken config": (lambda at: (at / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
    "cut weights": (lambda at: (at / "adapter_model.safetensors").write_bytes(b"\x10"), "is not a safetensors file"),
    "prompt tuning": (lambda at: change(at, peft_type="PROMPT_TUNING"), "is a PROMPT_TUNING adapter"),
    "DoRA": (lambda at: change(at, use_dora=True), "uses DoRA"),
    "bias": (lambda at: change(at, bias="all"), "trained biases"),
    "whole modules": (lambda at: change(at, modules_to_save=["lm_head"]), "replaces whole modules (lm_head)"),
    "rank": (lambda at: change(at, rank_pattern={"q_proj": 1024}), "has rank 1024"),
    "torn weights": (lambda at: tear(at / "adapter_model.safetensors"), "is not a safetensors file, or is cut off"),
    "another template": (lambda at: (at / "chat_template.jinja").write_text("{{ messages }}"), "another chat template"),
    "changed base": (lambda at: trained_on(at, {"config.json": "0" * 64}), "another model than"),
    "missing file of the base": (lambda at: trained_on(at, {"spiece.model": "0" * 64}), "(other spiece.model)"),
}


@pytest.mark.parametrize(("spoil", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_served_is_refused_before_the_engine_starts(
    made: Path, adapter: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(adapter)

    (said,) = problems(adapter, made / "model")

    assert sentence in said
    assert str(adapter) in said


def test_an_adapter_for_a_model_of_another_width_is_refused_by_layer(made: Path, adapter: Path, tmp_path: Path) -> None:
    wide = make_model(tmp_path / "wide", width=320)

    (said,) = problems(adapter, wide)

    assert "_proj (input of 256, the model's has 320)" in said
    assert "more" in said


def test_the_engine_is_started_for_the_highest_rank_it_will_meet(made: Path, tmp_path: Path) -> None:
    small = make_adapter(tmp_path / "small", made / "model", rank=4)
    odd = copytree(small, tmp_path / "odd")
    change(odd, rank_pattern={"q_proj": 17})

    assert (lora_rank([small]), lora_rank([small, odd])) == (8, 32)


def test_other_weights_get_another_path_and_the_same_weights_the_same(adapter: Path, tmp_path: Path) -> None:
    first = stage("house", adapter, tmp_path / "staged")
    again = stage("house", adapter, tmp_path / "staged")
    make_adapter(adapter.parent / "new", make_model(tmp_path / "model"), seed=2)
    other = stage("house", adapter.parent / "new", tmp_path / "staged")

    assert first == again != other
    assert (first / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()
    assert (first.parent, first.name.partition("@")[0]) == (tmp_path / "staged", "house")
