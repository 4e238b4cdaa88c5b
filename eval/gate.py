"""Thresholds for one combination of a run, all judged at once: for CI, which stops when one does not hold.

    judgement = judge(load_gates(Path("gates.yaml"), run), run)

A gate that cannot be judged does not hold. Knows nothing of how scores, differences and leaks are found.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal
from xml.etree import ElementTree

from pydantic import ConfigDict, Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.compare import Compared, compare
from eval.finding import chosen, find
from eval.folder import Results
from eval.gold import is_oracle
from eval.leaks import Leaks, blocks
from eval.summary import ENOUGH_FOR_P95, Row, summarise
from eval.wording import counted, listed
from retrieval.files import STRICT, FileError, read_yaml
from serve.combination import Combination
from serve.stack import lines

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]

NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML file may hold, not even escaped."""

GATES: Final = """\
gates, each of which may be left out:

  combination: base:none:direct          # whom they are for; without it, what the verdict adopts, else the top score
  score: {at_least: 0.5}                 # the lower end of its 95 % interval; `bound: value` judges the score itself
  against_baseline: {loses_at_most: 0.02}
  against_run: {run: ../before, loses_at_most: 0.02}    # the lower end of the paired difference
  tokens: {at_most: 900}                 # the mean of an answer
  latency_p95_s: {at_most: 2}
  missing: {at_most: 0}                  # answers, in the whole run
  leaks: block                           # no test question word for word in what the models have seen

Tokens and latency are judged as they are, without an interval. The best of many was lucky too: name the combination.
One that cannot be judged does not hold. Exit code 0: all hold; 2: one fails; 1: something else is wrong.

example: python -m eval gate out/demo gates.yaml --junit out/demo/gates.xml"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A score must be at least this."""

    at_least: Share
    bound: Literal["low", "value"] = "low"
    """What is judged: the lower end of the 95 % interval, or the score itself, which a lucky test set flatters."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """A figure must be at most this."""

    at_most: Amount

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """Not worse than another by more than this: the lower end of the paired difference is judged."""

    loses_at_most: Share

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """Not worse by more than this than the same combination was in another run."""

    run: Path
    loses_at_most: Share

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """`gates.yaml` as it is written; what it does not name is not judged."""

    combination: str | None = None
    """Whom the gates are for; without it, whom the verdict is about: the best of many, which chance flatters."""
    score: Floor | None = None
    against_baseline: Margin | None = None
    against_run: Earlier | None = None
    tokens: Ceiling | None = None
    """Prompt and completion, the mean of an answer."""
    latency_p95_s: Ceiling | None = None
    missing: Ceiling | None = None
    """Answers that the run lacks, all combinations together."""
    leaks: Literal["block"] | None = None
    """No test question word for word in anything that the run's models have seen, and all of that could be read."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        names = [one.name for one in fields(self) if one.name != "combination"]
        if all(getattr(self, name) is None for name in names):
            raise ValueError(f"there is no gate in this file; known gates: {', '.join(names)}")


