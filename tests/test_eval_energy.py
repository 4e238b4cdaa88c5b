# ruff: noqa: N802 - the names are those of NVML
"""Joules come from the GPU's own counters, are added up over runs, and are absent where nobody counts them."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from eval.analysis import analyse
from eval.energy import FILE, Energy, gauged, read_energy
from eval.grid import load_grid
from eval.report import render
from eval.run import computed_here, run
from serve.stack import EngineSettings, Stack
from tests.eval_simulation import grid_of, simulate
from tests.eval_stub import Stub, serving, write_world


class Counters(ModuleType):
    """NVML with two GPUs, each of which uses 500 mJ between two looks; the second is too old to count."""

    class NVMLError(Exception): ...

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.millijoules = 1_000_000
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, place: int) -> int:
        return place

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "H100"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if handle:
            raise self.NVMLError
        self.millijoules += 500
        return self.millijoules


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    made = Counters()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


def test_what_was_used_is_added_up_over_runs_even_when_one_breaks_off(counters: Counters, tmp_path: Path) -> None:
    with gauged(tmp_path, lambda: 3):
        pass
    with pytest.raises(KeyboardInterrupt), gauged(tmp_path, lambda: 2):
        raise KeyboardInterrupt

    spent = read_energy(tmp_path)
    assert spent is not None
    assert (spent.joules, spent.calls, spent.gpus) == (1.0, 5, ("H100 0",))
    assert counters.open == 0


@pytest.mark.parametrize("visible", ["", "1", "MIG-7"])
def test_gpus_that_are_hidden_or_do_not_count_leave_no_file(
    counters: Counters, visible: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    with gauged(tmp_path, lambda: 3):
        pass

    assert not (tmp_path / FILE).exists()
    assert read_energy(tmp_path) is None


def test_a_run_whose_replies_another_machine_may_write_counts_no_gpu_of_this_one(
    counters: Counters, tmp_path: Path
) -> None:
    with serving(Stub(lambda model, messages: "word")) as stub:
        run(load_grid(write_world(tmp_path, stub.url, n=2)), tmp_path / "out")

    assert (tmp_path / "out" / "records.jsonl").is_file()
    assert not (tmp_path / "out" / FILE).exists()


@pytest.mark.parametrize(
    ("settings", "here"), [({}, True), ({"ray": "local"}, True), ({"ray": "head:6379", "replicas": 2}, False)]
)
def test_engines_are_of_this_machine_unless_a_cluster_has_them(settings: dict[str, Any], here: bool) -> None:
    stack = Stack(model="m", strategies={}, engine=EngineSettings(**settings))

    assert computed_here(stack) is here


def test_without_the_library_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)

    with gauged(tmp_path, lambda: 3):
        pass

    assert read_energy(tmp_path) is None


def test_sums_keep_every_gpu_once() -> None:
    one = Energy(joules=1.0, calls=1, seconds=2.0, gpus=("a", "b"))

    assert one + Energy(joules=2.0, calls=3, seconds=1.0, gpus=("b", "c")) == Energy(
        joules=3.0, calls=4, seconds=3.0, gpus=("a", "b", "c")
    )


def test_the_report_says_what_was_used_and_nothing_where_nobody_knows() -> None:
    grid = grid_of(["base"], ["none", "dense"], ["direct"], "base:none:direct")
    results = simulate(grid, lambda cell, part: 0.5, 8, 0)
    used = Energy(joules=7.2e6, calls=4000, seconds=9.0, gpus=("H200 0",))

    assert "Energy: 0.5 kWh for 1,000 replies, H200 0" in render(analyse(results, energy=used))
    assert "kWh" not in render(analyse(results))
