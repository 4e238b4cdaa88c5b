"""A project from one's own files: a folder of documents and a file of questions become all that the other doors read.

    made = start(Project(folder, documents, questions, model))

What it decides is written into the files it makes, and meant to be changed there. Asks nothing, trains nothing, and
never writes over anything; knows nothing of how any of it is used.
"""

import json
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from string import Template
from typing import Any, Final

from eval.gold import cite, document_of
from eval.questions import Asked, read_questions
from eval.splits import DISAGREE, detectable, split
from eval.suggest import Suggestion, suggest
from eval.task import Example
from eval.wording import counted
from retrieval.documents import read_documents
from retrieval.files import FileError, read_jsonl, write_atomically
from retrieval.passage import Document
from retrieval.power import fewest_clusters
from serve.base import model_folder, model_problems
from serve.combination import BASE

STARTER: Final = Path(__file__).parent / "starter"
"""The settings that a project begins with; `$name` and the like are filled in."""
OVER_DATABASES: Final = STARTER / "databases"
"""Those that differ where the documents are tables."""
MODEL: Final = "Qwen/Qwen3-4B-Instruct-2507"
SUGGESTED: Final = "evidence.suggested.jsonl"
COMPARED: Final = 11
"""What starter/grid.yaml compares with its baseline: two adapters, three retrievers and two strategies, less one."""
LONG: Final = 5
"""Words of a gold answer, on average, from which nobody says it in the very same words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What a person has; paths are as typed."""

    folder: Path
    documents: Path
    questions: Path
    model: str = MODEL
    evidence: Path | None = None
    """Suggestions that a person has confirmed, by deleting the wrong ones."""
    seed: int = 0

    @property
    def name(self) -> str:
        """What the adapter, the index and the run are called."""
        called = re.sub(r"[^a-z0-9._-]+", "-", self.folder.resolve().name.lower()).strip("._-")[:64]
        return f"{called or 'project'}-1" if called in ("", BASE) else called


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What differs between questions that are answered in words and those that are answered by a query."""

    primary: str
    """The scorer that ranks."""
    why: str
    starter: Path
    """Settings that stand here are taken before the usual ones."""
    whole: str
    """The retrievers: of all there is, or the plainest, and the one that should be best."""
    best: str
    strategies: str
    asked: str
    """The strategies that training chats are asked in."""
    is_careful: bool
    """Whether an adapter is taught to answer only from what a prompt shows."""


def start(project: Project) -> tuple[str, ...]:
    """Write the project's files; a line for each thing to know, and last what to type next."""
    _refuse_places(project)
    asked = read_questions(project.questions)
    documents = tuple(read_documents(project.documents))
    examples = _founded(project, _confirmed(project, asked), documents)
    splits = split(examples, project.seed)
    form = _form(examples, documents, splits["train"])
    suggestions = () if form.starter == OVER_DATABASES else suggest(examples, documents)
    files = _files(project, splits, suggestions, form)
    if there := [name for name in files if (project.folder / name).exists()]:
        raise FileError(f"{project.folder}: {', '.join(there)} would be written over; choose another folder")
    for name, text in files.items():
        write_atomically(project.folder / name, text)
    return tuple(_said(project, splits, suggestions, form))


def primary_of(examples: Sequence[Example]) -> tuple[str, str]:
    """The scorer that ranks, and why. The rule: `exact`, unless the gold answers (the shortest of each question) have
    more than five words on average; then `f1`, which counts shared words.

    >>> primary_of([Example(id="q", question="Where?", answers=("in Oslo",))])
    ('exact', 'The gold answers have 2.0 words on average, so they are compared whole.')
    """
    words = _words(examples)
    if words > LONG:
        return "f1", f"The gold answers have {words:.1f} words on average, too many to be said in the same words."
    return "exact", f"The gold answers have {words:.1f} words on average, so they are compared whole."


def _over_databases(examples: Sequence[Example], documents: Sequence[Document]) -> bool:
    """Whether every document is a table and every question names its database: then the answers are queries."""
    known = {one.meta.get("db_id") for one in documents}
    return None not in known and all(one.meta.get("db_id") in known for one in examples)


def _form(examples: Sequence[Example], documents: Sequence[Document], train: Sequence[Example]) -> _Form:
    if _over_databases(examples, documents):
        return _Form(
            primary="executed",
            why="The answers are queries: two are the same when they give the same.",
            starter=OVER_DATABASES,
            whole="schema",
            best="tables",
            strategies="direct, repair",
            asked="direct",
            is_careful=False,  # a query is learnt from any prompt that shows the schema
        )
    primary, why = primary_of(examples)
    return _Form(
        primary=primary,
        why=why,
        starter=STARTER,
        whole="lexical",
        best="hybrid",
        strategies="direct, instructed",
        asked="direct, instructed",
        is_careful=_all_marked(train),
    )


