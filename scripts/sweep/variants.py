"""One recipe in which keys have lists becomes several recipes, each with a name that says what differs.

Reads the recipe and nothing it names. Knows nothing of training or of scores.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import yaml

from retrieval.files import FileError, plain, write_atomically
from serve.combination import BASE
from train.door import TrainError
from train.provenance import HABITS
from train.recipe import MODELS, NAME, PATHS, Recipe, folder_or_id, lists, read_recipe

SAME_ADAPTER: Final = ("name", "output", *HABITS)
"""Keys that change nothing in an adapter, so that trying several values of them would train it twice."""
UNSET: Final[Mapping[str, str]] = {"rows": "all", "learning_rate": "default", "continue_from": "nothing"}
"""How a name says null, where that is a value."""
LONGEST_SNAPSHOT: Final = len(".s00000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One of the trainings."""

    recipe: Recipe
    tried: Mapping[str, Any]
    """The keys that had lists, with this training's values."""

    @property
    def name(self) -> str:
        """Its adapter's."""
        return self.recipe.name

    @property
    def folder(self) -> Path:
        """Where its adapter will be, or is."""
        return self.recipe.output / self.recipe.name

    @property
    def start(self) -> str:
        """What it starts from, as an evaluation names it: the base, or the adapter that it continues."""
        return f"from.{said('continue_from', self.recipe.continue_from)}" if self.recipe.continue_from else BASE


def read_variants(path: Path) -> tuple[tuple[Variant, ...], list[str]]:
    """Every recipe that the file's lists mean, the first key slowest, and what is wrong with the others or with all.

    FileError where the file is no recipe at all.
    """
    several = lists(path)
    problems = list(_useless(path, several))
    variants: list[Variant] = []
    for values in product(*several.values()):
        tried = dict(zip(several, values, strict=True))
        try:
            recipe = read_recipe(path, [_override(path, key, value) for key, value in tried.items()])
        except (FileError, TrainError) as error:
            problems += str(error).split("\n")
            continue
        meant = {key: getattr(recipe, key) for key in tried}
        variants.append(Variant(recipe=replace(recipe, name=named(recipe.name, meant)), tried=meant))
    problems += _misnamed(path, variants)
    if not several and variants and not variants[0].recipe.snapshots:
        problems.append(
            f"{path}: nothing to compare: no key has a list and `snapshots` is 0; write for instance "
            "`learning_rate: [1.0e-4, 3.0e-4]`, or `snapshots: 4` for the checkpoints of one training"
        )
    return tuple(variants), problems


def named(name: str, tried: Mapping[str, Any]) -> str:
    """The adapter's name, with what differs behind it.

    >>> named("mine", {"rows": None, "learning_rate": 0.0002, "rslora": True, "data": Path("old/Chats 2.jsonl")})
    'mine.rows-all.learning_rate-0.0002.rslora-true.data-chats-2'
    """
    return ".".join([name, *(f"{key}-{said(key, value)}" for key, value in tried.items())])


def said(key: str, value: Any) -> str:
    """A value as a part of a name.

    >>> said("learning_rate", 5e-5), said("epochs", 3), said("learning_rate", None)
    ('5e-05', '3', 'default')
    """
    if value is None:
        return UNSET[key]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    text = value.name.removesuffix(".jsonl") if isinstance(value, Path) else str(value).rpartition("/")[2]
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower())


def write_recipe(recipe: Recipe, file: Path) -> Path:
    """The recipe as a file that the front door of training reads; its paths are absolute."""
    defaults = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
    written = {key: value for key, value in asdict(recipe).items() if value != defaults.get(key, MISSING)}
    write_atomically(file, yaml.safe_dump(plain(written), sort_keys=False, allow_unicode=True))
    return file


def _override(path: Path, key: str, value: Any) -> str:
    """`key=value` for `read_recipe`, which takes a path there from the working folder instead of the recipe's."""
    if not isinstance(value, str):
        return f"{key}={json.dumps(value)}"
    here = path.resolve().parent
    return f"{key}={here / value if key in PATHS else folder_or_id(value, here) if key in MODELS else value}"


def _useless(path: Path, several: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    for key, values in several.items():
        if key in SAME_ADAPTER:
            yield f"{path}: {key}: changes nothing in an adapter, so there is nothing to try; give it one value"
        elif not values:
            yield f"{path}: {key}: the list is empty; give the values to try"


def _misnamed(path: Path, variants: Sequence[Variant]) -> Iterator[str]:
    for name, times in Counter(variant.name for variant in variants).items():
        if times > 1:
            yield f"{path}: {times} variants would be called {name}; give each value once, and files other names"
        if len(name) + LONGEST_SNAPSHOT > 64:
            yield f"{path}: {name} is too long for an adapter's name; set a shorter `name`, or try fewer keys at once"
        elif not NAME.fullmatch(name):
            yield f"{path}: {name} cannot name an adapter; name the files after small letters and digits"
    for start in {variant.start for variant in variants}:
        if not NAME.fullmatch(start):
            yield f"{path}: continue_from: {start} cannot name an adapter; give its folder a shorter name"
