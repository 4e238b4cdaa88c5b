"""The front door: `python -m eval init DIR --docs FOLDER --questions FILE | plan GRID [--out DIR] |
run GRID [--out DIR] | confirm RUN | report RUN [--embedder MODEL] | judge RUN JUDGES | compare RUN RUN |
gate RUN GATES [--junit FILE] | ladder LADDER [--out DIR] | optimise SEARCH [--out DIR] |
worth [RUN] --right S --wrong F`.

Turns what people type into calls, and what goes wrong into sentences.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from eval.analysis import Analysis, analyse
from eval.compare import compare, show_changes
from eval.confirm import TEST, confirm
from eval.energy import read_energy
from eval.folder import load_results
from eval.gate import GATES, judge, load_gates, show_gates, to_junit
from eval.grid import Grid, load_grid
from eval.init import MODEL, Project, start
from eval.judging.judge import judge_run
from eval.judging.settings import load_judges
from eval.judging.table import section, show_findings
from eval.ladder import LADDER, is_ladder, load_ladder
from eval.ladder_page import save_ladder, show_ladder
from eval.ladder_steps import climb
from eval.leaks import find_leaks, said
from eval.optimise import optimise
from eval.payback import trainings
from eval.plan import plan, read_earlier
from eval.plan_terminal import show_plan
from eval.record import RunError
from eval.report import save
from eval.run import run
from eval.search import HELP, load_search
from eval.shown import refuse_test_questions
from eval.terminal import show
from eval.worth import show_worth, stakes_of
from retrieval.console import Parser, stop_politely, tell_progress
from retrieval.embed import PACKAGED, Embedder, locate
from retrieval.files import FileError, write_atomically
from retrieval.passage import RetrievalError
from serve.chat import ServeError

log = logging.getLogger(__name__)

USUAL: Final = (FileError, RetrievalError, ServeError, RunError, OSError)
"""What a person can mend; anything else is our mistake and keeps its traceback."""
WIDE: Final = 120
"""Columns of a table that goes to a file or a pipe; a terminal says itself how wide it is."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 when something is wrong or answers are missing, 2 when a gate fails."""
    tell_progress("eval", "serve", "retrieval")
    stop_politely()  # in-flight questions are dropped, the engine is stopped, every answer is kept
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except USUAL as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopped. Every answer so far is kept; the same command goes on from here.", file=sys.stderr)
    return 1


def _init(options: argparse.Namespace) -> int:
    project = Project(
        folder=options.folder,
        documents=options.docs,
        questions=options.questions,
        model=options.model,
        evidence=options.evidence,
        seed=options.seed,
    )
    for sentence in start(project):
        print(sentence)
    return 0


def _plan(options: argparse.Namespace) -> int:
    grid = _read(options.file)
    refuse_test_questions(grid)
    place = ["--out", str(options.out)] if options.out else []
    command = ["python", "-m", "eval", "ladder" if is_ladder(options.file) else "run", str(options.file), *place]
    show_plan(plan(grid, read_earlier(grid, _folder(options))), command, _console())
    return 0


def _read(path: Path) -> Grid:
    """The grid in a file, or that of a ladder."""
    return load_ladder(path).grid if is_ladder(path) else load_grid(path)


def _run(options: argparse.Namespace) -> int:
    grid, folder = load_grid(options.file), _folder(options)
    missing = run(grid, folder).lacking
    _report(folder)
    if missing:
        log.error(
            "%d answers missing; %s/failures.jsonl says why. The same command asks only for those.", missing, folder
        )
    return int(missing > 0)


def _report(folder: Path, embedder: str = "") -> int:
    analysis = _analysed(folder, embedder)
    show(analysis, save(analysis, folder), _console())
    return 0


def _confirm(folder: Path) -> int:
    confirmed, test = confirm(folder), folder / TEST
    analysis = _analysed(test)
    warnings = [f"Warning: {sentence}" for sentence in said(analysis.leaks, len(analysis.results.examples))]
    print("\n".join([*confirmed.sentences, *warnings, f"Report: {save(analysis, test)}"]))
    return 0


def _analysed(folder: Path, embedder: str = "") -> Analysis:
    results = load_results(folder)
    embed = Embedder(locate(embedder)).passages if embedder else None
    return analyse(
        results,
        find_leaks(results, folder, embed),
        trainings(results.config, folder),
        read_energy(folder),
        section(folder),
    )


def _folder(options: argparse.Namespace) -> Path:
    """The run's folder."""
    chosen: Path | None = options.out
    return chosen or Path("out", options.file.stem)


def _compare(before: Path, after: Path) -> int:
    show_changes(compare(load_results(before), load_results(after)), _console())
    return 0


