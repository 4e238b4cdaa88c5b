"""Builds killed at random moments, in small; fifty kills of a real one are `python -m scripts.check_index`."""

import json
import subprocess
import sys
from pathlib import Path

from tests.tiny_search import SAID, make_embedder

ROOT = Path(__file__).parents[1]


def test_killed_at_random_moments_an_index_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    rows = [
        {"_id": f"n{n}", "title": f"own{n}", "text": f"{SAID[n % 24]} {SAID[n * n % 23]} {SAID[n // 2]}"}
        for n in range(40)
    ]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embedder = make_embedder(tmp_path / "embedder")
    check = [sys.executable, "-m", "scripts.check_index", "--kills", "3", "--embedder", str(embedder)]

    done = subprocess.run(
        [*check, "--corpus", str(tmp_path / "corpus.jsonl")], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 kills, after each the old index or the new one, whole")
    assert "each the unkilled one's" in done.stdout
