"""The figures in README.md are those of the run, rounded once, and nothing else of the page changes."""

from pathlib import Path

import pytest

from eval.__main__ import main as evaluate
from scripts import readme
from tests.eval_stub import Stub, number_in, serving, write_world


def test_the_figures_are_those_that_the_terminal_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five questions, five right have an interval from 0.56552 on, which summary.csv has as 0.5655."""
    page, out = tmp_path / "README.md", tmp_path / "out"
    page.write_text(f"# Before\n{readme.BEGIN}\nold figures\n{readme.END}\nafter\n")
    with serving(Stub(lambda model, said: f"word{number_in(said)}" if model == "tuned" else "wrong")) as stub:
        grid = write_world(tmp_path, stub.url, n=5, retrievers=["none"], strategies=["direct"])
        assert evaluate(["run", str(grid), "--out", str(out)]) == 0
    monkeypatch.setattr(readme, "README", page)
    monkeypatch.setattr("sys.argv", ["readme", str(out)])

    readme.main()

    written = page.read_text()
    assert "| `tuned:none:direct` | 100.0 | 56.6 to 100.0 |" in written
    assert "| `base:none:direct` | 0.0 | 0.0 to 43.4 | baseline |" in written
    assert written.startswith(f"# Before\n{readme.BEGIN}\n")
    assert written.endswith(f"{readme.END}\nafter\n")
    assert "old figures" not in written
