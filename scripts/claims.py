"""Claims about abstracts that experts have judged, in parts that share nothing, and a cross-encoder learnt from some.

Knows nothing of files of claims, or of judges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from train.retrieval_recipe import PACKAGED, RerankerRecipe

EPOCHS: Final = 4
LEARNING_RATE: Final = 1e-4
TOKENS: Final = 256
"""Of claim and abstract together: half of the abstracts are a little longer, and their ends go unread."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, an abstract, and what experts found of the one in the other."""

    id: str
    document: str
    text: str
    abstract: str
    relation: Literal["SUPPORT", "CONTRADICT", ""]
    """Nothing: they were asked, and found neither."""

    @property
    def label(self) -> str:
        """Whether the abstract supports the claim."""
        return "yes" if self.relation == "SUPPORT" else "no"


def parts(claims: Sequence[Claim], count: int) -> list[tuple[Claim, ...]]:
    """So many parts of about one size; claims with an abstract in common, or abstracts with a claim, stay together."""
    groups: list[set[str]] = []
    for one in claims:
        ends = {f"claim {one.id}", f"document {one.document}"}
        touched = [group for group in groups if group & ends]
        groups = [group for group in groups if not group & ends] + [ends.union(*touched)]
    home = {end: number for number, group in enumerate(groups) for end in group}
    found: list[list[Claim]] = [[] for _ in range(count)]
    for number in range(len(groups)):
        smallest = min(found, key=len)
        smallest += [one for one in claims if home[f"claim {one.id}"] == number]
    return [tuple(part) for part in found]


def learnt(claims: Sequence[Claim], folder: Path) -> Path:
    """A cross-encoder that has learnt from these claims whether an abstract supports one. Kept, once made."""
    if folder.is_dir():
        return folder
    from train.encoders import fit_reranker  # heavy
    from train.tune import find_encoder

    recipe = RerankerRecipe(
        data=folder, negatives=1, epochs=EPOCHS, learning_rate=LEARNING_RATE, max_length=TOKENS, batch=16
    )
    rows = [{"question": one.text, "document": one.abstract, "label": float(one.label == "yes")} for one in claims]
    model, _ = fit_reranker(recipe, find_encoder(PACKAGED), rows)
    beside = folder.with_name(f".{folder.name}")
    model.save_pretrained(str(beside), create_model_card=False)
    beside.rename(folder)
    return folder
