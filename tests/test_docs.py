"""What docs/ tells people to write works as it stands, and what it points to exists."""

import re
from pathlib import Path

import pytest

from eval.example import Example
from eval.scoring.kinds import ScorerSettings
from eval.scoring.scorers import SCORERS
from retrieval.files import FileError
from retrieval.passage import Query
from scripts.techniques import ROWS, load
from serve.pipeline import _answer
from serve.strategies.kind import Parts
from serve.strategies.python import Python
from tests.test_serve_strategies import Found, hit
from tests.test_strategies import Teller

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FOUND = Found((hit(1, "Owls", "An owl has two legs."),))


def files(page: str, folder: Path) -> dict[str, int]:
    """The Python files of a page, written down; the lines of each that say something."""
    found = {}
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        (folder / name).write_text(code)
        found[name] = sum(bool(line.strip()) for line in code.splitlines())
    return found


async def test_the_strategies_of_the_docs_are_short_and_answer(tmp_path: Path) -> None:
    lines = files("extending.md", tmp_path)
    assert all(count <= 20 for count in lines.values()), lines

    careful = Python(kind="python", path=tmp_path / "careful.py:careful").build(Parts({}, {}.__getitem__))
    sure = await _answer(careful, Query("How many?"), FOUND, Teller(("two", "yes")))
    unsure = await _answer(careful, Query("How many?"), FOUND, Teller(("two", "no")))
    assert (sure.text, unsure.text, unsure.notes) == ("two", "unknown", {"confidence": 0.0})

    twice = Python(kind="python", path=tmp_path / "twice.py:twice").build(Parts({}, {}.__getitem__))
    answer = await _answer(twice, Query("How many?"), FOUND, Teller(("legs", "two")))
    assert (answer.text, len(answer.sources), answer.usage.prompt_tokens) == ("two", 1, 14)


@pytest.mark.parametrize(("said", "score"), [("two", 1.0), ("It is, as far as I know, two", 0.0), ("three", 0.0)])
def test_the_scorer_of_the_docs_scores(said: str, score: float, tmp_path: Path) -> None:
    files("extending.md", tmp_path)
    brief = SCORERS["python"](ScorerSettings(kind="python", path=tmp_path / "brief.py:brief"))

    assert brief(Example(id="1", question="How many?", answers=("two",)), said, ()) == score


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_command_of_the_docs_is_one_that_exists() -> None:
    said = set(re.findall(r"python -m ([\w.]+)", "".join(page.read_text() for page in PAGES)))
    root = DOCS.parent

    places = {module: root / module.replace(".", "/") for module in said}
    assert [
        module
        for module, place in places.items()
        if not place.with_suffix(".py").exists() and not (place / "__main__.py").exists()
    ] == []


def test_every_technique_has_a_name_or_a_reason_and_a_test_that_exists() -> None:
    rows = load(DOCS / "techniques.yaml")

    assert [one.id for one in rows] == list(range(1, ROWS + 1))
    assert [one.id for one in rows if not one.undone and not one.planted] == []
    assert [one.id for one in rows if one.undone] == [56, 57]
    written = (DOCS / "techniques.md").read_text()
    assert [one.technique for one in rows if one.technique not in written] == []


def test_a_technique_that_names_no_test_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    file = tmp_path / "docs" / "techniques.yaml"
    file.write_text("techniques: [{id: 1, technique: Magic, axis: C, name: wand, planted: tests/test_magic.py}]\n")

    with pytest.raises(FileError, match="technique 2 is missing") as refused:
        load(file)
    assert "technique 1: there is no tests/test_magic.py" in str(refused.value)
