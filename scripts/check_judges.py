"""How far can a judge of faithfulness be trusted? Held against people's labels: SciFact's SUPPORT and CONTRADICT.

    python -m scripts.check_judges SCIFACT                       # the pocket model, and a cross-encoder trained here
    python -m scripts.check_judges SCIFACT --judge judges.yaml   # a judge of your own

SCIFACT is a BEIR folder with a `claim_labels.jsonl`. An abstract is the context, a claim the claim. Two lines:
SUPPORT against CONTRADICT, which experts have marked, and SUPPORT against all else, with the cited abstracts in which
they found neither. Then half of the labels calibrate, and the rate on the other half is corrected and held against the
truth. Knows nothing of how a judge is asked.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from rich.console import Console
from rich.table import Table

from eval.judging.calibration import ENOUGH, Pair, calibrate, corrected
from eval.judging.findings import said_estimate, said_share
from eval.judging.inquiry import Inquiry
from eval.judging.judge import gather, labelled
from eval.judging.settings import JudgeSettings, Label, load_judges
from eval.record import RunError
from eval.wording import counted
from retrieval.console import Parser, stop_politely, tell_progress
from retrieval.files import FileError, read_jsonl, read_judgements
from retrieval.stats import wilson
from scripts.claims import Claim, parts
from serve.chat import ServeError
from serve.stack import EngineSettings

POCKET: Final = Path(__file__).parent / "pocket" / "model"
FOLDS: Final = 3
"""Parts of which each is judged by a cross-encoder that has learnt from the others."""
ALL, MARKED = "SUPPORT or not", "SUPPORT or CONTRADICT"


@dataclass(frozen=True, slots=True)
class Said:
    """What a judge has said of the claims that it did not fail on."""

    claims: tuple[tuple[Claim, str], ...]
    failed: int

    def pairs(self, only_marked: bool = False) -> list[Pair]:
        """(judge, people)"""
        return [(said, one.label) for one, said in self.claims if one.relation or not only_marked]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each judge; the exit code."""
    tell_progress("eval", "serve", "retrieval", "scripts")
    stop_politely()
    options = _parser().parse_args(arguments)
    try:
        claims = drawn(read_claims(options.scifact), options.claims)
        judges = [load_judges(path).judge for path in options.judge]
        for one in judges or [_pocket()]:
            _show(one.name, _ask(one, claims, options.out), Console(width=120))
        if not judges:
            _show("MiniLM, learnt from other claims", _crossfitted(claims, options.out), Console(width=120))
    except (FileError, ServeError, RunError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def read_claims(folder: Path) -> tuple[Claim, ...]:
    """Every claim with an abstract that was cited for it, and what experts found there."""
    claims = {str(row["_id"]): row["text"] for _, row in read_jsonl(folder / "queries.jsonl")}
    documents = {row["_id"]: f"{row['title']}\n{row['text']}" for _, row in read_jsonl(folder / "corpus.jsonl")}
    marked = {
        (str(row["claim_id"]), str(row["doc_id"])): row["label"]
        for _, row in read_jsonl(folder / "claim_labels.jsonl")
        if str(row["claim_id"]) in claims
    }
    cited = [(claim, document) for claim, document, _ in read_judgements(folder / "qrels" / "test_beir.tsv")]
    return tuple(
        Claim(claim, document, claims[claim], documents[document], marked.get((claim, document), ""))
        for claim, document in dict.fromkeys([*marked, *cited])
    )


def drawn(claims: Sequence[Claim], count: int | None) -> tuple[Claim, ...]:
    """So many of them, by lot and the same ones each time; all of them where no number is given."""
    return tuple(claims if count is None else Random(0).sample(claims, min(count, len(claims))))


def _pocket() -> JudgeSettings:
    return JudgeSettings(model=str(POCKET), engine=EngineSettings(max_model_len=4096), max_tokens=256)


def _ask(judge: JudgeSettings, claims: Sequence[Claim], out: Path) -> Said:
    out.mkdir(parents=True, exist_ok=True)
    labels = [Label(Inquiry.of("supported", context=one.abstract, claim=one.text), one.label) for one in claims]
    found = gather(list(labelled("faithfulness", labels)), judge, out, workers=16).found
    said = {about[1]: one for (_, about), one in found.items()}
    kept = [(claim, str(said[str(n)])) for n, claim in enumerate(claims, start=1) if str(n) in said]
    return Said(tuple(kept), len(claims) - len(kept))


def _crossfitted(claims: Sequence[Claim], out: Path) -> Said:
    """Each part of the claims, judged by a cross-encoder that has learnt from the others and has not seen it."""
    from scripts.claims import learnt  # heavy

    found, failed = [], 0
    for number, part in enumerate(parts(claims, FOLDS), start=1):
        others = [one for one in claims if one not in part]
        folder = learnt(others, out / f"fold-{number}")
        said = _ask(JudgeSettings(reranker=folder), part, out)
        found += said.claims
        failed += said.failed
    return Said(tuple(found), failed)


def _show(name: str, said: Said, console: Console) -> None:
    if not said.claims:
        console.print(
            f"{name}: all of {counted(said.failed, 'claim')} got no judgement; judge_failures.jsonl says why."
        )
        return
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0), title=name, title_justify="left")
    for heading in ("labels", "n", "says yes", "sensitivity", "specificity", "kappa", "standing"):
        table.add_column(heading, no_wrap=True)
    for what, pairs in ((MARKED, said.pairs(only_marked=True)), (ALL, said.pairs())):
        found = calibrate(pairs)
        assert found.sensitivity
        assert found.specificity
        kappa = f"{found.kappa.value:.2f} [{found.kappa.low:.2f}, {found.kappa.high:.2f}]"
        yes = sum(judge == "yes" for judge, _ in pairs)
        rates = said_share(found.sensitivity), said_share(found.specificity)
        table.add_row(what, f"{len(pairs)}", f"{yes}", *rates, kappa, "calibrated" if found.enough else "advisory")
    console.print(table)
    if said.failed:
        console.print(f"{counted(said.failed, 'claim')} got no judgement, and count for nothing.")
    _show_corrected(said, console)
    console.print()


def _show_corrected(said: Said, console: Console) -> None:
    """Half calibrates, the other half is a run whose truth is known."""
    half, other = (
        [(judge, claim.label) for claim, judge in said.claims if claim in part]
        for part in parts([claim for claim, _ in said.claims], 2)
    )
    seen = wilson(sum(judge == "yes" for judge, _ in other), len(other))
    truth = sum(person == "yes" for _, person in other) / len(other)
    found = corrected(seen, calibrate(half))
    console.print(
        f"On half of them it says yes to {said_estimate(seen)}; "
        + (f"corrected by the other half: {said_estimate(found)}" if found else "on the rest it is a coin, at best")
        + f"; people: {100 * truth:.1f}%."
    )


def _parser() -> Parser:
    parser = Parser(
        prog="python -m scripts.check_judges",
        description=f"Hold judges of faithfulness against SciFact's labels; below kappa {ENOUGH} a judge only advises.",
        epilog="example: python -m scripts.check_judges ../scifact --judge judges.yaml",
    )
    parser.add_argument("scifact", type=Path, metavar="SCIFACT", help="a BEIR folder with claim_labels.jsonl")
    parser.add_argument(
        "--judge", type=Path, action="append", default=[], metavar="FILE", help="a judges.yaml, whose judge is asked"
    )
    parser.add_argument("--claims", type=int, metavar="N", help="so many of the pairs, drawn by lot (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/judges"), metavar="DIR", help="keeps what was said (default: out/judges)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
