"""Several processes, on one machine or more, train the adapter that one would, or all say why not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.ports import held, number_of
from tests.sharing import SHARED
from tests.test_train_resume import ROOT, SCRIPT, WEIGHTS, checkpoint_and_stop
from tests.test_train_run import train
from train import processes
from train.adapter import Workshop
from train.checkpoint import files
from train.door import TrainError
from train.lora import check_machines, main
from train.processes import agreed
from train.provenance import unfinished
from train.recipe import Recipe

MACHINES = ROOT / "train" / "machines"
IN_FLOAT32 = ("dtype=float32", "epochs=2", "checkpoint_every=4")
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
DYING = """
import os, signal, sys
import tests.sharing
from train import fit, lora
def save_and_die(*checkpoint):
    save(*checkpoint)
    os.kill(os.getpid(), signal.SIGKILL)
save, fit.save = fit.save, save_and_die
sys.exit(lora.main())
"""
"""The first process is killed once its checkpoint is on the disk, and the other ends with it."""
PROCESSES = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="module")
def whole(world: Path) -> dict[str, torch.Tensor]:
    """The adapter of one process that nobody stops."""
    return load_file(train(world, "name=whole", *IN_FLOAT32) / WEIGHTS)


def stopped_at_once(world: Path, name: str) -> Path:
    """Have one process train a step; where its checkpoint is."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.fit.asked_to_stop", checkpoint_and_stop)
        assert main(["--config", str(world / "tiny.yaml"), f"name={name}", *IN_FLOAT32]) == 1
    return unfinished(world / "adapters" / name)


def almost(adapter: Path, whole: dict[str, torch.Tensor]) -> bool:
    """Equal to rounding: the sums of two processes are added in another order."""
    found = load_file(adapter / WEIGHTS)
    return all(torch.allclose(found[name].float(), whole[name].float(), atol=2e-3) for name in whole)


@pytest.mark.parametrize(("way", "settings"), [("together", {}), ("sharing", SHARED)])
def test_one_process_goes_on_as_two_and_these_as_one(
    way: str, settings: dict[str, str], world: Path, whole: dict[str, torch.Tensor]
) -> None:
    folder = stopped_at_once(world, way)
    dying = [sys.executable, "-c", DYING, "--config", str(world / "tiny.yaml"), f"name={way}", *IN_FLOAT32]
    environment = os.environ | PROCESSES | settings
    two = subprocess.run([*TWO, *dying], cwd=ROOT, env=environment, capture_output=True, timeout=300, check=False)
    assert two.returncode == 1, two.stderr
    steps = [file.name for file in files(folder)]

    adapter = train(world, f"name={way}", *IN_FLOAT32)

    assert steps == ["checkpoint-00000001.safetensors", "checkpoint-00000004.safetensors"]
    assert almost(adapter, whole)