def _words(examples: Sequence[Example]) -> float:
    shortest = [min(len(answer.split()) for answer in one.answers) for one in examples]
    return sum(shortest) / len(shortest)


def _refuse_places(project: Project) -> None:
    """What lies among the documents is indexed: a question found with its answer would be read off."""
    for place in (project.folder, *project.folder.parents):
        if place.is_file():
            raise FileError(f"{place}: is a file; name a new folder for the project")
    documents = project.documents.resolve()
    for what in (project.questions, project.folder):
        if documents.is_dir() and documents in (what.resolve(), *what.resolve().parents):
            raise FileError(
                f"{what}: lies in {project.documents}, whose files are all indexed, gold answers too; choose a place "
                "outside of it"
            )


def _confirmed(project: Project, asked: Sequence[Asked]) -> tuple[Asked, ...]:
    """The questions with the evidence that a person has confirmed; FileError for every line that fits none."""
    if project.evidence is None:
        return tuple(asked)
    known = {one.example.id: one for one in asked}
    marks = defaultdict[str, tuple[str, ...]](tuple)
    problems = []
    for line, row in read_jsonl(project.evidence):
        place, one = f"{project.evidence}:{line}", known.get(str(row.get("id")))
        if one is None or one.example.question != row.get("question"):
            problems.append(f"{place}: no question of {project.questions} has this id and these words")
        elif not isinstance(row.get("evidence"), str):
            problems.append(f"{place}: `evidence` is missing: a document, `doc#p12` or `doc@120-480`, as text")
        elif one.example.evidence:
            problems.append(f"{place}: {one.place} names evidence itself; delete one of the two")
        else:
            marks[one.example.id] += (row["evidence"],)
    if problems:
        raise FileError("\n".join(problems))
    return tuple(
        Asked(one.place, replace(one.example, evidence=one.example.evidence + marks[one.example.id])) for one in asked
    )


