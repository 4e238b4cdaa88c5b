"""A recipe for retrieval: everything that determines an embedder or a re-ranker, from YAML and `key=value` words.

Knows nothing of torch or how training is done.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import Field

from retrieval.files import STRICT, read_yaml
from train.door import TrainError
from train.recipe import NAME, REPOSITORY, folder_or_id, from_here, refuse_idle_checks

PACKAGED: Final = "all-MiniLM-L6-v2"
"""The name of the embedder that is installed with this project; any other is a folder or a fetched model id."""
PATHS: Final = ("data", "qrels", "output")
MODELS: Final = ("model", "miner", "check_embedder")
PLACES: Final = ("name", "check_against", "leaks", *PATHS, *MODELS)
"""Recipe keys that say where things are; what is in them is identified by hash, or changes nothing."""

R = TypeVar("R", bound="RetrievalRecipe")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalRecipe:
    """Everything that determines an embedder. Paths are absolute once `read_recipe` has returned it."""

    __pydantic_config__: ClassVar = STRICT

    data: Path
    """A BEIR folder: corpus.jsonl, queries.jsonl and qrels/."""
    qrels: Path | None = None
    """The judgements to learn from, over queries of that folder. None: its qrels/train.tsv."""
    model: str = PACKAGED
    """The base: the packaged MiniLM, a folder, or the id of a model that `scripts/fetch.py` has brought."""
    output: Path = REPOSITORY / "out" / "embedders"
    name: str = ""
    """By default the recipe file's."""

    max_length: Annotated[int, Field(ge=8)] = 192
    """Tokens that are read of a document; a re-ranker reads so many of question and document together, in use too."""
    negatives: Annotated[int, Field(ge=0)] = 2
    """Wrong documents for each relevant one: those nearest to the question. An embedder's batch has more of them."""
    skip_nearest: Annotated[int, Field(ge=0)] = 0
    """How many of the nearest wrong documents are passed over, where people marked only a few of the relevant ones."""
    per_question: Annotated[int, Field(ge=1)] | None = None
    """The most relevant documents of a question that are learnt; None: all."""

    epochs: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=2)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of products; `auto` is bfloat16 where the machine is fast in it. Weights are float32."""
    seed: int = 0

    check_against: tuple[Path, ...] = ()
    """Judgements (.tsv) over the same queries, or test sets (.jsonl), that must share no question with the data."""
    leaks: Literal["refuse", "drop"] = "refuse"
    """What to do with a question that is in one of them."""
    check_embedder: str = ""
    """An embedder that lists questions close in meaning; none refuses."""

    def __post_init__(self) -> None:
        refuse_idle_checks(self.check_against, self.check_embedder, self.leaks)


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerRecipe(RetrievalRecipe):
    """Everything that determines a re-ranker."""

    output: Path = REPOSITORY / "out" / "rerankers"
    miner: str = PACKAGED
    """The embedder whose nearest wrong documents are learnt from."""
    negatives: Annotated[int, Field(ge=1)] = 2
    epochs: Annotated[int, Field(ge=1)] = 3
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Its head is new. On the demo's dev split: nDCG@10 0.87, against 0.76 with 5e-5 and two epochs."""


def read_recipe(kind: type[R], path: Path, overrides: Sequence[str] = ()) -> R:
    """The recipe in `path`; its paths are relative to it, those in `overrides` to the working folder."""
    recipe = read_yaml(path, kind, [from_here(override, PATHS, MODELS) for override in overrides])
    here = path.resolve().parent
    name = recipe.name or path.stem
    if not NAME.fullmatch(name):
        raise TrainError(f"{path}: name: {name!r} names no folder: use lower-case letters, digits and ._- (at most 64)")
    data = (here / recipe.data).resolve()
    named = {key: getattr(recipe, key, "") for key in MODELS}
    models: dict[str, Any] = {key: folder_or_id(name, here) for key, name in named.items() if name}
    return replace(
        recipe,
        name=name,
        data=data,
        qrels=(here / recipe.qrels).resolve() if recipe.qrels else data / "qrels" / "train.tsv",
        output=(here / recipe.output).resolve(),
        check_against=tuple((here / test).resolve() for test in recipe.check_against),
        **models,
    )