@dataclass(frozen=True, slots=True)
class Judged:
    """One gate: what it wanted, what it found, and whether it holds."""

    gate: str
    wanted: str
    found: str
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """All of them, and for whom."""

    combination: str | None
    """None when none has all its answers."""
    why: str = ""
    """It was not named, and is judged because of this."""
    gates: tuple[Judged, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """The gates that do not hold."""
        return tuple(one.gate for one in self.gates if not one.holds)

    @property
    def sentence(self) -> str:
        """What it came to."""
        why = f" ({self.why})" if self.why else ""
        whom = f"For {self.combination}{why}" if self.combination else "With no combination that has all its answers"
        if self.failed:
            return f"{whom}, {len(self.failed)} of {counted(len(self.gates), 'gate')} failed: {listed(self.failed)}."
        return f"{whom}, {'the gate holds' if len(self.gates) == 1 else f'all {len(self.gates)} gates hold'}."


def load_gates(path: Path, run: Results) -> Gates:
    """Read gates for a run; relative paths in the file are relative to it."""
    gates = read_yaml(path, Gates)
    if wrong := _misnamed(gates.combination, run):
        raise FileError(f"{path}:{lines(path)['combination',]}: combination: {wrong}")
    if gates.against_run is None:
        return gates
    return replace(gates, against_run=replace(gates.against_run, run=path.parent / gates.against_run.run))


def judge(gates: Gates, run: Results, earlier: Results | None = None, leaks: Leaks | None = None) -> Judgement:
    """Every gate, in the order above. `earlier` is the run that `against_run` names; `leaks`, what was seen."""
    row, why = _whom(gates, run)
    compared = compare(earlier, run) if earlier else None
    unjudged = _unjudged(row)
    judged = [
        Judged(gate, wanted, *(look(row) if row and not unjudged else (unjudged, False)))
        for gate, wanted, look in _of_combination(gates, run, compared)
    ]
    name = row.combination if row else None
    return Judgement(combination=name, why=why, gates=(*judged, *_of_run(gates, run, leaks)))


def show_gates(judgement: Judgement, console: Console) -> None:
    """Print what each gate wanted and found, and what it came to."""
    shown = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("gate", "", "wanted", "found"):
        shown.add_column(heading, no_wrap=heading in ("gate", ""))
    for one in judgement.gates:
        holds = Text("holds", style="green") if one.holds else Text("FAILS", style="red")
        shown.add_row(one.gate, holds, Text(one.wanted), Text(one.found))
    console.print(shown)
    console.print()
    console.print(Text(judgement.sentence))


def to_junit(judgement: Judgement, run: str) -> str:
    """The JUnit file that CI systems read: a test case for each gate."""
    total, failed = str(len(judgement.gates)), str(len(judgement.failed))
    counts = {"tests": total, "failures": failed, "errors": "0", "skipped": "0"}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": NO_XML.sub("?", f"eval gate {run}")} | counts)
    for one in judgement.gates:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "eval.gate", "name": one.gate, "time": "0"})
        said = NO_XML.sub("?", f"wanted {one.wanted}; found {one.found}")
        if one.holds:
            ElementTree.SubElement(case, "system-out").text = said
        else:
            ElementTree.SubElement(case, "failure", {"message": said, "type": "gate"}).text = said
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


Look = Callable[[Row], tuple[str, bool]]
"""What is found of a combination that has all its answers, and whether that will do."""


def _misnamed(name: str | None, run: Results) -> str:
    """What is wrong with the combination that the file names; empty when nothing is."""
    known = [str(cell) for cell in run.records]
    if name is None:
        return ""
    if name in map(str, run.stopped):
        return f"{name!r} was stopped early by screening, so it has no score to judge"
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
        return f"{name!r}: not a combination of this run; {hint}"
    if is_oracle(Combination.parse(name).retriever):
        return f"{name!r} is the oracle arm, which nobody can deploy; name another"
    return ""


def _whom(gates: Gates, run: Results) -> tuple[Row | None, str]:
    """The combination that the file names, or whom the verdict is about and why; None when none has all its answers."""
    rows = summarise(run)
    if gates.combination:
        return next(row for row in rows if row.combination == gates.combination), ""
    finding = find(run, rows, ())
    adopts = finding is not None and finding.decision == "adopt"
    why = "the verdict adopts it" if adopts else "it scores highest, the verdict adopts none"
    return chosen(finding, rows), why


def _unjudged(row: Row | None) -> str:
    """Why a combination cannot be judged; empty when it can: half a score says nothing."""
    if row is None:
        return "no combination has all its answers"
    return f"not judged: {row.n_infra:,} of {counted(row.n, 'question')} unanswered" if row.n_infra else ""


