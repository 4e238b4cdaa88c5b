"""A run of any number of answers: what is checked at a million is checked here at a few hundred."""

import tracemalloc
from pathlib import Path

from eval.record import read_records
from eval.run import Jobs
from eval.task import Example
from scripts.check_scale import Asking, Report, check
from serve.combination import Combination


def test_the_program_is_watched_from_its_start_to_its_report(tmp_path: Path) -> None:
    asking, report = check(400, 2, tmp_path)

    records = list(read_records(tmp_path / "run" / "records.jsonl"))
    assert len({(one.id, one.combination) for one in records}) == len(records) == report.answers == 800
    assert isinstance(asking, Asking)
    assert 0 < asking.answers < 800
    assert (asking.before_s, asking.rate, asking.end_mib) > (0, 0, 0)
    assert isinstance(report, Report)
    assert (report.seconds, report.most_mib, report.page_mib) > (0, 0, 0)


def test_what_is_left_to_ask_takes_no_memory_however_much_it_is() -> None:
    examples = tuple(Example(id=f"q{n}", question="Who?", answers=("Varn",)) for n in range(500))
    ids = frozenset(one.id for one in examples)
    cells = {Combination(adapter, "none", f"way{n}"): ids for adapter in ("base", "tuned") for n in range(20)}

    tracemalloc.start()
    asked = sum(job.cell.adapter == "tuned" for job in Jobs(asked=cells, examples=examples, repeats=2))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert asked == 20_000
    assert most < 50_000, "a job that is made stays"
