"""Do to a run what happens to one: kill it or its engine, fill its disk, cut its sockets, tear a line, start it twice.

    python -m scripts.check_run out/demo/world/stack.yaml       # 25 kills and 170 faults, on a stand-in for vLLM
    python -m scripts.check_run out/demo/world/stack.yaml --vllm --kills 5 --faults 0

After each: what was answered is still there, nothing is there twice, no combination with gaps is ranked. When a run has
come to its end all the same, its records are those of a run that nobody disturbed, and the next one begins. Knows
nothing of how a run keeps its promises.
"""

import errno
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml
from tqdm import tqdm

from eval.folder import load_results
from eval.grid import load_grid
from eval.record import Record, RunError, read_records
from eval.run import run
from eval.summary import ranked, summarise
from retrieval.console import Parser
from retrieval.files import FileError
from scripts.check_resume import draw_alone, wait
from scripts.serving import descendants, words_of
from scripts.stub_up import command
from serve import engine
from serve.chat import ServeError, Usage
from serve.opened import open_all

EXAMPLES: Final = 12
AT_ONCE: Final = 16
SERVERS: Final = ("scripts.stub_engine", "vllm.entrypoints")
Fault = Callable[["Subject", Random], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """The run that is disturbed."""

    grid: Path
    folder: Path
    stub: bool
    usual: float
    """Seconds that it takes undisturbed."""

    def start(self, prepare: Callable[[], object] = lambda: None) -> int:
        """Fork it, with what `prepare` does to its process; its id. It exits with 0 when nothing is missing."""
        child = os.fork()
        if child:
            return child
        os.setpgid(0, 0)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        if self.stub:
            setattr(engine, "command", command)  # noqa: B010 - mypy knows that a module's function is no variable
        prepare()
        try:
            results = run(load_grid(self.grid), self.folder)
        except (RunError, ServeError, FileError, OSError):
            os._exit(1)
        except BaseException:  # no sentence for a person: a mistake of ours
            os._exit(70)
        os._exit(int(results.lacking > 0))

    @property
    def lines(self) -> list[bytes]:
        """The whole lines of its records."""
        file = self.folder / "records.jsonl"
        return file.read_bytes().split(b"\n")[:-1] if file.exists() else []


def killed(subject: Subject, random: Random) -> None:
    """The program, with SIGKILL."""
    child = subject.start()
    if wait(child, random.uniform(0.1, 1.0) * subject.usual) is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def bereft(subject: Subject, random: Random) -> None:
    """Its engine, with SIGKILL, at a moment when there is one."""
    child = subject.start()
    until, server = time.monotonic() + 300, None
    while server is None and time.monotonic() < until and os.waitpid(child, os.WNOHANG) == (0, 0):
        server = next((one for one in descendants(child) if _serves(one)), None)
        time.sleep(0.01)
    if server is not None:
        time.sleep(random.uniform(0.0, 0.8) * subject.usual)
        with suppress(ProcessLookupError):  # the run may have come to its end before
            os.kill(server, signal.SIGKILL)
        _ended(child)


def full(subject: Subject, random: Random) -> None:
    """A disk that takes so many bytes more, then says so: in the middle of a line, or of any other file."""
    if random.random() < 0.5:
        _ended(subject.start(partial(_fill, random.randrange(200_000))))
    else:
        size = sum(map(len, subject.lines)) + random.randrange(60_000)
        _ended(subject.start(partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))))


def cut(subject: Subject, random: Random) -> None:
    """Some of the server's answers end in the middle, until the run has ended too."""
    _ended(subject.start(partial(os.environ.update, STUB_CUTS=str(random.choice([0.1, 0.5, 0.9])))))


def torn(subject: Subject, random: Random) -> None:
    """The last line loses its end, as when a machine dies in the middle of a write; then it goes on for a while."""
    file = subject.folder / random.choice(["records.jsonl", "records.jsonl", "failures.jsonl"])
    if file.exists() and (size := file.stat().st_size):
        last = size - (file.read_bytes()[:-1].rfind(b"\n") + 1)
        os.truncate(file, size - random.randrange(1, last))
    killed(subject, random)


