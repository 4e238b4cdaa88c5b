"""A recipe: everything that determines an adapter, read from a YAML file and `key=value` words.

Knows nothing of torch, tokens or how training is done.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from retrieval.files import STRICT, read_text, read_yaml
from train.door import TrainError

REPOSITORY: Final = Path(__file__).resolve().parents[1]
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
PATHS: Final = ("data", "output", "continue_from")
MODELS: Final = ("model", "check_embedder")
MAX_LEARNING_RATE: Final = 5e-4
NOT_SERVED: Final = {
    "use_dora": "DoRA's magnitudes",
    "bias": "trained biases",
    "lora_bias": "trained biases",
    "modules_to_save": "modules that are saved whole",
    "trainable_token_indices": "trained embeddings",
    "init_lora_weights": "an initialisation that edits the base (PiSSA, OLoRA, CorDA, LoftQ)",
    "layer_replication": "replicated layers",
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "activated LoRA",
}
"""Keys of PEFT's that users may bring along, and what vLLM 0.32 cannot load of them (vllm/lora/peft_helper.py)."""
LISTS: Final = ("check_against",)
"""Keys whose one value is a list."""


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
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023): for ranks of 64 and more."""
    quantize: Literal["none", "nf4"] = "none"
    compile: bool = False
    """Compile each layer: half a minute or more before the first step, then steps a sixth to a fifth shorter."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the frozen base and of products; `auto` is bfloat16 where the machine is fast in it. Adapters are float32."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """None: `default_learning_rate` of the model."""
    loraplus_ratio: Annotated[float, Field(ge=1)] = 1.0
    """How many times faster B learns than A; LoRA+ (Hayou et al. 2024) proposes 16."""
    epochs: Annotated[int, Field(ge=1)] = 3
    max_length: Annotated[int, Field(ge=8)] = 4096
    """Tokens in one pack (a forward pass), and so in the longest row."""
    tokens_per_step: Annotated[int, Field(ge=8)] = 8192
    """Tokens in one optimiser step, over all packs and processes; whole packs of `max_length`, as many as fit."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What to do with a row longer than `max_length`. Nothing is ever cut."""

    continue_from: Path | None = None
    """An adapter of the same base, rank, alpha and scaling, whose values are the start."""
    check_against: tuple[Path, ...] = ()
    """Test sets that must share no question with the data."""
    leaks: Literal["refuse", "drop"] = "refuse"
    """What to do with a row whose question is in one of them."""
    check_embedder: str = ""
    """An embedder (`all-MiniLM-L6-v2` is packaged, or a folder) that lists questions close in meaning; none refuses."""

    rows: Annotated[int, Field(ge=1)] | None = None
    """How many of the training rows to learn from: fewer are a part of more, and the held-out rows stay. None: all."""
    eval_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """The share of rows held out for the evaluation loss; 0 holds out none."""
    seed: int = 0
    snapshots: Annotated[int, Field(ge=0)] = 0
    """Adapters to keep on the way, evenly spaced, as NAME.sSTEP: to score tasks beside losses."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 50
    """Steps that a killed training loses at most."""

    def __post_init__(self) -> None:
        if self.tokens_per_step < self.max_length:
            raise ValueError(
                f"tokens_per_step ({self.tokens_per_step}) is less than max_length ({self.max_length}): "
                "a step holds at least one pack, so raise the first or lower the second"
            )
        refuse_idle_checks(self.check_against, self.check_embedder, self.leaks)


def refuse_idle_checks(check_against: Sequence[Path], check_embedder: str, leaks: str) -> None:
    """ValueError where a recipe says how to check its data, but not against what."""
    if not check_against and (check_embedder or leaks != "refuse"):
        key = "check_embedder" if check_embedder else "leaks"
        raise ValueError(f"{key} is set, but there is nothing to check: name test sets in check_against")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path`; its paths are relative to it, those in `overrides` to the working folder."""
    _refuse_what_cannot_be_served(path, overrides)
    if several := lists(path, overrides):
        raise TrainError(
            f"{path}: {', '.join(several)}: a list means `try each`, and one training tries one: "
            f"run `python -m scripts.sweep {path} GRID`, or choose a value"
        )
    recipe = read_yaml(path, Recipe, [from_here(override, PATHS, MODELS) for override in overrides])
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
        model=folder_or_id(recipe.model, here),
        data=(here / recipe.data).resolve(),
        output=(here / recipe.output).resolve(),
        continue_from=recipe.continue_from and (here / recipe.continue_from).resolve(),
        check_against=tuple((here / test).resolve() for test in recipe.check_against),
        check_embedder=recipe.check_embedder and folder_or_id(recipe.check_embedder, here),
    )


def lists(path: Path, overrides: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The keys for which a recipe names several values to try, in the file's order."""
    written = read_yaml(path, dict[str, Any], overrides)
    return {key: value for key, value in written.items() if isinstance(value, list) and key not in LISTS}


def _refuse_what_cannot_be_served(path: Path, overrides: Sequence[str]) -> None:
    lines = [(f"{path}:{number}", line) for number, line in enumerate(read_text(path).split("\n"), start=1)]
    lines += [(override, override.replace("=", ":", 1)) for override in overrides]
    wrong = [
        f"{where}: {key}: vLLM serves no adapter with {NOT_SERVED[key]}, so none is trained here - remove the key "
        "(plain LoRA, QLoRA, rsLoRA and LoRA+ are served)"
        for where, line in lines
        if (key := line.partition(":")[0].strip()) in NOT_SERVED
    ]
    if wrong:
        raise TrainError("\n".join(wrong))


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


def from_here(override: str, paths: Sequence[str], models: Sequence[str]) -> str:
    """Make paths on the command line absolute before the recipe's own folder can claim them; models may be ids."""
    key, _, value = override.partition("=")
    if key == "check_against":
        tests = filter(None, (test.strip() for test in value.strip("[]").split(",")))
        return f"{key}={json.dumps([str(Path(test).resolve()) for test in tests])}"
    is_path = key in paths or (key in models and Path(value).is_dir())
    return f"{key}={json.dumps(str(Path(value).resolve()))}" if is_path and value not in ("", "null") else override


def folder_or_id(model: str, here: Path) -> str:
    """`./x`, `../x`, `/x` and folders that exist are paths; everything else is a model id."""
    folder = (here / model).resolve()
    return str(folder) if model.startswith((".", "/")) or folder.is_dir() else model
