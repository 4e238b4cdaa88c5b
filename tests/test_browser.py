"""Where there is no Chromium, who needs one says so."""

from pathlib import Path

import pytest

from scripts import bench_report, check_scale


def test_without_chromium_a_benchmark_says_what_to_install_and_a_check_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)

    with pytest.raises(SystemExit, match="there is no Chromium here; apt-get install chromium"):
        bench_report._used(tmp_path / "report.html")
    assert check_scale._opens(tmp_path / "report.html") is None
