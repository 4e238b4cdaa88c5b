"""Whenever a build dies there is the old index or the new one, whole; and what is not whole is refused by name."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from retrieval.files import FileError
from retrieval.generation import alone, current, in_use, publish, verified
from retrieval.manifest import BuildSettings, Inputs, Manifest
from retrieval.passage import RetrievalError


def manifest(corpus: str) -> Manifest:
    inputs = Inputs(corpus_sha256=corpus, settings=BuildSettings(), embedder_sha256="e")
    return Manifest(inputs=inputs, documents=1, passages=1, dimension=2, kind="flat", probes=0)


def fill(folder: Path, size: int = 10) -> None:
    (folder / "words").mkdir()
    (folder / "words" / "a.npy").write_bytes(b"a" * size)
    (folder / "index.faiss").write_bytes(b"b" * size)


def published(index: Path, corpus: str, size: int = 10) -> Manifest:
    with alone(index):
        return publish(index, manifest(corpus), partial(fill, size=size))


def test_the_newest_generation_is_in_use_and_one_before_it_is_kept(tmp_path: Path) -> None:
    for corpus in ("first", "second", "third"):
        published(tmp_path, corpus)

    assert current(tmp_path).name == "gen-0003"
    assert verified(current(tmp_path)).inputs.corpus_sha256 == "third"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "CURRENT", "gen-0002", "gen-0003"]


DIE_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_retrieval_generation import published
from retrieval.generation import in_use

index = Path(sys.argv[1])
published(index, "old")


def publish_and_die(step):
    seen = 0
    def count(event, _):
        nonlocal seen
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    published(index, f"new-{step}")
    os._exit(0)


status, before, outcomes = 1, "old", []
while status:
    step = len(outcomes) + 1
    child = os.fork() or publish_and_die(step)
    status = os.waitpid(child, 0)[1]
    manifest = in_use(index)
    assert manifest is not None, f"no whole index after dying at step {step}"
    now = manifest.inputs.corpus_sha256
    assert now in (before, f"new-{step}"), f"{now} after dying at step {step}"
    outcomes.append(now != before)
    before = now
print(len(outcomes), outcomes.count(True), sorted(entry.name[:4] for entry in index.iterdir()))
"""


def test_a_build_killed_at_any_step_leaves_a_whole_index(tmp_path: Path) -> None:
    program = [sys.executable, "-c", DIE_AT_EVERY_STEP, str(tmp_path), str(Path(__file__).parent)]

    done = subprocess.run(program, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    steps, switched, left = done.stdout.split(maxsplit=2)
    assert int(steps) > 20, "the steps were not counted"
    assert 1 <= int(switched) < int(steps)
    assert left.strip() == "['.loc', 'CURR', 'gen-', 'gen-']", "the last build cleans up after those that died"


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: to a program, a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_sentence_and_changes_nothing(tmp_path: Path) -> None:
    before = published(tmp_path, "old")

    with pytest.raises(FileError, match=r"cannot be written: .*Free some space"), disk_of(10_000):
        published(tmp_path, "new", size=20_000)

    assert in_use(tmp_path) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "CURRENT", "gen-0001"]


def test_two_builds_of_one_index_do_not_run_at_once(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(RetrievalError, match="another build"), alone(tmp_path):
        pass


def test_a_folder_with_other_files_is_not_built_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")

    with pytest.raises(RetrievalError, match="holds other files"), alone(tmp_path):
        pass

    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("not a folder")

    with pytest.raises(FileError, match=r"index: cannot be written: File exists"), alone(tmp_path / "index"):
        pass


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        ("gen-0001/index.faiss", "index.faiss: damaged"),
        ("gen-0001/words/a.npy", "a.npy: damaged"),
        ("gen-0001/manifest.json", "manifest.json: is not what was written"),
        ("CURRENT", "CURRENT has another hash"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_remedy(tmp_path: Path, damaged: str, says: str) -> None:
    published(tmp_path, "old")
    content = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(content[:-2] + b"?" + content[-1:])

    with pytest.raises(RetrievalError, match=says) as refusal:
        verified(current(tmp_path))

    assert f"`python -m retrieval build DOCS {tmp_path}`" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("missing", ["gen-0001/words/a.npy", "gen-0001/manifest.json", "CURRENT"])
def test_a_missing_file_is_refused_with_the_remedy(tmp_path: Path, missing: str) -> None:
    published(tmp_path, "old")
    (tmp_path / missing).unlink()

    with pytest.raises(RetrievalError, match=f"build DOCS {tmp_path}"):
        verified(current(tmp_path))


def test_current_cannot_lead_outside_the_index(tmp_path: Path) -> None:
    published(tmp_path / "other", "old")
    published(tmp_path / "index", "old")
    (tmp_path / "index" / "CURRENT").write_text("../other/gen-0001")

    with pytest.raises(RetrievalError, match="not a whole generation"):
        current(tmp_path / "index")
