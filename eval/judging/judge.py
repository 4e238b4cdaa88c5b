"""A second look at a finished run: a judge is asked about its answers, and once more about what people have judged.

    findings = judge_run(Path("out/demo"), load_judges(Path("judges.yaml")))

What a judge has said is kept; the same command resumes, and with nothing left to ask opens no judge. What fails is no
score. Never touches records, ranks nothing, and enters no verdict.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

from tqdm import tqdm

from eval.evidence import marked, was_there
from eval.folder import Results, load_results, locked
from eval.judging.book import Book, Unasked
from eval.judging.findings import FILE, LABEL, Findings, Found, Gathered, find
from eval.judging.inquiry import Inquiry
from eval.judging.metrics import METRICS, Ask, Case, Near, Outcome
from eval.judging.model import Judge, identity, opened
from eval.judging.pairwise import Contest
from eval.judging.settings import Judges, JudgeSettings, Label, MetricSettings, read_labels
from eval.record import Journal, Record, RunError
from eval.task import Example
from eval.workers import work_off
from retrieval.embed import Embedder, locate
from retrieval.files import FileError, file_hash, write_atomically
from serve.chat import ServeError, Unavailable
from serve.combination import GOLD, Combination
from serve.layout import shown_in
from serve.reading import loose_field

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """Something to find out, from one inquiry or several."""

    metric: str
    about: tuple[str, ...]
    """("label", line), (combination, example), or (combination, combination, example)."""
    work: Callable[[Ask], Awaitable[Outcome | Contest | str]]


def judge_run(folder: Path, judges: Judges) -> Findings:
    """Ask what has not been asked, and say what it all comes to. Raises RunError when it cannot go on."""
    with locked(folder):
        results = load_results(folder)
        cells = _cells(results, judges)
        who = identity(judges.judge)
        if judges.judge.frozen not in (None, who):
            raise FileError(
                f"{judges.judge.name}: this judge is {who}, and `frozen` says {judges.judge.frozen}: another one "
                "than was calibrated. Bring that one back, or remove `frozen` and calibrate again."
            )
        jobs = [*_cases(results, judges, cells), *_contests(results, judges, cells)]
        for name, metric in judges.metrics.items():
            jobs += labelled(name, read_labels(metric.labels, metric)) if metric.labels else []
        gathered = gather(jobs, judges.judge, folder, judges.concurrency)
        findings = replace(find(judges, who, results, gathered), notes=tuple(_notes(results, judges, folder)))
        row = findings.row() | {"records": file_hash(folder / "records.jsonl")}
        write_atomically(folder / FILE, json.dumps(row, indent=2, ensure_ascii=False) + "\n")
        return findings


def labelled(metric: str, labels: Sequence[Label]) -> Iterator[Job]:
    """What people have judged is asked once more."""
    for number, label in enumerate(labels, start=1):
        yield Job(metric, (LABEL, str(number), label.said), partial(_relabel, label))


def gather(jobs: Sequence[Job], judge: JudgeSettings, folder: Path, workers: int) -> Gathered:
    """Ask the judge what the folder does not have yet, which keeps all that it says."""
    with Book(folder / "judgements.jsonl", identity(judge)) as book:
        found = asyncio.run(_replay(jobs, book))
        left = [job for job in jobs if (job.metric, job.about) not in found]
        if left:
            with Journal(folder / "judge_failures.jsonl") as failures, opened(judge) as ready:
                found |= asyncio.run(_Desk(book, ready, failures, workers).serve(left))
        else:
            log.info("Nothing is left to ask: every judgement is in %s.", folder)
    return Gathered(found, [(job.metric, job.about) for job in jobs if (job.metric, job.about) not in found])


async def _replay(jobs: Sequence[Job], book: Book) -> Found:
    """What can be said without asking anybody."""
    found = {}
    for job in jobs:
        try:
            found[job.metric, job.about] = await job.work(book.ask)
        except Unasked:
            continue
    return found


class _Desk:
    """Where the workers get their jobs and hand in what came of them."""

    def __init__(self, book: Book, judge: Judge, failures: Journal, workers: int) -> None:
        self._book = book
        self._judge = judge
        self._failures = failures
        self._workers = workers
        self._found: Found = {}
        self._unavailable: set[Unavailable] = set()

    async def serve(self, jobs: Sequence[Job]) -> Found:
        """Keep as many jobs going as there are workers until none is left."""
        self._book.judge = self._judge
        with tqdm(total=len(jobs), unit=" judged", desc="judging", disable=None) as bar:
            try:
                await work_off(jobs, min(self._workers, len(jobs)), partial(self._work, bar))
            finally:
                await self._judge.close()
        return self._found

    async def _work(self, bar: "tqdm[None]", job: Job) -> None:
        try:
            self._found[job.metric, job.about] = await job.work(self._book.ask)
            self._unavailable.clear()
        except ServeError as error:
            self._fail(job, error)
        bar.update()

    def _fail(self, job: Job, error: ServeError) -> None:
        """Note it and go on, unless the judge seems gone."""
        self._failures.write({"metric": job.metric, "about": job.about, "reason": str(error)})
        if isinstance(error, Unavailable):  # one inquiry that fails, fails with the same error for all who wait for it
            self._unavailable.add(error)
        if len(self._unavailable) >= 2 * self._workers:
            raise RunError(
                f"{error}. The judge failed {len(self._unavailable)} times in a row, so the rest was not tried. Every "
                "judgement is kept; the same command goes on from here."
            )


def _cells(results: Results, judges: Judges) -> tuple[Combination, ...]:
    """Whose answers are judged."""
    known = {str(cell): cell for cell in results.records}
    wrong = [name for name in judges.combinations if name not in known]
    if halted := [name for name in wrong if name in map(str, results.stopped)]:
        raise FileError(
            f"combinations: {halted[0]!r} was stopped early by screening, so half of its answers are missing"
        )
    if wrong:
        raise FileError(f"combinations: {wrong[0]!r} is not a combination of this run; choose from {', '.join(known)}")
    if double := [name for name, times in Counter(judges.combinations).items() if times > 1]:
        raise FileError(f"combinations: {double[0]!r} is listed twice")
    if len(judges.combinations) < 2 and any(one.kind == "pairwise" for one in judges.metrics.values()):
        raise FileError("pairwise compares each combination with each: name a few under `combinations`")
    return tuple(known[name] for name in judges.combinations or known)


def _notes(results: Results, judges: Judges, folder: Path) -> Iterator[str]:
    theirs, mine = str(results.config.stack["model"]), judges.judge.model
    if mine and (mine == theirs or (folder / theirs).resolve() == Path(mine).resolve()):
        yield "The judge is the model that wrote the answers: models prefer what they would have said themselves."


def _cases(results: Results, judges: Judges, cells: Sequence[Combination]) -> Iterator[Job]:
    """One after another example by example, as in a run: all combinations advance together."""
    metrics = {name: one for name, one in judges.metrics.items() if one.kind in METRICS}
    near = {name: _closeness(one.embedder) for name, one in metrics.items() if one.kind == "answer_relevancy"}
    for example in results.examples:
        for cell in cells:
            if (record := results.records[cell].get(example.id)) is None:
                continue
            for name, metric in metrics.items():
                case = _case(results, example, record, metric)
                work = METRICS[metric.kind]
                yield Job(name, (str(cell), example.id), partial(_judged, work, case, near.get(name, _nowhere)))


def _contests(results: Results, judges: Judges, cells: Sequence[Combination]) -> Iterator[Job]:
    for name, metric in judges.metrics.items():
        if metric.kind != "pairwise":
            continue
        for example in results.examples:
            for (one, mine), (other, theirs) in combinations(enumerate(cells), 2):
                both = [results.records[cell].get(example.id) for cell in (mine, theirs)]
                if both[0] is None or both[1] is None:
                    continue
                texts = _said(both[0], metric), _said(both[1], metric)
                match = Contest(one=one, other=other, cluster=example.cluster, first="tie", second="tie")
                yield Job(
                    name,
                    (str(mine), str(theirs), example.id),
                    partial(_contest, match, metric.criteria, example.question, texts),
                )


def _case(results: Results, example: Example, record: Record, metric: MetricSettings) -> Case:
    passages = shown_in(record.prompt)
    oracles = (found for cell, found in results.records.items() if cell.retriever == GOLD)
    return Case(
        question=example.question,
        text=_said(record, metric),
        reference=example.answers[0] if example.answers and not example.meta.get("unanswerable") else "",
        passages=passages,
        marked=marked(example, record)[: len(passages)] if example.evidence else (),
        covered=was_there(example, record, oracles),
        criteria=metric.criteria,
    )


def _said(record: Record, metric: MetricSettings) -> str:
    return record.text if metric.json is None else loose_field(record.text, metric.json) or ""


def _closeness(embedder: str) -> Near:
    """By cosine; the model is loaded with the first question."""
    embed = Embedder(locate(embedder)).question

    async def near(one: str, other: str) -> float:
        vectors = await asyncio.gather(embed(one), embed(other))
        return float(vectors[0] @ vectors[1])

    return near


async def _nowhere(one: str, other: str) -> float:
    raise AssertionError("this metric looks at no closeness")


async def _judged(work: Callable[[Case, Ask, Near], Awaitable[Outcome]], case: Case, near: Near, ask: Ask) -> Outcome:
    return await work(case, ask, near)


async def _relabel(label: Label, ask: Ask) -> str:
    """What the judge says where a person has spoken."""
    if label.inquiry.kind == "better":
        shown = label.inquiry.named
        match = Contest(one=0, other=1, cluster="", first="tie", second="tie")
        contest = await _contest(match, shown["criteria"], shown["question"], (shown["A"], shown["B"]), ask)
        return {1.0: "A", 0.0: "B"}.get(contest.won, "tie")
    said = (await ask(label.inquiry)).said
    return str(said["score"] if label.inquiry.kind == "score" else said["verdict"])


async def _contest(match: Contest, criteria: str, question: str, texts: tuple[str, str], ask: Ask) -> Contest:
    """Both orders, unless the texts are equal."""
    if texts[0] == texts[1]:
        return replace(match, same=True)
    asked = (Inquiry.of("better", criteria=criteria, question=question, A=a, B=b) for a, b in (texts, texts[::-1]))
    first, second = await asyncio.gather(*map(ask, asked))
    return replace(match, first=first.said["better"], second=second.said["better"])