def _founded(project: Project, asked: Sequence[Asked], documents: Sequence[Document]) -> tuple[Example, ...]:
    """The examples, all of whose evidence is there. FileError has a sentence for each that is not."""
    known = {one.id: one for one in documents}
    problems = []
    for one in asked:
        for mark in one.example.evidence:
            try:
                cite(mark, known)
            except ValueError as error:
                near = get_close_matches(document_of(mark), known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near and near[0] != document_of(mark) else ""
                problems.append(f"{one.place}: {error} ({project.documents}){hint}")
    if problems:
        raise FileError("\n".join(problems))
    return tuple(one.example for one in asked)


def _files(
    project: Project, splits: Mapping[str, Sequence[Example]], suggestions: Sequence[Suggestion], form: _Form
) -> dict[str, str]:
    """What is written, by name. The grid is last: with it, all is there."""
    values = _values(project, splits, form)
    written = {f"{name}.jsonl": _lines(map(asdict, rows)) for name, rows in splits.items()}
    if suggestions:
        written[SUGGESTED] = _lines(map(asdict, suggestions))
    for name in ("stack", "task", "sft", "recipe", "grid"):
        place = next(file for home in (form.starter, STARTER) if (file := home / f"{name}.yaml").exists())
        template = Template(place.read_text(encoding="utf-8"))
        written[f"{name}.yaml"] = template.substitute(values)
    return written


def _lines(rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _values(project: Project, splits: Mapping[str, Sequence[Example]], form: _Form) -> dict[str, str]:
    """What the starter's settings leave open. A path is relative to the project, so that both may move together."""

    def path(place: Path) -> str:
        return json.dumps(os.path.relpath(place.resolve(), project.folder.resolve()), ensure_ascii=False)

    return {
        "name": project.name,
        "model": path(Path(project.model)) if Path(project.model).is_dir() else json.dumps(project.model),
        "documents": path(project.documents),
        "index": path(_index(project)),
        "adapters": path(Path("out/adapters")),
        "adapter": path(Path("out/adapters", project.name)),
        "primary": form.primary,
        "why": form.why,
        "tokens": "64" if form.primary == "exact" else "256",
        "retrievers": f"none, {form.whole}, {form.best}"
        + (", gold" if any(one.has_gold for one in splits["dev"]) else ""),
        "strategies": form.strategies,
        "asked": form.asked,
        "taught": f"{form.best}, gold, {form.whole}, gold, none" if form.is_careful else f"{form.best}, {form.whole}",
        "target": "careful" if form.is_careful else "plain",
        "meaning": (
            "careful: the gold answer where the prompt shows its evidence, and otherwise `unknown`."
            if form.is_careful
            else "plain: the gold answer, whatever the prompt shows; with all evidence marked, `careful` invents less."
        ),
        "commands": "\n".join(f"#   {line}" for line in _commands(project)),
    }


def _all_marked(examples: Sequence[Example]) -> bool:
    """Whether what a prompt shows tells if it can be answered."""
    return all(one.has_gold for one in examples)


def _index(project: Project) -> Path:
    return Path("out/index", project.name)


def _commands(project: Project) -> tuple[str, ...]:
    """From here to a verdict, and to its confirmation."""
    folder, run = project.folder, Path("out", project.name)
    words = (
        ["python", "-m", "retrieval", "build", project.documents, _index(project)],
        ["python", "-m", "scripts.make_sft", folder / "sft.yaml"],
        ["accelerate", "launch", "train/lora.py", "--config", folder / "recipe.yaml"],
        ["python", "-m", "eval", "run", folder / "grid.yaml", "--out", run],
        ["python", "-m", "eval", "confirm", run],
    )
    return tuple(shlex.join(map(str, line)) for line in words)


def _said(
    project: Project, splits: Mapping[str, Sequence[Example]], suggestions: Sequence[Suggestion], form: _Form
) -> Iterator[str]:
    examples = [one for rows in splits.values() for one in rows]
    by = "cluster, since all hangs together by documents" if _documents_shared(splits) else "document"
    yield f"{project.folder}: {counted(len(examples), 'question')}, split by {by} (seed {project.seed}):"
    yield from _sizes(splits)
    yield from _too_few(splits)
    yield f"primary scorer: {form.primary}. {form.why}"
    if form.primary == "f1":
        yield (
            "Warning: exact match is unsuitable for such answers: nearly every right one would count as wrong. Instead "
            "of f1 `primary` may be contains (a short gold phrase stands in the reply), rouge, or a judge's score."
        )
    yield from _unmarked(project, examples, suggestions)
    yield from (f"Warning: {what}" for what in model_problems(*_model(project)))
    yield "The way to a verdict (also in grid.yaml):"
    yield from (f"  {line}" for line in _commands(project))
    yield f"Next:   {_commands(project)[0]}"


def _sizes(splits: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    train, dev, test = (splits[name] for name in ("train", "dev", "test"))
    yield f"  train  {_counted(train)}, to learn from"
    yield (
        f"  dev    {_counted(dev)}, to choose with: can show {_seen(detectable(dev, COMPARED))} in {COMPARED} "
        "comparisons"
    )
    yield (
        f"  test   {_counted(test)}, locked, to confirm the choice once: {_seen(detectable(test, 1))} in one "
        f"(power 80 %, where two ways disagree on {DISAGREE:.0%} of the questions)"
    )


def _seen(difference: float) -> str:
    """Of a score: there is none above 100 points."""
    return f"a difference of {100 * difference:.0f} points" if difference <= 1 else "no difference at all"


def _documents_shared(splits: Mapping[str, Sequence[Example]]) -> bool:
    """Whether a document is on two sides."""
    sides = [{document_of(mark) for one in rows for mark in one.evidence} for rows in splits.values()]
    return len(set().union(*sides)) < sum(map(len, sides))


def _too_few(splits: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    """Where no gain whatever could come out clear. Unanswerable questions are not counted: they are no one's gain."""
    for name, comparisons in (("dev", COMPARED), ("test", 1)):
        told = {one.cluster for one in splits[name] if not one.meta.get("unanswerable")}
        if len(told) < (needed := fewest_clusters(comparisons)):
            yield (
                f"Warning: the answers of {name} lie in {counted(len(told), 'cluster')}, and {needed} must differ "
                f"before any gain is clear in {counted(comparisons, 'comparison')}. Ask about more documents, or, if "
                "questions share less than a document, name it in a column `cluster` (a page, a chapter)."
            )


def _counted(examples: Sequence[Example]) -> str:
    clusters = len({one.cluster for one in examples})
    apart = f" in {counted(clusters, 'cluster')}" if clusters < len(examples) else ""
    return f"{counted(len(examples), 'question')}{apart}"


def _unmarked(project: Project, examples: Sequence[Example], suggestions: Sequence[Suggestion]) -> Iterator[str]:
    open_ones = sum(not one.has_gold for one in examples)
    if not open_ones:
        return
    yield (
        f"{counted(open_ones, 'question')} of {len(examples)} without evidence: no oracle arm for those, and in the "
        "split each stands alone, whatever document it is about."
    )
    if suggestions:
        sure = sum(one.holds_answer for one in suggestions)
        again = ["python", "-m", "eval", "init", f"{project.folder}-2", "--docs", project.documents]
        again += ["--questions", project.questions, "--model", project.model]
        again += ["--evidence", project.folder / SUGGESTED, *(["--seed", project.seed] if project.seed else [])]
        joined = f", add those of {project.evidence}" if project.evidence else ""
        yield (
            f"{project.folder / SUGGESTED} suggests {counted(len(suggestions), 'passage')} ({sure} hold the answer), "
            f"none of which is taken for evidence. Delete the lines that are wrong{joined}, then:\n"
            f"  {shlex.join(map(str, again))}"
        )


def _model(project: Project) -> tuple[str, Path | None]:
    model = str(Path(project.model).resolve()) if Path(project.model).is_dir() else project.model
    return model, model_folder(model)