def _gate(options: argparse.Namespace) -> int:
    run = load_results(options.folder)
    gates = load_gates(options.gates, run)
    earlier = load_results(gates.against_run.run) if gates.against_run else None
    leaks = find_leaks(run, options.folder) if gates.leaks else None
    judgement = judge(gates, run, earlier, leaks)
    show_gates(judgement, _console())
    if options.junit:
        write_atomically(options.junit, to_junit(judgement, str(options.folder)))
    return 2 if judgement.failed else 0


def _optimise(options: argparse.Namespace) -> int:
    folder = _folder(options)
    outcome = optimise(load_search(options.file), folder)
    print("\n".join(outcome.sentences))
    print(f"Strategy: {folder / 'strategy.yaml'}" if outcome.holds else f"Candidates: {folder / 'candidates.yaml'}")
    return 0


def _judge(folder: Path, judges: Path) -> int:
    findings = judge_run(folder, load_judges(judges))
    show_findings(findings, _console())
    if findings.missing:
        log.error("The judge failed; %s/judge_failures.jsonl says why. The same command asks again.", folder)
    return int(findings.missing > 0)


def _worth(options: argparse.Namespace) -> int:
    results = load_results(options.folder) if options.folder else None
    stakes = stakes_of(options.right, options.wrong, options.passed_on, results)
    show_worth(stakes, results, _console())
    return 0


def _ladder(options: argparse.Namespace) -> int:
    ladder, folder = load_ladder(options.file), _folder(options)
    climbed = climb(ladder, run(ladder.grid, folder))
    save(_analysed(folder), folder)
    show_ladder(climbed, save_ladder(climbed, folder), _console())
    return int(climbed.missing > 0)


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m eval",
        description="Find out which lever moves your model: a prompt, retrieval, or an adapter.",
        epilog="example: python -m eval run out/demo/world/grid.yaml --out out/demo",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_init(commands)
    ahead = commands.add_parser(
        "plan",
        help="what a run would take, and what difference it could see",
        description="Say what a run would ask and take, and the smallest difference it can show. Asks nothing. "
        "A ladder.yaml will do too.",
        epilog="example: python -m eval plan out/demo/world/grid.yaml --out out/demo",
    )
    ask = commands.add_parser(
        "run",
        help="answer what is not answered yet, and report",
        description="Ask every question of the task in every combination of the grid. The same command resumes.",
        epilog="example: python -m eval run out/demo/world/grid.yaml --out out/demo",
    )
    for command, does in ((ahead, _plan), (ask, _run)):
        _takes(command, "grid", "run")
        command.set_defaults(command=does)
    once = commands.add_parser(
        "confirm",
        help="the winner and the baseline on the locked test",
        description="Ask the winner of a run and its baseline, and only these, the questions that its task keeps "
        "locked. Every read is counted in a file beside them: after the first, choose nothing by it.",
        epilog="example: python -m eval confirm out/handbook",
    )
    once.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    once.set_defaults(command=lambda options: _confirm(options.folder))
    report = commands.add_parser(
        "report",
        help="make the report of a run again",
        description="Make a run's report and the files beside it again from its folder, asking nothing.",
        epilog="example: python -m eval report out/demo",
    )
    report.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    report.add_argument(
        "--embedder",
        default="",
        metavar="MODEL",
        help=f"look for test questions in other words too, by a folder or {PACKAGED} (minutes for 10,000 texts)",
    )
    report.set_defaults(command=lambda options: _report(options.folder, options.embedder))
    _add_compare(commands)
    _add_gate(commands)
    _add_judge(commands)
    _add_worth(commands)
    _add_optimise(commands)
    _add_ladder(commands)
    return parser


def _takes(command: Parser, noun: str, made: str) -> None:
    """The file that a command reads, and where it keeps what is made of it."""
    command.add_argument("file", type=Path, metavar=noun.upper(), help=f"a {noun}.yaml")
    where = f"the {made}'s folder (default: out/<name of the {noun} file>)"
    command.add_argument("--out", type=Path, metavar="DIR", help=where)


INIT: Final = """\
FILE is a .csv with the headers question and answer, or a .jsonl with those keys. Also known:

  id            else the question's number
  evidence      the document that states the answer, by its place in FOLDER, such as leave/policy.pdf
  page          its page there, counted from 1
  unanswerable  yes, where no document has the answer
  slice         a kind of question, to group the report by
  cluster       what questions share, where that is less than the document (a page, a chapter): errors are over it

Several answers, or pieces of evidence, stand apart by " | ". Other columns are kept as `meta`.

example: python -m eval init handbook --docs docs --questions questions.csv"""


