"""The same rows give the same gradient and loss, however they are spread over packs, accumulation and processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.sharing import SHARED
from tests.tiny import CONFIG, make_model
from tests.training_worker import PACKINGS

ROOT = Path(__file__).parents[1]
MACHINES = {
    "one process": (1, {}),
    "two processes": (2, {}),
    "two processes that share the base": (2, SHARED),
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
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / "found.safetensors")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "model", width=64)


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return spread(tmp_path_factory.mktemp("alone"), base, 1, {})


@pytest.mark.parametrize("machine", MACHINES)
def test_the_gradient_is_the_same_to_a_hundred_thousandth(
    machine: str, base: Path, alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    processes, settings = MACHINES[machine]
    expected, loss = alone["1 of 16: gradient"], alone["1 of 16: loss"]

    found = alone if machine == "one process" else spread(tmp_path, base, processes, settings)

    for way in PACKINGS:
        error = (found[f"{way}: gradient"] - expected).norm() / expected.norm()
        assert error < 1e-5
        assert torch.allclose(found[f"{way}: loss"], loss, rtol=1e-6)
    if settings:  # half of the base each, gathered a layer at a time, embeddings and head apart
        assert found["share"] < 0.6
        assert found["gathered"] == CONFIG["num_hidden_layers"] + 1
    else:
        assert (found["share"], found["gathered"]) == (1, 0)
