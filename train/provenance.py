"""Where an adapter comes from: its identity before training, its card after, and whether there is anything left to do.

Reads and writes JSON; knows nothing of torch.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, Final

from train.base import fingerprint, revision, sha256
from train.door import TrainError
from train.recipe import Recipe

CARD: Final = "provenance.json"
IDENTITY: Final = "identity.json"
WEIGHTS: Final = "adapter_model.safetensors"
PLACES: Final = ("name", "output", "model", "data", "continue_from", "check_against")
"""Recipe keys that say where things are; what is in them is identified by hash."""
HABITS: Final = ("checkpoint_every", "snapshots")
"""Recipe keys that change nothing in the adapter."""
PACKAGES: Final = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors", "tokenizers")
SPARE_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Two trainings with equal identities make the same adapter."""

    recipe: Mapping[str, Any]
    base: Mapping[str, str]
    """File name -> sha256."""
    data: str
    """sha256"""
    start: str | None
    """sha256 of the weights that the training continues from."""
    tests: Sequence[str]
    """sha256 of the test sets that the data was checked against."""


def identify(recipe: Recipe, base: Path) -> Identity:
    """Hash everything that determines the adapter."""
    settings = {key: value for key, value in asdict(recipe).items() if key not in (*PLACES, *HABITS)}
    return Identity(
        recipe=settings,
        base=fingerprint(base),
        data=sha256(recipe.data),
        start=sha256(recipe.continue_from / WEIGHTS) if recipe.continue_from else None,
        tests=[sha256(test) for test in recipe.check_against],
    )


def is_finished(folder: Path, identity: Identity) -> bool:
    """Whether `folder` already holds this very adapter; TrainError when it, or a training of its name, is another."""
    if not folder.exists():
        started = unfinished(folder)
        if list(started.glob("checkpoint-*")):
            _refuse_changes(f"{started} holds the checkpoints of another training", _read(started / IDENTITY), identity)
        return False
    _refuse_changes(f"{folder} holds an adapter made differently", _read(folder / CARD)["identity"], identity)
    return True


def unfinished(folder: Path) -> Path:
    """Where an adapter grows: beside its folder, and hidden, so that no one takes it for an adapter."""
    return folder.with_name(f".{folder.name}.unfinished")


def check_start(recipe: Recipe, base: Path) -> None:
    """Refuse to continue from an adapter whose numbers would mean something else here."""
    if recipe.continue_from is None:
        return
    card = _read(recipe.continue_from / CARD)["identity"]
    wrong = [
        f"{key} {card['recipe'].get(key)} -> {getattr(recipe, key)}"
        for key in ("rank", "alpha", "rslora")
        if card["recipe"].get(key) != getattr(recipe, key)
    ]
    wrong += ["another base model"] if card["base"] != fingerprint(base) else []
    if wrong:
        raise TrainError(f"{recipe.continue_from} cannot be continued from: {'; '.join(wrong)}; use the same")


def _read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(held, dict)
        return {"identity": held["identity"]} if path.name == CARD else held
    except (OSError, ValueError, KeyError, AssertionError):
        raise TrainError(
            f"{path.parent} has no {path.name} that can be read: delete it, or choose another name=..."
        ) from None


def _refuse_changes(what: str, known: Mapping[str, Any], identity: Identity) -> None:
    if changed := _changes(known, asdict(identity)):
        raise TrainError(f"{what} ({'; '.join(changed)}): delete it to train again, or choose another name=...")


def _changes(known: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words."""
    defaults = {field.name: field.default for field in fields(Recipe)}  # of keys that older cards do not have
    recipes = defaults | known["recipe"], defaults | now["recipe"]
    keys = sorted(recipes[0].keys() | recipes[1].keys())
    words = [
        f"{key} {recipes[0].get(key)} -> {recipes[1].get(key)}"
        for key in keys
        if recipes[0].get(key) != recipes[1].get(key)
    ]
    words += ["the base model changed"] if known["base"] != now["base"] else []
    words += ["the data changed"] if known["data"] != now["data"] else []
    words += ["it starts from another adapter"] if known.get("start") != now["start"] else []
    words += ["the test sets to check against changed"] if known.get("tests", []) != list(now["tests"]) else []
    return words


def check_space(folder: Path, config: Mapping[str, Any], rank: int) -> None:
    """Refuse before training what could not be saved after it: three times a generous guess of the adapter's size."""
    hidden, layers = config.get("hidden_size", 0), config.get("num_hidden_layers", 0)
    inner = max(config.get("intermediate_size", 0), hidden)
    needed = SPARE_BYTES + 3 * layers * 7 * rank * (hidden + inner) * 2
    free = shutil.disk_usage(next(parent for parent in [folder, *folder.parents] if parent.exists())).free
    if free < needed:
        raise TrainError(
            f"{folder}: {free / 2**20:,.0f} MiB are free there and an adapter needs {needed / 2**20:,.0f} MiB: "
            "free some space or set output=..."
        )


def card(
    recipe: Recipe, identity: Identity, base: Path, overlap: str | Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything one may want to know of an adapter later; `overlap` says what the data was checked against."""
    return {
        "name": recipe.name,
        "base": {"id": recipe.model, "revision": revision(base)},
        "data": {"path": str(recipe.data)},
        "identity": asdict(identity),
        "overlap": overlap,
        **results,
        "versions": {"python": python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