def on_two_machines(world: Path, other: Path, *settings: str) -> list[tuple[int, str]]:
    """As a user would: one command on each, from a folder that the other cannot see; exit codes and words."""
    with held() as meeting:
        launch = [str(Path(sys.executable).parent / "accelerate"), "launch"]
        launch += ["--main_process_port", str(number_of(meeting))]
        launch += ["--config_file", str(MACHINES / "ddp-nodes.yaml"), "--machine_rank"]
        machines = [
            subprocess.Popen(
                [*launch, str(rank), str(SCRIPT), "--config", "tiny.yaml", *settings],
                cwd=folder,
                env=os.environ | PROCESSES,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, folder in enumerate((world, other))
        ]
        said = [machine.communicate(timeout=300)[0] for machine in machines]
    return [(machine.returncode, words) for machine, words in zip(machines, said, strict=True)]


@pytest.fixture
def other(world: Path, tmp_path: Path) -> Path:
    """Another machine's copy of base, data and recipe."""
    shutil.copytree(world, tmp_path / "other", ignore=shutil.ignore_patterns("adapters"))
    return tmp_path / "other"


def test_two_machines_without_a_common_disk_go_on_from_the_first_ones_checkpoint(
    world: Path, other: Path, whole: dict[str, torch.Tensor]
) -> None:
    stopped_at_once(world, "far")

    codes = on_two_machines(world, other, "name=far", *IN_FLOAT32)

    assert [code for code, _ in codes] == [0, 0], codes
    assert almost(world / "adapters" / "far", whole)
    assert not (other / "adapters").exists()


def test_machines_with_other_data_refuse_together(world: Path, other: Path) -> None:
    chats = (other / "chats.jsonl").read_text().splitlines(keepends=True)
    (other / "chats.jsonl").write_text("".join(chats[1:]))

    (code, said), (second, _) = on_two_machines(world, other, "name=never")

    assert (code, second) == (1, 1)
    assert "refuses: it would train another adapter than the first process (the data changed)" in said
    assert not (world / "adapters" / "never").exists()


def test_an_adapter_that_is_being_trained_is_refused_on_all_machines_at_once(world: Path, other: Path) -> None:
    workshop = Workshop(world / "adapters" / "busy", {}, "", lambda results: results)

    with workshop.locked():
        first, second = on_two_machines(world, other, "name=busy")

    assert (first[0], second[0]) == (1, 1)
    assert "busy is being trained by another process: wait for it" in first[1]
    assert "RuntimeError" not in second[1], "it does not wait for the first one until that is gone"


def spoken_by_two(program: str, *arguments: str) -> str:
    """What two processes that run this write to stderr."""
    done = subprocess.run(
        [*TWO, sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=os.environ | PROCESSES | {"ACCELERATE_USE_CPU": "True"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


FULL_AND_STOPPED = """
import sys
from tests.test_train_resume import checkpoint_and_stop
from train import fit, lora
def full(*_):
    raise OSError(28, "No space left on device")
fit.asked_to_stop, fit.save = checkpoint_and_stop, full
sys.exit(lora.main())
"""
UNWRITABLE = """
import sys
from train import adapter, lora
def full(*_, **__):
    raise OSError(28, "No space left on device")
adapter.save_file = full
sys.exit(lora.main())
"""
BROKEN_ROW = """
import sys
from pathlib import Path
import torch
from tests.training_worker import random_samples
from train.door import TrainError, refuse
from train.fit import set_up, step
from train.recipe import Recipe
base, rows = Path(sys.argv[1]), random_samples([7, 30, 12, 55, 3])
trainer = set_up(Recipe(model=str(base), data=base, name="t", dtype="float32", rank=8), base)
model = trainer.model.get_base_model()
model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
model.model.embed_tokens.weight[rows[3].tokens[0]] = torch.nan
try:
    step(trainer, [rows[:3], rows[3:]], rate=1e-3)
except TrainError as error:
    sys.exit(refuse(error))
"""


def test_two_processes_that_stop_say_once_whether_there_is_a_checkpoint(world: Path) -> None:
    said = spoken_by_two(FULL_AND_STOPPED, "--config", str(world / "tiny.yaml"), "name=stopped")

    assert said.count("as asked; the same command goes on from") == 1
    assert "goes on from the checkpoint before, since this one could not be written" in said


def test_an_adapter_that_the_first_cannot_write_ends_both(world: Path) -> None:
    said = spoken_by_two(UNWRITABLE, "--config", str(world / "tiny.yaml"), "name=full", "epochs=1", "snapshots=1")

    assert said.count("cannot be written ([Errno 28] No space left on device): free some space") == 1
    assert "RuntimeError" not in said


def test_a_loss_that_is_not_a_number_in_one_process_is_blamed_once_on_its_rows(world: Path) -> None:
    said = spoken_by_two(BROKEN_ROW, str(world / "model"))

    assert said.count("is not a finite number") == 1
    assert "the loss is not a finite number" in said
    assert "The rows it came from: chats.jsonl:4, chats.jsonl:5. " in said


def refuse() -> None:
    raise TrainError("no disk")


def test_a_refusal_anywhere_is_said_once_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def others(told: tuple[str, str] | None) -> list[tuple[str, str] | None]:
        return [told, ("b", "no data"), ("c", "no base")]

    monkeypatch.setattr(processes, "everyones", others)

    with pytest.raises(TrainError, match=r"^process 1 on b refuses: no data$"):
        agreed(lambda: 1)
    with pytest.raises(TrainError, match=r"^no disk$"):
        agreed(refuse)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="1"):
        agreed(lambda: 1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"WORLD_SIZE": "3"}, "3 processes share steps of 2 packs .* set tokens_per_step=600 or more, or start fewer"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "take a file of train/machines/"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "set fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, None),
    ],
)
def test_what_could_not_work_is_refused_at_the_door(
    settings: dict[str, str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    recipe = Recipe(model="m", data=Path("d"), max_length=200, tokens_per_step=500)

    if said is None:
        check_machines(recipe)
    else:
        with pytest.raises(TrainError, match=said):
            check_machines(recipe)


def test_a_base_is_not_said_to_be_shared_where_it_is_not(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in SHARED.items():
        monkeypatch.setenv(key, value)

    assert main(["--config", str(world / "tiny.yaml"), "name=never"]) == 1

    assert "Accelerate shares a base among GPUs only" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_more_machines_change_nothing_but_who_is_where(kind: str) -> None:
    one, more = (yaml.safe_load((MACHINES / f"{name}.yaml").read_text()) for name in (kind, f"{kind}-nodes"))

    assert {key: more[key] for key in one} == {**one, "num_machines": 2}
