"""Prompts that were longer than the model can read, in a sentence. Knows nothing of what made them so long."""

from collections.abc import Iterator

from eval.folder import Results
from eval.wording import counted
from serve.chat import UNREAD


def too_long(results: Results) -> Iterator[str]:
    """How many, and whose; nothing where all were read."""
    found = [one.combination for one in results.answers if one.finish_reason == UNREAD]
    cells = set(map(str, found))
    if found:
        whose = cells.pop() if len(cells) == 1 else counted(len(cells), "combination")
        yield (
            f"Longer than the model can read: {counted(len(found), 'prompt')} of {whose}; each counts as an empty "
            "answer, and the same command does not ask them again."
        )
