"""Where an adapter comes from: its identity before training, its card after, and whether there is anything left to do.

Reads and writes JSON; knows nothing of torch.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, Final

from train.base import fingerprint, revision, sha256
from train.door import TrainError
from train.recipe import Recipe

CARD: Final = "provenance.json"
PLACES: Final = ("name", "output", "model", "data")
"""Recipe keys that say where things are; what is in them is identified by hash."""
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


def identify(recipe: Recipe, base: Path) -> Identity:
    """Hash everything that determines the adapter."""
    settings = {key: value for key, value in asdict(recipe).items() if key not in PLACES}
    return Identity(recipe=settings, base=fingerprint(base), data=sha256(recipe.data))


def is_finished(folder: Path, identity: Identity) -> bool:
    """Whether `folder` already holds this very adapter; TrainError when it holds another one."""
    if not folder.exists():
        return False
    try:
        known = json.loads((folder / CARD).read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        raise TrainError(
            f"{folder} exists and has no {CARD} that can be read: delete it, or choose another name=..."
        ) from None
    changed = _changes(known, asdict(identity))
    if changed:
        raise TrainError(
            f"{folder} holds an adapter made differently ({'; '.join(changed)}): "
            "delete it to train again, or choose another name=..."
        )
    return True


def _changes(known: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words."""
    recipes = known["recipe"], now["recipe"]
    keys = sorted(recipes[0].keys() | recipes[1].keys())
    words = [
        f"{key} {recipes[0].get(key)} -> {recipes[1].get(key)}"
        for key in keys
        if recipes[0].get(key) != recipes[1].get(key)
    ]
    words += ["the base model changed"] if known["base"] != now["base"] else []
    words += ["the data changed"] if known["data"] != now["data"] else []
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


def card(recipe: Recipe, identity: Identity, base: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Everything one may want to know of an adapter later."""
    return {
        "name": recipe.name,
        "base": {"id": recipe.model, "revision": revision(base)},
        "data": {"path": str(recipe.data)},
        "identity": asdict(identity),
        "overlap": "unchecked",
        **results,
        "versions": {"python": python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