def twice(subject: Subject, random: Random) -> None:
    """Two at once in the same folder: one of them is refused, unless it comes when the other has ended."""
    first = subject.start()
    time.sleep(random.uniform(0.0, 0.5) * subject.usual)
    second = subject.start()
    codes = _ended(first), _ended(second)
    assert 0 in codes, "two runs refused each other"


KILLS: Final[Mapping[str, Fault]] = {"program killed": killed, "engine killed": bereft}
FAULTS: Final[Mapping[str, Fault]] = {
    "disk full": full,
    "socket cut": cut,
    "line torn": torn,
    "two runs": twice,
}


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done and seen."""

    faults: Mapping[str, int]
    finished: int
    """Runs that came to their end all the same, with the records of the undisturbed one."""
    gaps: int
    """Times that a folder was looked at while answers were missing."""
    other_texts: int
    """Answers in other words than the undisturbed run's; a real engine may flip, a stand-in may not."""


def check(stack: Path, home: Path, plan: list[tuple[str, Fault]], stub: bool, seed: int = 0) -> Tally:
    """Raise AssertionError at the first promise that is not kept."""
    random = Random(seed)
    random.shuffle(plan)
    # How the stand-in behaves: 10 ms a word, and words that depend on the prompt.
    os.environ.update(STUB_SECONDS="0.01", STUB_TELLS="1")
    whole = Subject(_grid(stack, home, stub), home / "whole", stub, 0.0)
    open_all(load_grid(whole.grid).stack)  # so that a fork has the libraries already
    began = time.monotonic()
    assert _ended(whole.start()) == 0, "the run fails without being disturbed"
    expected = _by_place(whole.folder)
    subject = replace(whole, folder=home / "disturbed", usual=time.monotonic() - began)
    done: Counter[str] = Counter()
    finished = gaps = other = 0
    for name, fault in tqdm(plan, desc="faults", unit="fault", disable=None):
        before = subject.lines
        fault(subject, random)
        done[name] += 1
        _nothing_lost(before, subject.lines, torn=name == "line torn")
        if not (subject.folder / "config.yaml").exists():
            continue
        missing, differing = _sound(subject.folder, expected)
        gaps += bool(missing)
        if not missing:
            finished, other = finished + 1, other + differing
            shutil.rmtree(subject.folder)
    if subject.folder.exists():
        assert _ended(subject.start()) == 0, "the last run does not come to its end"
        missing, differing = _sound(subject.folder, expected)
        assert not missing
        finished, other = finished + 1, other + differing
    return Tally(dict(done), finished, gaps, other)


def _nothing_lost(before: list[bytes], after: list[bytes], torn: bool) -> None:
    """Every line that was whole is still there, byte for byte, in its place."""
    kept = before[:-1] if torn else before
    assert after[: len(kept)] == kept, f"{len(kept)} lines were there, and are not"


def _sound(folder: Path, expected: Mapping[tuple[str, ...], Record]) -> tuple[int, int]:
    """How many answers are missing, and how many differ in their words, when all the rest is as it must be."""
    places = [_place(one) for one in read_records(folder / "records.jsonl")]
    assert len(places) == len(set(places)), "an answer is there twice"
    found = _by_place(folder)
    other = [place for place, one in found.items() if one.text != expected[place].text]
    for place, one in found.items():
        asked, was = _asked(one), _asked(expected[place])
        assert asked == was, f"{place}: {asked} instead of {was}"
    results = load_results(folder)
    named = {row.combination for row in ranked(summarise(results))}
    for cell in results.records:
        assert not (results.missing(cell) and str(cell) in named), (
            f"{cell} is ranked, with {results.missing(cell)} gaps"
        )
    return len(expected) - len(found), len(other)


def _asked(record: Record) -> Record:
    """The record without what two runs need not share: times, load, what was cached; words, and their score."""
    return replace(
        record,
        text="",
        usage=Usage(record.usage.prompt_tokens),
        scores={},
        finish_reason="",
        seconds=0.0,
        search_seconds=0.0,
        in_flight=0,
        shared=False,
    )


def _by_place(folder: Path) -> dict[tuple[str, ...], Record]:
    return {_place(one): one for one in read_records(folder / "records.jsonl")}


