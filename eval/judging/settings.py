"""`judges.yaml`: who judges, by which metrics, and which labels by people say how far the judge can be trusted.

Reads and checks the file and the labels. Knows nothing of how anything is judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from eval.judging.inquiry import HIGHEST, KINDS, Inquiry, KindName
from retrieval.embed import PACKAGED
from retrieval.files import STRICT, FileError, read_jsonl, read_yaml
from serve.stack import EngineSettings, Url

MetricKind = Literal["faithfulness", "context_precision", "context_recall", "answer_relevancy", "scorecard", "pairwise"]

ASKS: Final[Mapping[MetricKind, tuple[KindName, ...]]] = {
    "faithfulness": ("claims", "supported"),
    "context_precision": ("useful",),
    "context_recall": ("claims", "supported"),
    "answer_relevancy": ("questions",),
    "scorecard": ("score",),
    "pairwise": ("better",),
}
"""What each metric asks of its judge; the last of them gives the verdict, and is what labels are about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """Who judges: a language model of one's own, one behind a `url`, or a cross-encoder."""

    model: str | None = None
    """A model folder, for which an engine is started; with `url`, what that server calls it."""
    url: Url | None = None
    engine: EngineSettings = field(default_factory=EngineSettings)
    max_tokens: Annotated[int, Field(ge=1)] = 1024
    reranker: Path | None = None
    """The folder of a cross-encoder, as `python -m train.reranker` writes them: it says yes from `threshold` on."""
    threshold: float = 0.0
    """Of its raw score; 0 is a probability of one half."""
    frozen: str | None = None
    """The judge's hash, as judges.json has it: another judge under the same name is refused."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if (self.model is None) == (self.reranker is None):
            raise ValueError("name either a `model` (a language model) or a `reranker` (a cross-encoder) as the judge")
        if self.reranker and self.url:
            raise ValueError("a cross-encoder is a folder on this machine; remove `url`")
        if self.url and self.engine.ray:
            raise ValueError("a judge with a `url` starts no engines; remove it or `engine.ray`")
        if self.model and self.threshold:
            raise ValueError(
                "`threshold` cuts the scores of a cross-encoder; a language model says yes or no: remove it"
            )

    @property
    def name(self) -> str:
        """As people call it."""
        return str(self.reranker or self.model)

    @property
    def answers(self) -> tuple[KindName, ...]:
        """The kinds of inquiry that it can answer."""
        return ("claims", "supported", "useful") if self.reranker else tuple(KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSettings:
    """One named metric."""

    kind: MetricKind
    labels: Path | None = None
    """What people said to the same inquiries (JSONL): the parts of the inquiry, and `label`."""
    criteria: str = ""
    """For scorecards and pairwise: what a good answer is."""
    json: str | None = None
    """Judge this text field of a reply that has a JSON object, found loosely; else the whole reply."""
    embedder: str = PACKAGED
    """For answer_relevancy: what says how close two questions are."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if (self.kind in ("scorecard", "pairwise")) != bool(self.criteria.strip()):
            raise ValueError(
                "`criteria` (what a good answer is, in words) belongs to scorecard and pairwise, which need it"
            )
        if self.labels and self.kind == "answer_relevancy":
            raise ValueError("answer_relevancy is a closeness of questions, which nobody labels; remove `labels`")
        if self.embedder != PACKAGED and self.kind != "answer_relevancy":
            raise ValueError(f"{self.kind} does not use `embedder`; remove it")

    @property
    def verdict(self) -> KindName:
        """The inquiry that labels are about."""
        return ASKS[self.kind][-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """`judges.yaml` as it is written."""

    judge: JudgeSettings
    metrics: dict[str, MetricSettings]
    combinations: tuple[str, ...] = ()
    """Whose answers are judged; none named: everybody's. Pairwise compares each of them with each."""
    concurrency: Annotated[int, Field(ge=1)] = 32

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("`metrics` is empty; name one, e.g. `faithfulness: {kind: faithfulness}`")
        for name, metric in self.metrics.items():
            if missing := set(ASKS[metric.kind]) - set(self.judge.answers):
                raise ValueError(
                    f"{name}: a cross-encoder cannot be asked for {', '.join(sorted(missing))}; give a `model`, or "
                    "leave it out"
                )


@dataclass(frozen=True, slots=True)
class Label:
    """What a person said to an inquiry."""

    inquiry: Inquiry
    said: str
    """`yes` or `no`, a score, or `A`, `B`, `tie`: as the judge would."""


def load_judges(path: Path) -> Judges:
    """Read the file; relative paths in it are relative to it."""
    judges, here = read_yaml(path, Judges), path.parent
    judge = judges.judge
    if judge.model and not judge.url and (here / judge.model).is_dir():
        judge = replace(judge, model=str((here / judge.model).resolve()))
    if judge.reranker:
        judge = replace(judge, reranker=(here / judge.reranker).resolve())
    metrics = {
        name: replace(one, labels=here / one.labels if one.labels else None) for name, one in judges.metrics.items()
    }
    return replace(judges, judge=judge, metrics=metrics)


def read_labels(path: Path, metric: MetricSettings) -> tuple[Label, ...]:
    """The labels of a file. FileError has every bad line."""
    kind, labels, problems = metric.verdict, list[Label](), list[str]()
    wanted = [part for part in KINDS[kind].parts if part != "criteria"]
    for number, row in read_jsonl(path):
        missing = [part for part in wanted if not isinstance(row.get(part), str)]
        said = _said(kind, row.get("label"))
        if missing:
            problems.append(
                f"{path}:{number}: {missing[0]}: is missing or no text; a label has {', '.join(wanted)} and label"
            )
        elif said is None:
            problems.append(f"{path}:{number}: label: {row.get('label')!r}; write {SAYS[kind]}")
        else:
            parts = {"criteria": metric.criteria, **{part: row[part] for part in wanted}}
            labels.append(Label(Inquiry.of(kind, **parts), said))
    if not labels and not problems:
        problems.append(f"{path}:1: there is no label in this file")
    if problems:
        raise FileError("\n".join(problems))
    return tuple(labels)


SAYS: Final[Mapping[KindName, str]] = {
    "supported": "true or false",
    "useful": "true or false",
    "score": f"a whole number from 1 to {HIGHEST}",
    "better": '"A", "B" or "tie"',
}


def _said(kind: KindName, label: object) -> str | None:
    """The label in the judge's words; None when it is no label of this kind."""
    if kind == "better":
        return label if label in ("A", "B", "tie") and isinstance(label, str) else None
    if kind == "score":
        fits = isinstance(label, int) and not isinstance(label, bool) and 1 <= label <= HIGHEST
        return str(label) if fits else None
    return {True: "yes", False: "no"}[label] if isinstance(label, bool) else None
