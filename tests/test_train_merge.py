"""Claims about merged models: PEFT's numbers, whole folders or none, and refusals that say what to do."""

import json
import resource
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import make_adapter, make_model
from train.base import fingerprint
from train.door import TrainError
from train.merge import main, merge

OWN = "{{ messages[0]['content'] }} of the adapter's own"
PROMPT = torch.tensor([[5, 80, 3, 200, 41, 7]])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_model(tmp_path / "base", width=64)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    """With provenance and a template of its own, as `train/lora.py` leaves it."""
    folder = make_adapter(tmp_path / "adapter", base)
    card = {"base": {"id": str(base)}, "identity": {"base": fingerprint(base)}}
    (folder / "provenance.json").write_text(json.dumps(card))
    (folder / "chat_template.jinja").write_text(OWN)
    return folder


def change(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def by_peft(base: Path, adapter: Path) -> Any:
    """PEFT's merge, all in float32."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def as_it_comes(base: Path) -> None:
    """One file, float32, tied embeddings."""


def untied_in_shards(base: Path) -> None:
    change(base / "config.json", tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="300KB")
    assert len(list(base.glob("*.safetensors"))) > 3
    save_file({"twice": torch.ones(1)}, base / "consolidated.safetensors")


@pytest.mark.parametrize("lay_out", [as_it_comes, untied_in_shards])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_weights_are_pefts_merged_in_float32_and_rounded_once(lay_out: Any, rslora: bool, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", width=64)
    lay_out(base)
    adapter = make_adapter(tmp_path / "adapter", make_model(tmp_path / "shape", width=64))
    change(adapter / "adapter_config.json", use_rslora=rslora, base_model_name_or_path=str(base))

    merge(adapter, tmp_path / "out")

    expected = by_peft(base, adapter)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert merged.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(merged.state_dict()[name], tensor.bfloat16()), name
    bare = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        right, wrong, ours = (model.float()(PROMPT).logits for model in (expected, bare, merged))
    assert (ours - right).abs().max() < 0.05 * (wrong - right).abs().max()
    assert {file.name for file in (tmp_path / "out").glob("*.safetensors")} == {
        file.name for file in base.glob("model*.safetensors")
    }


def test_the_folder_is_a_whole_model_and_says_where_it_comes_from(base: Path, adapter: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')
    (base / "README.md").write_text("Another model's")
    (base / "LICENSE").write_text("Take it")
    change(adapter / "provenance.json", identity={"base": fingerprint(base)})
    out = tmp_path / "new" / "out"

    assert main([str(adapter), str(out)]) == 0

    told = {file.name: file.read_bytes() for file in out.iterdir()}
    assert told.keys() == {file.name for file in base.iterdir()} - {"README.md"} | {
        "chat_template.jinja",
        "provenance.json",
    }
    assert told["generation_config.json"] == (base / "generation_config.json").read_bytes()
    card = json.loads(told["provenance.json"])
    assert card["adapter"]["identity"]["base"] == fingerprint(base)
    assert card["merged"]["base"] == str(base)
    assert AutoTokenizer.from_pretrained(out).apply_chat_template([{"content": "hm"}], tokenize=False) == (
        "hm of the adapter's own"
    )
    assert "chat_template" not in json.loads(told["tokenizer_config.json"])
    assert not list(out.parent.glob(".*"))


def test_a_base_that_was_moved_is_found_where_it_is_said_to_be(base: Path, adapter: Path, tmp_path: Path) -> None:
    moved = base.rename(tmp_path / "elsewhere")

    assert main([str(adapter), str(tmp_path / "out"), "--base", str(moved)]) == 0

    assert load_file(tmp_path / "out" / "model.safetensors")


def no_adapter(base: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()


def no_base(base: Path, adapter: Path) -> None:
    shutil.rmtree(base)


def another_base(base: Path, adapter: Path) -> None:
    change(base / "tokenizer_config.json", eos_token="<|endoftext|>")


def another_shape(base: Path, adapter: Path) -> None:
    (adapter / "provenance.json").unlink()
    shutil.rmtree(base)
    make_model(base, width=32)


def quantised(base: Path, adapter: Path) -> None:
    (adapter / "provenance.json").unlink()
    change(base / "config.json", quantization_config={"load_in_4bit": True})


def dora(base: Path, adapter: Path) -> None:
    change(adapter / "adapter_config.json", use_dora=True)


def trained_embeddings(base: Path, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(8, 9)}, file)


def a_head(base: Path, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    head = {f"base_model.model.lm_head.lora_{s}.weight": torch.ones(n) for s, n in (("A", (8, 64)), ("B", (2048, 8)))}
    save_file(load_file(file) | head, file)


def half_a_pair(base: Path, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({name: matrix for name, matrix in load_file(file).items() if "lora_A" in name}, file)


def cut_off(base: Path, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_adapter, "adapter holds no adapter: train one"),
        (no_base, "base is not the base of .*adapter, or is not there: give the folder where it is now with --base"),
        (another_base, r"was trained on \(tokenizer_config.json differs\): give that one's folder with --base"),
        (another_shape, r"changes weights that .*base does not have: .*down_proj.weight \[64, 768\].* and 39 more"),
        (quantised, "base is quantised, and sums are not made in few bits: give the original with --base"),
        (dora, r"is more than plain LoRA \(use_dora: True\), and only that can be merged"),
        (trained_embeddings, r"more than plain LoRA \(base_model.model.model.embed_tokens.lora_embedding_A\)"),
        (a_head, r"changes weights that .*base does not have: lm_head.weight \[2048, 64\]$"),
        (half_a_pair, r"more than plain LoRA \(half of model.layers.0.mlp.down_proj.weight; half of "),
        (cut_off, "the weights of .*adapter or .*base cannot be read .*: copy them again"),
    ],
)
def test_what_cannot_be_merged_is_refused_and_nothing_is_written(
    spoil: Any, sentence: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    spoil(base, adapter)

    with pytest.raises(TrainError, match=sentence):
        merge(adapter, tmp_path / "models" / "out")

    assert not (tmp_path / "models").exists()


def test_a_folder_that_exists_is_left_alone(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()

    assert main([str(adapter), str(tmp_path / "out")]) == 1

    assert "out exists: delete it, or choose another folder" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_is_too_small_is_noticed_at_the_door(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = namedtuple("full", ("total", "used", "free"))(2**40, 2**40, 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)

    with pytest.raises(TrainError, match=r"out: 1 MiB are free there and the model needs \d+ MiB: free some space"):
        merge(adapter, tmp_path / "out")


def test_a_disk_that_fills_up_on_the_way_leaves_nothing_behind(adapter: Path, tmp_path: Path) -> None:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, usual[1]))  # no file may be longer
    try:
        with pytest.raises(TrainError, match=r"out cannot be written .*too large.*: free some space"):
            merge(adapter, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)

    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["adapter", "base"]
