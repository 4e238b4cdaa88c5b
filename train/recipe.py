"""A recipe: everything that determines an adapter, read from a YAML file and `key=value` words.

Knows nothing of torch, tokens or how training is done.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from retrieval.files import STRICT, read_yaml
from train.door import TrainError

REPOSITORY: Final = Path(__file__).resolve().parents[1]
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MAX_LEARNING_RATE: Final = 5e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Paths are absolute once `read_recipe` has returned it."""

    __pydantic_config__: ClassVar = STRICT

    model: str
    """A folder, or the id of a model that `scripts/fetch.py` has brought."""
    data: Path
    output: Path = REPOSITORY / "out" / "adapters"
    name: str = ""
    """The adapter's name; by default the recipe file's, with `-nf4` behind it when the base is quantised."""

    rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    """The ranks vLLM can be started with."""
    alpha: Annotated[int, Field(ge=1)] = 32
    quantize: Literal["none", "nf4"] = "none"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the frozen base and of products; `auto` is bfloat16 where the machine is fast in it. Adapters are float32."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """None: `default_learning_rate` of the model."""
    epochs: Annotated[int, Field(ge=1)] = 3
    max_length: Annotated[int, Field(ge=8)] = 4096
    """Tokens in one pack (a forward pass), and so in the longest row."""
    tokens_per_step: Annotated[int, Field(ge=8)] = 8192
    """Tokens in one optimiser step, over all packs and processes."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What to do with a row longer than `max_length`. Nothing is ever cut."""

    eval_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """The share of rows held out for the evaluation loss; 0 holds out none."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens_per_step < self.max_length:
            raise ValueError(
                f"tokens_per_step ({self.tokens_per_step}) is less than max_length ({self.max_length}): "
                "a step holds at least one pack, so raise the first or lower the second"
            )


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path`; its paths are relative to it, those in `overrides` to the working folder."""
    recipe = read_yaml(path, Recipe, [_from_here(override) for override in overrides])
    here = path.resolve().parent
    name = recipe.name or path.stem + ("" if recipe.quantize == "none" else f"-{recipe.quantize}")
    if not NAME.fullmatch(name) or name == "base":
        raise TrainError(
            f"{path}: name: {name!r} cannot name an adapter: use lower-case letters, digits and ._- "
            "(at most 64), and not `base`, which means no adapter"
        )
    return replace(
        recipe,
        name=name,
        model=_folder_or_id(recipe.model, here),
        data=(here / recipe.data).resolve(),
        output=(here / recipe.output).resolve(),
    )


def default_learning_rate(hidden_size: int, model_type: str) -> float:
    """Tinker's rule for LoRA, 5e-4 (2000 / hidden)^p, with p fitted on Llama and on Qwen, for any rank.

    From tinker_cookbook/hyperparam_utils.py; see also "LoRA Without Regret". Capped at what hidden 2000 gives: below
    it nothing was fitted.

    >>> round(default_learning_rate(4096, "qwen3"), 6), round(default_learning_rate(4096, "llama"), 6)
    (0.000473, 0.000286)
    >>> default_learning_rate(256, "qwen3")
    0.0005
    """
    exponent = 0.781 if model_type == "llama" else 0.0775
    rate: float = 5e-4 * (2000 / hidden_size) ** exponent
    return min(MAX_LEARNING_RATE, rate)


def _from_here(override: str) -> str:
    """Make a path on the command line absolute before the recipe's own folder can claim it."""
    key, equals, value = override.partition("=")
    is_path = key in ("data", "output") or (key == "model" and Path(value).is_dir())
    return f"{key}{equals}{Path(value).resolve()}" if is_path and equals else override


def _folder_or_id(model: str, here: Path) -> str:
    """`./x`, `../x`, `/x` and folders that exist are paths; everything else is a model id."""
    folder = (here / model).resolve()
    return str(folder) if model.startswith((".", "/")) or folder.is_dir() else model
