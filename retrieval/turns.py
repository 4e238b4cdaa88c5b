"""What is searched for in a conversation: the question after what its user said before, and the question alone.

A rule, without a model. Only what is searched for changes: the prompt has the question and its history as they were.
"""

from dataclasses import replace
from itertools import accumulate
from typing import Final

from retrieval.passage import Query

ROOM: Final = 1_000
"""Characters of earlier turns that are searched for: an embedder reads some 250 tokens, and the question comes last."""


def searches(query: Query, turns: int) -> tuple[Query, ...]:
    """The question after the user's last `turns` turns, then the question alone; the latter only, where there are none.

    The first is for "And who owns it?", the second for a question about something else, which earlier turns drown.
    History ends on the model's turn, so that every second one, from the end, is the user's. Turns are taken whole, the
    latest first, while there is room: a pasted page is not what the next question is about.

    >>> [one.text for one in searches(Query("And its owner?", ("Who built the Orla?", "Ann Bo.")), turns=1)]
    ['Who built the Orla?\\nAnd its owner?', 'And its owner?']
    """
    said = query.history[-2::-2][:turns]
    fitting = [turn for turn, length in zip(said, accumulate(map(len, said)), strict=True) if length <= ROOM]
    together = replace(query, text="\n".join((*reversed(fitting), query.text)))
    return (together, query) if fitting else (query,)
