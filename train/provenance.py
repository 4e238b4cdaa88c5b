"""Where an adapter comes from: its identity before training, its card after, and whether there is anything left to do.

Reads and writes JSON; knows nothing of torch.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, Final

from retrieval.files import write_atomically
from train.base import find_base, fingerprint, read_json, revision, sha256
from train.door import TrainError
from train.processes import firsts
from train.recipe import Recipe

CARD: Final = "provenance.json"
IDENTITY: Final = "identity.json"
WEIGHTS: Final = "adapter_model.safetensors"
BASE_NAME: Final = "base_model_name_or_path"
"""PEFT's key for where the base was."""
CHECKPOINTS: Final = "checkpoint-*.safetensors"
PLACES: Final = ("name", "output", "model", "data", "continue_from")
"""Recipe keys that say where things are; what is in them is identified by hash."""
HABITS: Final = ("checkpoint_every", "snapshots", "check_against", "check_embedder", "leaks")
"""Recipe keys that change nothing in the adapter, but for the rows that a check leaves out."""
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
    left_out: Sequence[str]
    """Lines of the data that are test questions, where the recipe says to drop those."""


def identify(recipe: Recipe, base: Path, leaked: Sequence[str] = ()) -> Identity:
    """Hash everything that determines the adapter; TrainError when it cannot start where the recipe says.

    `leaked` are the rows that are left out, as `file:line`.
    """
    settings = {key: value for key, value in asdict(recipe).items() if key not in (*PLACES, *HABITS)}
    hashes = fingerprint(base)
    return Identity(
        recipe=settings,
        base=hashes,
        data=sha256(recipe.data),
        start=_start(recipe.continue_from, settings, hashes) if recipe.continue_from else None,
        left_out=[where.rpartition(":")[2] for where in leaked],
    )


def _start(adapter: Path, settings: Mapping[str, Any], base: Mapping[str, str]) -> str:
    """The hash of the weights to continue from; TrainError where their numbers would mean something else here."""
    if not (adapter / CARD).is_file():
        raise TrainError(f"continue_from: {adapter} is no adapter that was trained here (it has no {CARD})")
    known = _known(adapter / CARD)
    wrong = _other_settings(known["recipe"], settings, ("rank", "alpha", "rslora"))
    wrong += ["another base model"] if known["base"] != base else []
    if wrong:
        raise TrainError(f"{adapter} cannot be continued from: {'; '.join(wrong)}; use the same")
    return sha256(adapter / WEIGHTS)


def is_finished(folder: Path, identity: Identity, what: str = "an adapter") -> bool:
    """Whether `folder` already holds this very thing; TrainError when it, or a training of its name, is another."""
    if not folder.exists():
        started = unfinished(folder)
        if any(started.glob(CHECKPOINTS)):
            _refuse_changes(
                f"{started} holds the checkpoints of another training", _known(started / IDENTITY), identity
            )
        return False
    _refuse_changes(f"{folder} holds {what} made differently", _known(folder / CARD), identity)
    return True


def refuse_strangers(identity: Identity) -> None:
    """TrainError in a process that would train something else than the first one does; all of them must call this."""
    mine = asdict(identity)
    if changed := _changes(firsts(mine), mine):
        raise TrainError(
            f"it would train another adapter than the first process ({'; '.join(changed)}): give each machine the same "
            "recipe, data and base"
        )


def unfinished(folder: Path) -> Path:
    """Where an adapter grows: beside its folder, and hidden, so that no one takes it for an adapter."""
    return folder.with_name(f".{folder.name}.unfinished")


def _known(path: Path) -> dict[str, Any]:
    """The identity in a card, or in an unfinished training's file of it alone."""
    try:
        identity = json.loads(path.read_text(encoding="utf-8"))["identity"]
        return {**identity}
    except (OSError, ValueError, KeyError, TypeError):
        raise TrainError(
            f"{path.parent} has no {path.name} that can be read: delete it, or choose another name=..."
        ) from None