def _add_init(commands: "argparse._SubParsersAction[Parser]") -> None:
    own = commands.add_parser(
        "init",
        help="a project from your own documents and questions",
        description="Write stack, task, grid, recipe and the splits train, dev and test (locked) into DIR. Nothing is "
        "written over, and nothing is asked.",
        epilog=INIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument("folder", type=Path, metavar="DIR", help="the new project; its name is the adapter's too")
    own.add_argument("--docs", type=Path, required=True, metavar="FOLDER", help="what `retrieval build` can read")
    own.add_argument("--questions", type=Path, required=True, metavar="FILE", help="questions with their answers")
    own.add_argument("--model", default=MODEL, metavar="MODEL", help=f"a folder or a hub id (default: {MODEL})")
    own.add_argument("--evidence", type=Path, metavar="FILE", help="suggestions of an earlier init, wrong ones deleted")
    own.add_argument("--seed", type=int, default=0, help="another seed splits differently (default: 0)")
    own.set_defaults(command=_init)


def _add_compare(commands: "argparse._SubParsersAction[Parser]") -> None:
    both = commands.add_parser(
        "compare",
        help="the same questions in two runs",
        description="What became better or worse from one run to another, combination by combination, and whether that "
        "is more than chance, on the questions that both have. Test sets or primary scorers that differ are refused.",
        epilog="example: python -m eval compare out/before out/demo",
    )
    both.add_argument("before", type=Path, metavar="RUN", help="the folder of the first run")
    both.add_argument("after", type=Path, metavar="RUN", help="and of the second")
    both.set_defaults(command=lambda options: _compare(options.before, options.after))


def _add_gate(commands: "argparse._SubParsersAction[Parser]") -> None:
    thresholds = commands.add_parser(
        "gate",
        help="thresholds for CI; exits with 2 when one fails",
        description="Judge a run by the thresholds of a YAML file, all at once.",
        epilog=GATES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    thresholds.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    thresholds.add_argument("gates", type=Path, metavar="GATES", help="a gates.yaml")
    thresholds.add_argument("--junit", type=Path, metavar="FILE", help="also write a JUnit XML file, which CI reads")
    thresholds.set_defaults(command=_gate)


JUDGES: Final = """\
judges.yaml:

  judge: {model: models/qwen3-8b}        # a folder, or with `url` what that server calls it; or {reranker: FOLDER}
  metrics:
    faithful: {kind: faithfulness, labels: labels.jsonl}   # {"context", "claim", "label": true} a line, by people
    precise: {kind: context_precision}   # held against the marked evidence where nobody has labelled
    recalled: {kind: context_recall}
    relevant: {kind: answer_relevancy}
    kind: {kind: scorecard, criteria: "Friendly, and to the point."}
    better: {kind: pairwise, criteria: "The answer that a customer would rather have."}
  combinations: ["base:none:direct", "base:hybrid:direct"]    # whose answers; pairwise compares each with each

example: python -m eval judge out/demo judges.yaml"""


def _add_judge(commands: "argparse._SubParsersAction[Parser]") -> None:
    second = commands.add_parser(
        "judge",
        help="what a model of one's own says of the answers, and how far to trust it",
        description="Ask a judge about a run's answers, and about what people have judged. What it says is kept, ranks "
        "nothing, and is advice wherever it does not agree with people (kappa 0.6).",
        epilog=JUDGES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    second.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    second.add_argument("judges", type=Path, metavar="JUDGES", help="a judges.yaml")
    second.set_defaults(command=lambda options: _judge(options.folder, options.judges))


def _add_worth(commands: "argparse._SubParsersAction[Parser]") -> None:
    value = commands.add_parser(
        "worth",
        help="from which score on answers pay, and what those of a run bring",
        description="What a right answer brings and a wrong one costs, as a share of right answers that breaks even; "
        "of a run, the net value of each combination, and of answering only when sure where it states a confidence.",
        epilog="example: python -m eval worth --right 20 --wrong 88",
    )
    value.add_argument("folder", type=Path, nargs="?", metavar="RUN", help="the run's folder")
    value.add_argument("--right", type=float, metavar="S", help="what a right answer brings (else by the run's task)")
    value.add_argument("--wrong", type=float, metavar="F", help="what a wrong one costs")
    value.add_argument("--passed-on", type=float, default=0, metavar="P", help="and a question not answered (0)")
    value.set_defaults(command=_worth)


def _add_optimise(commands: "argparse._SubParsersAction[Parser]") -> None:
    better = commands.add_parser(
        "optimise",
        help="search for better instructions and demonstrations, on dev",
        description="Race instructions and sets of worked examples on one half of a dev split, and say what the best "
        "is worth by the other half. The test set is never asked. The same command resumes.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _takes(better, "search", "search")
    better.set_defaults(command=_optimise)


def _add_ladder(commands: "argparse._SubParsersAction[Parser]") -> None:
    steps = commands.add_parser(
        "ladder",
        help="the steps of a journey, each against the one before",
        description="Ask every question at every step of a ladder, and draw the staircase beside the published one. "
        "The same command resumes.",
        epilog=LADDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _takes(steps, "ladder", "run")
    steps.set_defaults(command=_ladder)


if __name__ == "__main__":
    sys.exit(main())
