"""A training that is stopped or killed goes on as if nothing had happened, or says why it cannot."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tests.test_train_run import run, train
from train import checkpoint
from train.adapter import Workshop
from train.base import check_it_can_be_served
from train.checkpoint import Checkpoint, Progress, newest, save
from train.door import TrainError
from train.lora import main
from train.memory import largest_that_fits, told_when_full

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "train" / "lora.py"
WEIGHTS = "adapter_model.safetensors"


WAITING = """
import sys, time
from contextlib import contextmanager
from itertools import count
from train import fit, lora
@contextmanager
def waiting():
    steps = count(1)
    def asked_by_now():
        until = time.monotonic() + 300 * (next(steps) == 5)
        while not asked() and time.monotonic() < until:
            time.sleep(0.01)
        return asked()
    with asked_to_stop() as asked:
        yield asked_by_now
asked_to_stop, fit.asked_to_stop = fit.asked_to_stop, waiting
sys.exit(lora.main())
"""
"""A training that waits in its fifth step until it is asked to stop: it cannot be over before."""


def at(step: int) -> Checkpoint:
    """A small checkpoint."""
    return Checkpoint(Progress(step=step, pack=8, eval_loss_before=None), {"a": torch.full((3,), float(step))})


def test_killed_at_random_moments_it_ends_with_the_same_bits(world: Path) -> None:
    check = [sys.executable, "-m", "scripts.check_resume", "--kills", "6", "--rows", "60"]

    done = run(ROOT, *check, "--config", str(world / "tiny.yaml"), "--data", str(world / "chats.jsonl"))

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 kills, ")
    assert "each with the unkilled one's adapter" in done.stdout


def test_asked_politely_it_stops_after_the_step_and_goes_on_later(world: Path) -> None:
    whole = train(world, "name=whole", "dtype=float32", "epochs=6")
    settings = ["--config", str(world / "tiny.yaml"), "name=polite", "dtype=float32", "epochs=6"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, *settings], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    log = world / "adapters" / ".polite.unfinished" / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)

    said = process.communicate()[1]
    before = log.read_text().splitlines()
    polite = train(world, "name=polite", "dtype=float32", "epochs=6")

    assert process.returncode == 1
    assert "as asked; the same command goes on from there" in said
    assert (polite / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert (polite / "log.jsonl").read_text().splitlines()[: len(before)] == before
    steps = [json.loads(line)["step"] for line in (polite / "log.jsonl").read_text().splitlines()]
    assert steps == [0, *range(1, max(steps) + 1), max(steps)]


def test_another_recipe_does_not_go_on_from_its_checkpoints(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("train.fit.asked_to_stop", checkpoint_and_stop)
    settings = ["--config", str(world / "tiny.yaml"), "name=changed", "dtype=float32"]
    assert main(settings) == 1
    capsys.readouterr()

    assert main([*settings, "alpha=64"]) == 1

    said = capsys.readouterr().err
    assert "holds the checkpoints of another training (alpha 32 -> 64)" in said
    assert "delete it to train again, or choose another name" in said


class checkpoint_and_stop:  # noqa: N801 (stands for a function)
    """As if asked to stop from the start."""

    def __enter__(self) -> object:
        return lambda: True

    def __exit__(self, *_: object) -> None:
        pass


def test_checkpoints_are_whole_and_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save(tmp_path, at(step))

    assert [file.name for file in sorted(tmp_path.iterdir())] == [
        "checkpoint-00000002.safetensors",
        "checkpoint-00000010.safetensors",
    ]
    held = newest(tmp_path)
    assert held is not None
    assert (held.progress.step, held.tensors["a"].tolist()) == (10, [10.0] * 3)


@pytest.mark.parametrize("fails", ["save_file", "flush"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    save(tmp_path, at(1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, fails, full)

    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, at(2))

    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint-00000001.safetensors"]


def test_on_a_full_disk_training_goes_on(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.fit.save", full)

    adapter = train(world, "name=crowded", "dtype=float32", "epochs=1", "checkpoint_every=3")

    assert (adapter / WEIGHTS).exists()
    assert "no checkpoint at step 3: [Errno 28] No space left on device; training goes on" in capsys.readouterr().err


def test_snapshots_are_adapters_and_change_nothing(world: Path) -> None:
    plain = train(world, "name=plain", "dtype=float32", "epochs=1")

    kept = train(world, "name=kept", "dtype=float32", "epochs=1", "snapshots=2")

    steps = json.loads((kept / "provenance.json").read_text())["steps"]
    assert (kept / WEIGHTS).read_bytes() == (plain / WEIGHTS).read_bytes()
    folders = sorted(folder.name for folder in kept.parent.glob("kept.s*"))
    assert folders == [f"kept.s{round(steps * i / 3):05d}" for i in (1, 2)]
    cards = [json.loads((kept.parent / name / "provenance.json").read_text()) for name in (*folders, "kept")]
    assert [card["name"] for card in cards] == [*folders, "kept"]
    assert cards[0]["steps"] < cards[1]["steps"] < cards[2]["steps"]
    assert cards[0]["eval_loss"] > cards[1]["eval_loss"] > cards[2]["eval_loss"]


def test_an_adapter_can_be_continued_from(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(world, "name=first", "dtype=float32", "epochs=1")
    card = json.loads((first / "provenance.json").read_text())

    second = train(world, "name=second", "dtype=float32", "epochs=1", f"continue_from={first}", "learning_rate=1e-9")

    assert json.loads((second / "provenance.json").read_text())["eval_loss_before"] == card["eval_loss"]
    start, end = (load_file(folder / WEIGHTS) for folder in (first, second))
    assert all(torch.allclose(start[name].float(), end[name].float(), atol=1e-4) for name in start)
    capsys.readouterr()
    settings = ["--config", str(world / "tiny.yaml"), "name=third", f"continue_from={first}", "rank=16", "alpha=8"]
    assert main(settings) == 1
    assert f"{first} cannot be continued from: rank 8 -> 16; alpha 32 -> 8; use the same" in capsys.readouterr().err


@pytest.mark.parametrize("limit", range(100, 1700, 300))
def test_the_budget_is_halved_until_it_fits(limit: int) -> None:
    tried: list[int] = []

    def attempt(tokens: int) -> bool:
        tried.append(tokens)
        return tokens <= limit

    fits = largest_that_fits(attempt, most=1600, least=50)

    assert tried == [1600 // 2**i for i in range(len(tried))]
    assert fits == tried[-1] <= limit < (tried[-2] if len(tried) > 1 else 1e9)


def test_a_row_that_does_not_fit_says_who_holds_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = ("9999999, /usr/bin/python, 20000 MiB", f"{os.getpid()}, ourselves, 9 MiB", "No devices were found")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    said = r"process 9999999 \(/usr/bin/python\) holds 20000 MiB of the GPU\. Set"
    with pytest.raises(TrainError, match=f"has 900: {said}"):
        largest_that_fits(lambda _: False, most=1600, least=900)
    with pytest.raises(TrainError, match=f"the GPU's memory is full: {said}"), told_when_full():
        raise torch.OutOfMemoryError


def test_one_name_is_trained_by_one_process(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--config", str(world / "tiny.yaml"), "name=twice", "epochs=1"]
    workshop = Workshop(world / "adapters" / "twice", {}, "", lambda results: results)

    with workshop.locked():
        assert main(settings) == 1

    assert "twice is being trained by another process: wait for it" in capsys.readouterr().err
    assert main(settings) == 0


def test_a_training_whose_launcher_was_killed_stops_after_its_step(world: Path) -> None:
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "--num_processes", "1"]
    settings = ["--config", str(world / "tiny.yaml"), "name=orphan", "epochs=2000"]
    workshop = Workshop(world / "adapters" / "orphan", {}, "", lambda results: results)
    log = workshop.unfinished / "log.jsonl"
    launcher = subprocess.Popen(
        [*launch, str(ROOT / "train" / "lora.py"), *settings], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    _until(lambda: log.exists() and len(log.read_text().splitlines()) > 2)

    launcher.terminate()
    launcher.wait()

    _until(lambda: _is_free(workshop))
    assert newest(workshop.unfinished) is not None


def _is_free(workshop: Workshop) -> bool:
    try:
        with workshop.locked():
            return True
    except TrainError:
        return False


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_an_adapter_that_cannot_be_written_is_a_sentence_and_its_checkpoints_stay(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--config", str(world / "tiny.yaml"), "name=full", "epochs=1"]

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("train.adapter.save_file", full)
        assert main(settings) == 1
    assert "full cannot be written (No space left on device): free some space" in capsys.readouterr().err
    assert main(settings) == 0


def test_a_base_that_the_server_could_not_load_is_refused(world: Path) -> None:
    with pytest.raises(TrainError, match="could be trained here but not served; take a smaller base"):
        check_it_can_be_served(world / "model", 10**6)

    check_it_can_be_served(world / "model", 10**8)