def _refuse_changes(what: str, known: Mapping[str, Any], identity: Identity) -> None:
    if changed := _changes(known, asdict(identity)):
        raise TrainError(f"{what} ({'; '.join(changed)}): delete it to train again, or choose another name=...")


def _changes(known: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words."""
    keys = known["recipe"].keys() | now["recipe"].keys()
    words = _other_settings(known["recipe"], now["recipe"], sorted(keys - {*HABITS}))  # older cards name some of them
    words += ["the base model changed"] if known["base"] != now["base"] else []
    words += ["the data changed"] if known["data"] != now["data"] else []
    words += ["it starts from another adapter"] if known.get("start") != now["start"] else []
    words += ["other rows are left out as test questions"] if known.get("left_out", []) != now["left_out"] else []
    return words


def _other_settings(known: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """The recipe keys that differ; a card that is older than a key was made with its default."""
    defaults = {field.name: field.default for field in fields(Recipe)}
    before = defaults | {**known}
    return [f"{key} {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]


def record_check(folder: Path, overlap: str | Mapping[str, Any]) -> None:
    """Write into a finished adapter's card what its data was checked against since; the adapter itself is the same."""
    path = folder / CARD
    known = read_json(path)
    if overlap not in ("unchecked", known.get("overlap")):
        write_atomically(path, json.dumps({**known, "overlap": overlap}, indent=2) + "\n")


def base_of(adapter: Path, moved: Path | None = None) -> Path:
    """The folder of the base that the adapter was trained on; `moved` is where it is now, if it was moved.

    TrainError when there is no adapter or no base, or when a file of the base is not the one that was trained on. An
    adapter from elsewhere, without provenance.json, is taken at its word.
    """
    if not ((adapter / "adapter_config.json").is_file() and (adapter / WEIGHTS).is_file()):
        raise TrainError(f"{adapter} holds no adapter: train one (accelerate launch train/lora.py), or name its folder")
    known = read_json(adapter / CARD) if (adapter / CARD).exists() else {}
    named = moved or known.get("base", {}).get("id") or read_json(adapter / "adapter_config.json").get(BASE_NAME)
    try:
        base = find_base(str(named))
    except TrainError:
        raise TrainError(
            f"{named} is not the base of {adapter}, or is not there: give the folder where it is now with --base"
        ) from None
    if files := known.get("identity", {}).get("base"):
        now = fingerprint(base)
        if changed := sorted(name for name in files.keys() | now.keys() if files.get(name) != now.get(name)):
            raise TrainError(
                f"{base} is not the base that {adapter} was trained on ({', '.join(changed)} differs): give that one's "
                "folder with --base, or train again"
            )
    return base


def check_space(folder: Path, config: Mapping[str, Any], rank: int) -> None:
    """Refuse before training what could not be saved after it: three times a generous guess of the adapter's size."""
    hidden, layers = config.get("hidden_size", 0), config.get("num_hidden_layers", 0)
    inner = max(config.get("intermediate_size", 0), hidden)
    check_room(folder, SPARE_BYTES + 3 * layers * 7 * rank * (hidden + inner) * 2, "an adapter", "set output=...")


def check_room(folder: Path, needed: int, what: str, remedy: str) -> None:
    """Refuse to write so many bytes where the disk has not as many."""
    free = shutil.disk_usage(next(place for place in [folder, *folder.absolute().parents] if place.exists())).free
    if free < needed:
        raise TrainError(
            f"{folder}: {free / 2**20:,.0f} MiB are free there and {what} needs {needed / 2**20:,.0f} MiB: "
            f"free some space or {remedy}"
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
        "versions": versions(*PACKAGES),
    }


def versions(*packages: str) -> dict[str, str | None]:
    """Those of Python and of these packages; None where one is not installed."""
    return {"python": python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
