"""What the GPUs used while a run asked, by their own counters, added up in the run's energy.json.

Without an NVIDIA GPU, or `nvidia-ml-py` to read it, there is no file: what is not known is not zero. Counts whole GPUs,
whoever else uses them. Knows nothing of what was asked.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from retrieval.files import write_atomically

FILE: Final = "energy.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Over all runs of the same command. One that was killed leaves neither joules nor calls."""

    joules: float
    calls: int
    """Replies that were written for them: shared ones once."""
    seconds: float
    gpus: tuple[str, ...]

    @property
    def kwh_per_1000(self) -> float:
        """Kilowatt-hours for 1,000 replies."""
        return self.joules / max(self.calls, 1) / 3600

    def __add__(self, other: "Energy") -> "Energy":
        return Energy(
            joules=self.joules + other.joules,
            calls=self.calls + other.calls,
            seconds=self.seconds + other.seconds,
            gpus=tuple(dict.fromkeys((*self.gpus, *other.gpus))),
        )


@contextmanager
def gauged(folder: Path, calls: Callable[[], int]) -> Iterator[None]:
    """Add what the GPUs use inside this block to the folder's file; `calls` says how many there have been."""
    with _gpus() as gpus:
        before, began = {name: read() for name, read in gpus.items()}, time.monotonic()
        try:
            yield
        finally:
            joules = sum(read() - before[name] for name, read in gpus.items())
            if gpus:
                used = Energy(joules=joules, calls=calls(), seconds=time.monotonic() - began, gpus=tuple(gpus))
                earlier = read_energy(folder)
                write_atomically(folder / FILE, json.dumps(asdict(earlier + used if earlier else used), indent=1))


def read_energy(folder: Path) -> Energy | None:
    """What a run's folder says; None where nobody could tell."""
    try:
        return _ENERGY.validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


@contextmanager
def _gpus() -> Iterator[dict[str, Callable[[], float]]]:
    """Joules since each GPU's driver was loaded, by name and place; none where there is no GPU that counts them."""
    found: dict[str, Callable[[], float]] = {}
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # no library, no driver, no GPU: NVML has an error class for each
        yield found
        return
    try:
        for place, handle in enumerate(_handles(nvml)):
            with suppress(nvml.NVMLError):  # before Volta there is no counter
                nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
                found[f"{nvml.nvmlDeviceGetName(handle)} {place}"] = _counter(nvml, handle)
        yield found
    finally:
        nvml.nvmlShutdown()


def _handles(nvml: Any) -> list[Any]:
    """The GPUs that an engine may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = range(nvml.nvmlDeviceGetCount()) if visible is None else [one for one in visible.split(",") if one]
    with suppress(nvml.NVMLError, ValueError):  # a part of a GPU has no counter of its own
        return [
            nvml.nvmlDeviceGetHandleByUUID(one)
            if str(one).startswith("GPU-")
            else nvml.nvmlDeviceGetHandleByIndex(int(one))
            for one in names
        ]
    return []


def _counter(nvml: Any, handle: Any) -> Callable[[], float]:
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000


_ENERGY: Final = TypeAdapter(Energy)
