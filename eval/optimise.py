"""Search for instructions and worked examples that make a combination better, on dev; the test set is never asked.

    outcome = optimise(load_search(Path("search.yaml")), Path("out/search"))

Dev is halved. The start answers one half and some questions of the train split; candidates are made of that, and raced
on the same half by an ordinary run that is screened. The first of them meets the start on the other half, which chose
nothing: that difference is what the choice is worth. Every answer is a record of a run, so that a search that was
stopped goes on. Knows nothing of how sets are drawn.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from string import Template
from typing import Final, Self

from eval.candidates import Candidate, Shown, Way, candidates, draw, lean, read_chats, write_candidates, write_strategy
from eval.folder import Results, locked
from eval.grid import Grid
from eval.record import RunError
from eval.run import run, started
from eval.screening import by_lot
from eval.search import Demonstrations, Search, alone
from eval.splits import detectable, split
from eval.summary import difference, ranked, score, scores, summarise
from eval.task import Example, ScorerSettings, Task, TaskSettings, load_task, read_examples
from eval.wording import counted, p_value, percent, points, span
from retrieval.files import read_text, write_atomically, write_jsonl
from retrieval.stats import ALPHA, Difference, Estimate
from serve.combination import BASE, NONE, Combination
from serve.stack import Stack
from serve.strategies.prompted import Prompted
from serve.upstream import Server

HALVES: Final = {"choose": 0.5, "validate": 0.5}
START: Final = "start"
"""What the strategy of the start is called among the candidates."""
PROMPT: Final = Path(__file__).parent / "prompts" / "instructions.txt"
FAILURES: Final = 5
"""Wrong answers that whoever writes instructions is told of."""
WRITTEN_TOKENS: Final = 512
"""The longest instructions that are written: the limit for an answer would cut them off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`optimised.json`: what was tried, and what the best of it is worth."""

    start: str
    best: str | None
    """The candidate that led where candidates were chosen; None when the start did."""
    tried: int
    lead: Difference
    """By how much it led there, which choosing has flattered."""
    start_score: Estimate
    best_score: Estimate
    """What the two score on the other half; where nothing is left to validate, on the half that chose."""
    gain: Difference | None
    """On the other half: one comparison that was fixed before, so that nothing is corrected for."""
    visible: float
    """The smallest difference that the other half can be expected to show."""
    calls: int
    """Replies that were written for it."""
    test: str

    @property
    def holds(self) -> bool:
        """Whether something beats the start, beyond chance and luck in choosing."""
        return self.gain is not None and self.gain.p < ALPHA and self.gain.estimate.value > 0

    @property
    def sentences(self) -> tuple[str, ...]:
        """The result in plain words."""
        there = f"{counted(self.tried, 'candidate')} on {counted(self.lead.n, 'question')}"
        asked = f"{counted(self.calls, 'call')}, none of them about {self.test}."
        if self.gain is None:
            ahead = f"none of {there} is ahead of its {percent(self.start_score.value)}"
            return (f"Nothing beats {self.start}: {ahead}.", asked)
        worth = (
            f"On the {counted(self.gain.n, 'question')} that chose nothing {self.best} has "
            f"{percent(self.best_score.value)} and the start {percent(self.start_score.value)}: "
            f"{points(self.gain.estimate.value)} points, 95% interval {span(self.gain.estimate)}, "
            f"{p_value(self.gain.p)}."
        )
        lucky = f"It was chosen of {there}, where it is {points(self.lead.estimate.value)} points ahead."
        if self.holds:
            return (f"{self.best} beats {self.start}.", worth, lucky, asked)
        unseen = f"So many questions can be expected to show {100 * self.visible:.0f} points or more."
        return (f"Nothing beats {self.start} beyond chance.", worth, lucky, unseen, asked)


def optimise(search: Search, folder: Path) -> Outcome:
    """Search, validate, and write what was found. RunError, with every answer kept, when it cannot go on."""
    halves = split(search.task.examples, search.settings.seed, HALVES)
    with locked(folder), _Runs(search, folder) as runs:
        start = replace(search.start, strategy=START)
        choose, validate = (runs.task(name, examples) for name, examples in halves.items())
        tried = _candidates(search, runs, choose, start)
        stack = _stack(search, tried, folder)
        cells = [start, *(replace(start, strategy=one.name) for one in tried)]
        race = runs.ask("choose", stack, choose, cells, screen=True)
        best = Combination.parse(ranked(summarise(race))[0].combination)
        other = runs.ask("validate", stack, validate, [start, best]) if best != start else None
        outcome = Outcome(
            start=str(search.start),
            best=best.strategy if other else None,
            tried=len(tried),
            lead=difference(race, best, start),
            start_score=score(other or race, start),
            best_score=score(other or race, best),
            gain=difference(other, best, start) if other else None,
            visible=detectable(validate.examples, 1),
            calls=sum(runs.calls.values()),
            test=search.test.name,
        )
        _keep(search, outcome, tried, folder)
        return outcome


class _Runs:
    """The ordinary runs that a search is made of: each in a folder of its own, all with one engine."""

    def __init__(self, search: Search, folder: Path) -> None:
        self.folder = folder
        self.calls: dict[str, int] = {}
        """How many replies each run had written."""
        self._search = search
        self._servers: list[Server | None] = []
        self._stay = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stay.close()

    def task(self, name: str, examples: Sequence[Example]) -> Task:
        """These questions, judged as the search's own are."""
        path = self.folder / f"{name}.jsonl"
        write_jsonl(path, map(asdict, examples))
        return load_task(self._search.settings.task, path)

    def ask(
        self, name: str, stack: Stack, task: Task, cells: Sequence[Combination], *, screen: bool = False
    ) -> Results:
        """Answer what is not answered yet; RunError when anything is missing, since all that follows depends on it."""
        settings = replace(alone(self._search.settings, self.folder / "candidates.yaml", *cells), screen=screen)
        grid = Grid(settings=settings, stack=stack, task=task, baseline=cells[0])
        results = run(grid, self.folder / name, self._engine)
        self.calls[name] = sum(not one.shared for one in results.answers)
        if gaps := results.lacking:
            raise RunError(
                f"{self.folder / name}: {counted(gaps, 'answer')} missing, failures.jsonl says why; the same command "
                "asks only for those and goes on"
            )
        return results

    @contextmanager
    def _engine(self, stack: Stack) -> Iterator[Server | None]:
        """Started for the first run that asks anything, with all that a later one may need."""
        if not self._servers:
            self._servers.append(self._stay.enter_context(started(self._search.stack.only([self._search.start]))))
        yield self._servers[0]


