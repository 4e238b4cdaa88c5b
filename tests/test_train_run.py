"""The program as a user runs it, on a tiny model with random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.sharing import SHARED
from train.chat import read_chats
from train.door import TrainError
from train.lora import main, prepare
from train.masking import Template
from train.recipe import Recipe

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SCRIPT = ROOT / "train" / "lora.py"
IN_FLOAT32 = ("dtype=float32", "epochs=1")


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, a few threads and no hub."""
    return subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "CUDA_VISIBLE_DEVICES": "",
            "TOKENIZERS_PARALLELISM": "false",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def train(world: Path, *settings: str) -> Path:
    """Run the front door inside this process, which has torch already; the adapter's folder."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(["--config", str(world / "tiny.yaml"), *settings]) == 0
    torch.set_num_threads(threads)
    return world / "adapters" / dict(setting.split("=") for setting in settings).get("name", "tiny-nf4")


@pytest.fixture(scope="module")
def alone(world: Path) -> Path:
    """An adapter, trained by one process in float32."""
    return train(world, "name=alone", *IN_FLOAT32)


@pytest.fixture(scope="module")
def adapter(world: Path) -> Path:
    """An adapter, trained by `accelerate launch` from a folder that is not the repository's."""
    done = run(world, str(BIN / "accelerate"), "launch", "--num_processes", "1", str(SCRIPT), "--config", "tiny.yaml")

    assert done.returncode == 0, done.stderr
    assert "evaluation loss" in done.stdout
    assert "`python -m serve up STACK`" in done.stdout
    assert "--enable-lora --max-lora-rank 8 --lora-modules tiny=" in done.stdout
    return world / "adapters" / "tiny"


def test_the_folder_holds_an_adapter_and_where_it_comes_from(adapter: Path, world: Path) -> None:
    card = json.loads((adapter / "provenance.json").read_text())
    log = [json.loads(line) for line in (adapter / "log.jsonl").read_text().splitlines()]

    assert {file.name for file in adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "log.jsonl",
        "provenance.json",
    }
    assert [entry["step"] for entry in log] == [0, *range(1, card["steps"] + 1), card["steps"]]
    assert (log[0]["eval_loss"], log[-1]["eval_loss"]) == (card["eval_loss_before"], card["eval_loss"])
    assert card["eval_loss"] < card["eval_loss_before"] - 0.5
    assert (card["rows"], card["held_out_rows"], card["overlap"]) == (48, 12, "unchecked")
    assert card["labelled_tokens"] < card["tokens"]
    assert not list((world / "adapters").glob(".*"))