def _place(record: Record) -> tuple[str, ...]:
    return record.id, str(record.combination), str(record.repeat)


def _grid(stack: Path, home: Path, stub: bool) -> Path:
    """A grid with every kind of cell: shared prompts, both adapters, a search, the oracle arm, repeats."""
    world = stack.parent
    written: dict[str, Any] = yaml.safe_load(stack.read_text(encoding="utf-8"))
    task: dict[str, Any] = yaml.safe_load((world / "task.yaml").read_text(encoding="utf-8"))
    rows = (world / task["examples"]).read_text(encoding="utf-8").splitlines(keepends=True)[:EXAMPLES]
    (home / "test.jsonl").write_text("".join(rows), encoding="utf-8")
    adapter, folder = next(iter(written["adapters"].items()))
    searching, found = next((name, one) for name, one in written["retrievers"].items() if one["kind"] == "lexical")
    strategies = written["strategies"]
    settings = {
        "model": os.path.relpath(world / written["model"], home),
        # Float32, so that the same prompt has the same answer in nearly any batch.
        "engine": {**written.get("engine", {}), "dtype": "float32"},
        "adapters": {adapter: os.path.relpath(world / folder, home)},
        "retrievers": {searching: {**found, "index": os.path.relpath(world / found["index"], home)}},
        "strategies": {"direct": strategies["direct"], "bare": strategies["direct"], "told": strategies["instructed"]},
        "sampling": {"max_tokens": 4 if stub else 32},
    }
    documents = {"documents": os.path.relpath(world / task["documents"], home)} if "documents" in task else {}
    grid = {
        "stack": "stack.yaml",
        "task": "task.yaml",
        "adapters": ["base", adapter],
        "retrievers": ["none", searching, "gold"],
        "strategies": ["direct", "bare", "told"],
        "baseline": "base:none:direct",
        "concurrency": AT_ONCE,
        "repeats": 2,
    }
    for name, content in (
        ("stack", settings),
        ("task", {**task, "examples": "test.jsonl", **documents}),
        ("grid", grid),
    ):
        (home / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return home / "grid.yaml"


def _fill(free: int) -> None:
    """From now on there is room for so many bytes."""
    left, write = [free], os.write

    def written(file: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = write(file, data[: left[0]])
        left[0] -= taken
        return taken

    os.write = written  # type: ignore[assignment]


def _ended(child: int) -> int:
    """Its exit code; a run that has not ended after five minutes never will."""
    code = wait(child, 300)
    if code is None:
        os.killpg(child, signal.SIGKILL)
    assert code in (0, 1), f"a run ended with {code}"
    return code


def _serves(pid: int) -> bool:
    words = words_of(pid)
    return any(name in words for name in SERVERS) and "serve.guard" not in words


def main() -> None:
    parser = Parser(description=__doc__, epilog="example: python -m scripts.check_run out/demo/world/stack.yaml")
    parser.add_argument("stack", type=Path, metavar="STACK", help="the demo's, or one like it beside its task.yaml")
    parser.add_argument("--kills", type=int, default=25, help="of the program and of its engine, in turns (25)")
    parser.add_argument("--faults", type=int, default=170, help="of the other kinds, in turns (170)")
    parser.add_argument("--vllm", action="store_true", help="start vLLM; the faults need the stand-in")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.vllm and options.faults:
        sys.exit("--vllm has no faults but kills; add --faults 0")
    draw_alone()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        plan = [*_turns(KILLS, options.kills), *_turns(FAULTS, options.faults)]
        tally = check(options.stack, Path(folder), plan, not options.vllm, options.seed)
    print(*(f"{times} x {name}" for name, times in tally.faults.items()), sep=", ")
    print(
        f"{tally.finished} runs came to their end with the records of the undisturbed one, {tally.other_texts} of them "
        f"in other words; folders with gaps were looked at {tally.gaps} times ({time.monotonic() - began:.0f} s)"
    )


def _turns(kinds: Mapping[str, Fault], times: int) -> list[tuple[str, Fault]]:
    named = list(kinds.items())
    return [named[turn % len(named)] for turn in range(times)]


if __name__ == "__main__":
    main()
