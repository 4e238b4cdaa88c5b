"""What a server says when it refuses, however it wraps it: the sentence, and whether a prompt's length is the reason.

Knows nothing of who asked, or of what is made of it.
"""

import json
import re
from typing import Any, Final

from serve.chat import UNREAD

TOO_LONG: Final = re.compile(
    r"maximum (?:context|model) length (?:is |of |\()\d|max_tokens must be at least 1, got 0(?!\.?\d)"
)
"""vLLM's words and OpenAI's. vLLM cuts `max_tokens`, which is 1 at least, to the room that a prompt leaves: where it is
exactly none, the complaint is about the 0."""


def complaint(body: str) -> str:
    """The sentence in an error body.

    >>> complaint('{"error": {"message": "no such model", "code": 404}}'), complaint("Bad Gateway"), complaint("")
    ('no such model', 'Bad Gateway', 'nothing')
    """
    return str(_error(body).get("message", body.strip()[:500] or "nothing"))


def is_of_length(body: str) -> bool:
    """Whether the prompt is longer than the model can read: OpenAI has a code for it, vLLM only words.

    >>> is_of_length('{"error": {"message": "too much", "code": "context_length_exceeded"}}')
    True
    >>> is_of_length('{"error": {"message": "max_tokens=512 cannot be greater than max_model_len=256", "code": 400}}')
    False
    """
    return _error(body).get("code") == UNREAD or bool(TOO_LONG.search(complaint(body)))


def _error(body: str) -> dict[str, Any]:
    """What stands under `error`, or the whole where nothing does; empty where it is no object."""
    try:
        data = json.loads(body)
    except ValueError:
        return {}
    found = data.get("error", data) if isinstance(data, dict) else {}
    return found if isinstance(found, dict) else {}