def test_peft_loads_the_adapter_and_it_gives_the_loss_that_was_reported(adapter: Path, world: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    recipe = Recipe(model="", data=world / "chats.jsonl", max_length=192, tokens_per_step=192, eval_fraction=0.2)
    material = prepare(recipe, read_chats(recipe.data), Template.load(world / "model"))
    model = PeftModel.from_pretrained(base, adapter)

    def mean_loss() -> float:
        total = count = 0.0
        for sample in material.held_out:
            labels = [t if labelled else -100 for t, labelled in zip(sample.tokens, sample.labelled, strict=True)]
            mean = model(input_ids=torch.tensor([sample.tokens]), labels=torch.tensor([labels])).loss.item()
            total, count = total + mean * sum(sample.labelled), count + sum(sample.labelled)
        return total / count

    card = json.loads((adapter / "provenance.json").read_text())
    assert mean_loss() == pytest.approx(card["eval_loss"], rel=0.02)  # trained in bfloat16, measured in float32
    with model.disable_adapter():
        assert mean_loss() == pytest.approx(card["eval_loss_before"], rel=0.02)
    assert tokenizer.chat_template == (adapter / "chat_template.jinja").read_text()


def test_vllm_accepts_the_adapter(adapter: Path) -> None:
    peft_helper = pytest.importorskip("vllm.lora.peft_helper")
    from vllm.config.lora import LoRAConfig

    helper = peft_helper.PEFTHelper.from_local_dir(str(adapter), max_position_embeddings=4096)

    helper.validate_legal(LoRAConfig(max_lora_rank=8))
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118 (no mapping)


def test_with_nothing_left_to_do_nothing_is_done_and_no_torch_loaded(adapter: Path, world: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in adapter.iterdir()}
    code = "import sys; from train.lora import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"

    done = run(world, sys.executable, "-c", code, "--config", "tiny.yaml")

    assert done.returncode == 0, done.stderr
    assert "nothing left to do" in done.stdout
    assert done.stdout.endswith("0 False\n")
    assert {file: file.stat().st_mtime_ns for file in adapter.iterdir()} == before


def test_the_same_recipe_makes_the_same_adapter(alone: Path, world: Path) -> None:
    again = train(world, "name=again", *IN_FLOAT32)

    for name in ("adapter_model.safetensors", "adapter_config.json", "chat_template.jinja"):
        assert (again / name).read_bytes() == (alone / name).read_bytes()


def test_a_quantised_base_can_be_trained_on_without_a_gpu(adapter: Path, world: Path) -> None:
    quantised = train(world, "quantize=nf4")

    card = json.loads((quantised / "provenance.json").read_text())
    plain = json.loads((adapter / "provenance.json").read_text())
    assert card["eval_loss"] == pytest.approx(plain["eval_loss"], rel=0.1)


@pytest.mark.parametrize(("name", "settings"), [("together", {}), ("sharing", SHARED)])
def test_two_processes_do_what_one_does(
    name: str, settings: dict[str, str], alone: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    for key, value in settings.items():
        monkeypatch.setenv(key, value)

    done = run(world, *launch, str(ROOT / "tests" / "sharing.py"), "--config", "tiny.yaml", f"name={name}", *IN_FLOAT32)

    assert done.returncode == 0, done.stderr
    logs = [(world / "adapters" / name / "log.jsonl").read_text().splitlines() for name in ("alone", name)]
    for one, two in zip(*(map(json.loads, log) for log in logs), strict=True):
        measured = [key for key in ("loss", "eval_loss", "grad_norm", "tokens", "labelled_tokens") if key in one]
        assert [two[key] for key in measured] == pytest.approx([one[key] for key in measured], rel=1e-4)
    assert done.stdout.count("evaluation loss") == 1


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("rank=12", "rank: Input should be 1, 8, 16"),
        ("data=none.jsonl", "there is no such file"),
        ("max_length=16", "row: is"),
    ],
)
def test_what_cannot_be_trained_is_said_in_sentences(setting: str, said: str, world: Path) -> None:
    done = run(world, sys.executable, str(SCRIPT), "--config", "tiny.yaml", "name=never", setting)

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (world / "adapters" / "never").exists()


def test_help_ends_with_a_line_to_paste(tmp_path: Path) -> None:
    done = run(tmp_path, sys.executable, str(SCRIPT), "--help")

    assert done.returncode == 0
    assert done.stdout.strip().splitlines()[-1].startswith("example: accelerate launch train/lora.py ")


def test_rows_that_are_too_long_are_refused_by_name_or_dropped_as_asked(world: Path) -> None:
    chats, template = read_chats(world / "chats.jsonl"), Template.load(world / "model")
    lengths = {sample.where: len(sample.tokens) for sample in prepare(_cut(world, 4096), chats, template).training}
    longest = max(lengths, key=lambda where: lengths[where])

    with pytest.raises(TrainError, match=rf"{longest} row: is {lengths[longest]} tokens long and max_length is"):
        prepare(_cut(world, lengths[longest] - 1), chats, template)
    dropped = prepare(_cut(world, lengths[longest] - 1, "drop"), chats, template)

    assert longest in dropped.dropped
    assert all(len(sample.tokens) < lengths[longest] for sample in dropped.training + dropped.held_out)
    assert len(dropped.training) + len(dropped.held_out) + len(dropped.dropped) == len(chats)


def _cut(world: Path, max_length: int, too_long: str = "refuse") -> Recipe:
    return Recipe(model="", data=world, max_length=max_length, tokens_per_step=4096, too_long=too_long)  # type: ignore[arg-type]