def _stack(search: Search, tried: Sequence[Candidate], folder: Path) -> Stack:
    return Stack.load(write_candidates(search.stack.only([search.start]), search.start.strategy, tried, folder))


def _candidates(search: Search, runs: _Runs, choose: Task, start: Combination) -> tuple[Candidate, ...]:
    """Of what the start gets wrong where candidates are chosen, and right on the train split, some of them are made."""
    settings, stack = search.settings, _stack(search, (), runs.folder)
    first = runs.ask("choose", stack, choose, [start])
    right = scores(first, start)
    wrong = [one for one in choose.examples if right[one.id] < 1]
    texts, sets = [*settings.instructions], dict[str, tuple[Shown, ...]]()
    if settings.write and wrong:
        texts += _written(search, runs, [(one, first.records[start][one.id].text) for one in wrong])
    if shows := settings.demonstrations:
        pools = _pools(shows, runs, stack, start)
        sets = draw(pools, shows.k, shows.draws, [one.question for one in wrong], settings.seed)
    return candidates([*dict.fromkeys(texts)], sets, settings.most, settings.seed)


def _pools(shows: Demonstrations, runs: _Runs, stack: Stack, start: Combination) -> dict[Way, Sequence[Shown]]:
    """What there is to show, for each way. A gold answer stands below the turn that really asked for it."""
    chats = tuple(read_chats(shows.chats)) if shows.chats else ()
    if chats and "own" not in shows.ways:
        return dict.fromkeys(shows.ways, chats)
    rows = {one.id: one for one in read_examples(shows.train)}
    task = runs.task("train", [rows[name] for name in by_lot([*rows.values()])[: shows.asked]])
    results = runs.ask("train", stack, task, [start])
    told, right = results.records[start], scores(results, start)
    asked = [(one, told[one.id].prompt[-1].content) for one in task.examples]
    gold = chats or tuple(Shown(one.question, turn, one.answers[0]) for one, turn in asked if one.answers)
    own = tuple(Shown(one.question, turn, told[one.id].text) for one, turn in asked if right[one.id] == 1)
    return {way: own if way == "own" else gold for way in shows.ways}


def _written(search: Search, runs: _Runs, wrong: Sequence[tuple[Example, str]]) -> list[str]:
    """Instructions in the base model's words: its answers to questions that each show it other failures.

    They are of the half that chooses. Those of the other half must not be written into what they judge.
    """
    stack = replace(
        search.stack,
        strategies={"direct": Prompted(kind="direct")},
        sampling=replace(search.stack.sampling, max_tokens=WRITTEN_TOKENS),
    )
    now = str(lean(search.stack.strategies[search.start.strategy]).get("instructions", ""))
    asked = [_request(number, now, wrong, search.settings.seed) for number in range(search.settings.write)]
    path = runs.folder / "write.jsonl"
    write_jsonl(path, map(asdict, asked))
    anything = {"any": ScorerSettings(kind="regex", pattern="(?s).+")}
    settings = TaskSettings(name="instructions", examples=path, primary="any", scorers=anything)
    writer = Combination(BASE, NONE, "direct")
    results = runs.ask("write", stack, Task(settings=settings, examples=tuple(asked), evidence={}), [writer])
    replies = results.records[writer].values()
    return [one.text.strip() for one in replies if one.text.strip() and one.finish_reason != "length"]


def _request(number: int, now: str, wrong: Sequence[tuple[Example, str]], seed: int) -> Example:
    told = Random(f"write-{seed}-{number}").sample(wrong, min(FAILURES, len(wrong)))
    failures = [f"Question: {one.question}\nRight: {one.answers[:1]}\nThe model said: {said}\n" for one, said in told]
    text = Template(read_text(PROMPT)).substitute(instructions=now or "Nothing.", failures="\n".join(failures))
    return Example(id=f"text-{number + 1}", question=text.strip(), answers=())


def _keep(search: Search, outcome: Outcome, tried: Sequence[Candidate], folder: Path) -> None:
    """A strategy is written only where it beats the start: what chance does as well is not handed over."""
    for name in ("strategy.yaml", "stack.yaml", "demonstrations.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for one in tried:
        if outcome.holds and one.name == outcome.best:
            write_strategy(search.stack, search.start.strategy, one, folder)
    said = asdict(outcome) | {"holds": outcome.holds, "sentence": " ".join(outcome.sentences)}
    write_atomically(folder / "optimised.json", json.dumps(said, indent=2, ensure_ascii=False) + "\n")
