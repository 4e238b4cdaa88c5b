"""Whatever is wrong is said before anything starts: the file, the line, the remedy, no traceback, exit code 1."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.__main__ import main
from tests.eval_stub import write_world

Spoil = Callable[[Path], None]


def edit(name: str, old: str, new: str) -> Spoil:
    """Replace a text in one of the world's files."""

    def spoil(world: Path) -> None:
        path = world / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "sentences"),
    [
        (edit("grid.yaml", "adapters:", "adapter:"), ["grid.yaml:3: adapter: unknown key; did you mean 'adapters'?"]),
        (edit("grid.yaml", "baseline: base:none:direct", ""), ["baseline: this key is required and missing"]),
        (edit("grid.yaml", "- tuned", "- tunde"), ["grid.yaml:3: adapters: 'tunde': not in", "did you mean 'tuned'?"]),
        (
            edit("grid.yaml", "- none", "- dense"),
            ["grid.yaml:6: retrievers: 'dense': not in", "choose from none, gold"],
        ),
        (edit("grid.yaml", "- brief", "- breif"), ["grid.yaml:9: strategies: 'breif'", "did you mean 'brief'?"]),
        (edit("grid.yaml", "- brief", "- direct"), ["grid.yaml:9: strategies: 'direct' is listed twice"]),
        (
            edit("grid.yaml", "base:none:direct", "base:none:driect"),
            ["grid.yaml:12: baseline: 'base:none:driect': not a cell of this grid; did you mean 'base:none:direct'?"],
        ),
        (edit("grid.yaml", "base:none:direct", "base:gold:direct"), ["baseline: 'base:gold:direct' is the oracle arm"]),
        (edit("grid.yaml", "concurrency: 8", "concurrency: 0"), ["grid.yaml:13: concurrency: Input should be greater"]),
        (edit("grid.yaml", "task: task.yaml", "task: tasks.yaml"), ["tasks.yaml: there is no such file"]),
        (
            edit("stack.yaml", "kind: direct", "kind: driect"),
            ["stack.yaml:7: strategies.direct: there is no kind 'driect'"],
        ),
        (
            edit("stack.yaml", "url: http", "# url: http"),
            ["stack.yaml:1: model: stub is not on this machine; fetch it once"],
        ),
        (edit("test.jsonl", '{"id": "q0"', '{"id": "q0",'), ["test.jsonl:1: not JSON"]),
        (edit("test.jsonl", '"q1"', '"q0"'), ["test.jsonl:2: id 'q0' was taken by", "test.jsonl:1"]),
        (edit("corpus.jsonl", '"_id": "d1"', '"_id": "d0"'), ["corpus.jsonl:2: document 'd0' is already on line 1"]),
    ],
)
def test_bad_input_is_refused_with_its_place_and_remedy(
    spoil: Spoil, sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = write_world(tmp_path, "http://127.0.0.1:9/v1", n=4)
    spoil(tmp_path)

    code = main(["run", str(grid), "--out", str(tmp_path / "out")])

    said = capsys.readouterr().err
    assert code == 1
    assert [one for one in sentences if one not in said] == [], said
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_problems_of_all_three_files_are_said_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = write_world(tmp_path, "http://127.0.0.1:9/v1", n=4)
    edit("grid.yaml", "- tuned", "- tuned\n- tuned")(tmp_path)
    edit("stack.yaml", "instructions: Be brief.", "instructions: ''")(tmp_path)
    edit("task.yaml", "primary: exact", "primary: best")(tmp_path)

    main(["run", str(grid)])

    said = capsys.readouterr().err
    assert all(name in said for name in ("grid.yaml:3", "stack.yaml:", "task.yaml:4")), said


def test_the_program_ends_with_1_and_without_a_traceback(tmp_path: Path) -> None:
    for arguments in (["run", "no.yaml"], ["report", str(tmp_path)], ["walk"], []):
        done = subprocess.run([sys.executable, "-m", "eval", *arguments], capture_output=True, text=True, check=False)

        assert done.returncode == 1, arguments
        assert done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [[], ["run"], ["report"]])
def test_help_ends_with_a_line_to_paste(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])

    assert ended.value.code == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("example: python -m eval ")
