"""The same rows give the same gradient and loss, however they are spread over packs, accumulation and processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.sharing import SHARED
from tests.tiny import CONFIG, make_model
from tests.training_worker import BASES, PACKINGS

ROOT = Path(__file__).parents[1]
SHARING = "two processes that share the base"
MACHINES = {
    "one process": (1, {}),
    "two processes": (2, {}),
    SHARING: (2, SHARED),
}


def spread(folder: Path, base: Path, processes: int, settings: dict[str, str]) -> dict[str, torch.Tensor]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*launch, "-m", "tests.training_worker", str(base), str(folder / "found.safetensors")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "True"} | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found.safetensors")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "model", width=64)


@pytest.fixture(scope="module")
def on(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, torch.Tensor]]:
    """What was found on a machine; each is asked once."""
    return cache(lambda machine: spread(tmp_path_factory.mktemp("found"), base, *MACHINES[machine]))


@pytest.mark.parametrize("bits", BASES)
@pytest.mark.parametrize("machine", MACHINES)
def test_the_gradient_is_the_same_to_a_hundred_thousandth(
    machine: str, bits: str, on: Callable[[str], dict[str, torch.Tensor]]
) -> None:
    expected, found = on("one process"), on(machine)

    for way in PACKINGS:
        gradient, wanted = (of[f"{bits}: {at}: gradient"] for of, at in ((found, way), (expected, "1 of 16")))
        assert (gradient - wanted).norm() / wanted.norm() < 1e-5
        assert torch.allclose(found[f"{bits}: {way}: loss"], expected[f"{bits}: 1 of 16: loss"], rtol=1e-6)


@pytest.mark.parametrize("bits", BASES)
@pytest.mark.parametrize("machine", MACHINES)
def test_a_base_is_whole_everywhere_or_in_shares_that_are_gathered_a_layer_at_a_time(
    machine: str, bits: str, on: Callable[[str], dict[str, torch.Tensor]]
) -> None:
    share, parts = (on(machine)[f"{bits}: {what}"] for what in ("share", "parts"))

    if machine == SHARING:  # embeddings and head are a part of their own; a parameter of one row is one process's
        assert share < 0.7
        assert parts == CONFIG["num_hidden_layers"] + 1
    else:
        assert (share, parts) == (1, 0)