def _of_combination(gates: Gates, run: Results, compared: Compared | None) -> Iterator[tuple[str, str, Look]]:
    if (floor := gates.score) is not None:
        what = "score, by the lower end of its 95% interval" if floor.bound == "low" else "score"
        yield "score", f"{what}, at least {floor.at_least:g}", lambda row: _score(row, floor)
    if (margin := gates.against_baseline) is not None:
        wanted = f"at most {margin.loses_at_most:g} below {run.baseline}, by the lower end of the difference"
        yield "against_baseline", wanted, lambda row: _baseline(row, margin, run)
    if (before := gates.against_run) is not None:
        wanted = f"at most {before.loses_at_most:g} below itself in {before.run}, by the lower end of the difference"
        yield "against_run", wanted, lambda row: _earlier(row, before, compared)
    if (tokens := gates.tokens) is not None:
        wanted = f"at most {tokens.at_most:,g} tokens an answer"
        yield "tokens", wanted, lambda row: (f"{row.tokens:,.1f}", row.tokens <= tokens.at_most)
    if (latency := gates.latency_p95_s) is not None:
        wanted = f"at most {latency.at_most:g} s for 95 of 100 answers"
        yield "latency_p95_s", wanted, lambda row: _latency(row, latency)


def _of_run(gates: Gates, run: Results, leaks: Leaks | None) -> Iterator[Judged]:
    if gates.missing is not None:
        missing = run.lacking
        wanted = f"at most {gates.missing.at_most:,g} answers missing in the run"
        yield Judged("missing", wanted, f"{missing:,}", missing <= gates.missing.at_most)
    if gates.leaks is not None:
        wanted = "no test question word for word in what the models have seen"
        yield Judged("leaks", wanted, *_leaks(leaks))


def _score(row: Row, floor: Floor) -> tuple[str, bool]:
    judged = row.ci_low if floor.bound == "low" else row.score
    return f"{row.score:.4f}, 95% interval {row.ci_low:.4f} to {row.ci_high:.4f}", judged >= floor.at_least


def _baseline(row: Row, margin: Margin, run: Results) -> tuple[str, bool]:
    if row.combination == str(run.baseline):
        return "it is the baseline", True
    if row.delta is None or row.delta_ci_low is None or row.delta_ci_high is None:
        return f"not judged: {counted(run.missing(run.baseline), 'question')} unanswered by the baseline", False
    return _apart(row.delta, row.delta_ci_low, row.delta_ci_high), row.delta_ci_low >= -margin.loses_at_most


def _earlier(row: Row, before: Earlier, compared: Compared | None) -> tuple[str, bool]:
    if compared is None:
        return f"not judged: {before.run} was not read", False
    change = next((one for one in compared.changes if one.combination == row.combination), None)
    if change is None:
        return f"not judged: {compared.left_out[row.combination]}", False
    found = change.difference.estimate
    shown = f"{_apart(found.value, found.low, found.high)}, on {counted(compared.questions, 'question')} of both"
    return shown, found.low >= -before.loses_at_most


def _latency(row: Row, latency: Ceiling) -> tuple[str, bool]:
    if math.isnan(row.latency_p95_s):
        return f"not judged: {counted(row.n, 'answer')}, and {ENOUGH_FOR_P95} is the least that can tell", False
    return f"{row.latency_p95_s:.3f} s", row.latency_p95_s <= latency.at_most


def _apart(value: float, low: float, high: float) -> str:
    return f"{value:+.4f}, 95% interval {low:+.4f} to {high:+.4f}"


def _leaks(leaks: Leaks | None) -> tuple[str, bool]:
    if leaks is None:
        return "not judged: nobody looked", False
    if bad := [*blocks(leaks), *(f"not checked: the {one.name} ({one.remark})" for one in leaks.unread)]:
        return "; ".join(bad), False
    others = f"; {len(leaks.flagged):,} alike in other ways, see leaks.json" if leaks.flagged else ""
    return f"none in {counted(sum(len(one.material.texts) for one in leaks.checks), 'text')}{others}", True
