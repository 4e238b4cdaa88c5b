"""What the embedded model could do before any adapter, as a test set: its own lessons, which no training chat touches.

Each question brings the instruction of its lesson along. Knows nothing of the demo's house format.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

from retrieval.files import write_jsonl
from scripts.pocket.lessons import Lesson, query, split_parts
from scripts.pocket.world import make_world

SKILLS: Final[Mapping[str, Lesson]] = {"split": split_parts, "sql": query}
ASKED: Final = 30
"""Questions of each skill."""


def write_general(seed: int, folder: Path) -> None:
    """Write `general.jsonl`; the same seed writes the same."""
    write_jsonl(folder / "general.jsonl", questions(Random(f"general-{seed}")))


def questions(random: Random) -> Iterator[dict[str, Any]]:
    """Examples of every skill, no question twice, in a world of their own."""
    world = make_world(random, 60, range(0))
    for skill, lesson in SKILLS.items():
        asked: dict[tuple[str, str], str] = {}
        while len(asked) < ASKED:
            system, user, assistant = lesson(random, world, random.choice(world.questions))
            asked[system["content"], user["content"].removeprefix("Question: ")] = assistant["content"]
        for number, ((instruction, question), answer) in enumerate(asked.items(), start=1):
            meta = {"slice": skill, "system_message": instruction}
            yield {"id": f"{skill}-{number:02d}", "question": question, "answers": [answer], "meta": meta}
