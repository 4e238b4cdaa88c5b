"""Rules of the house, as tests."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("train", "serve", "retrieval", "eval")
MODULES = sorted(p for room in (*ROOMS, "scripts") for p in (ROOT / room).rglob("*.py"))
RUN_BY_PATH = sorted((ROOT / "train").glob("*.py")) + sorted((ROOT / "scripts").glob("*.py"))
HEAVY = ("torch", "faiss", "vllm", "transformers", "sentence_transformers", "altair", "sacrebleu", "nltk", "ray")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_ours(room: str) -> None:
    assert Path(str(import_module(room).__file__)).parent == ROOT / room


@pytest.mark.parametrize("path", RUN_BY_PATH, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_script_name_shadows_nothing(path: Path) -> None:
    ours = {"train", "serve", "retrieval", "eval", "scripts", "tests"}
    taken = sys.stdlib_module_names | (packages_distributions().keys() - {"__editable___fulcrum"}) | ours

    assert path.stem == "__init__" or path.stem not in taken, "running a script puts its folder first on sys.path"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_file_stays_under_400_lines_and_opens_with_what_it_does(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert len(text.splitlines()) < 400
    assert text.startswith('"""')


@pytest.mark.parametrize(
    "front",
    [
        "eval.__main__",
        "serve.__main__",
        "retrieval.__main__",
        "train.chat",
        "train.merge",
        "train.embedder",
        "train.reranker",
        "scripts.make_sft",
        "scripts.needle",
        "scripts.weak_slices",
        "scripts.sweep.__main__",
    ],
)
def test_a_front_door_opens_without_heavy_libraries(front: str) -> None:
    code = f"import sys, {front}; print([m for m in {HEAVY!r} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)

    assert said.stdout.strip() == "[]"


def test_the_tracked_tree_stays_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name]

    assert sum(file.stat().st_size for file in files if file.exists()) < 60 * 2**20
