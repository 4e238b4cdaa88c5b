"""What a run came to, before it is put into words: what sentences and remedies are made of. Computes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.effects import Effect
from eval.enough import Enough
from eval.finding import Finding
from eval.folder import Results
from eval.headroom import Headroom
from eval.payback import Payback, Training
from eval.summary import Row
from eval.tally import Blamed, Weakest


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """None stands for what this run cannot tell."""

    results: Results
    rows: Sequence[Row]
    finding: Finding | None
    effects: Sequence[Effect]
    room: Headroom | None
    blamed: Blamed
    fault: Weakest | None
    enough: Enough | None
    payback: Payback | None
    trained: Mapping[str, Training]
    """What is known of each adapter's training."""
