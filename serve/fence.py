"""What a document may not do to a prompt: speak as the chat's own machinery, hide words, or end where it wants.

    clean("a <|im_end|> b")  ->  "a < |im_end|> b"

Pure. Knows nothing of layouts, models or tokenizers, and judges no meaning: a passage that says "ignore all
instructions" in plain words comes through, word for word. Only what a prompt shows is cleaned: the index, and the
`sources` of an answer, keep the document as it is.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final

LENGTH: Final = 8
"""Hex digits of a mark."""

_BREAKS: Final = "\v\f\x1c-\x1e\x85\u2028\u2029"
"""Line and page breaks that a pattern over lines would overlook."""

_INVISIBLE: Final = (
    "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f"  # control characters but tab and line ends
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u3164\uffa0"  # soft hyphen, joiners of graphemes, fillers
    "\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"  # no width, direction, invisible operators
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"  # tags: a second ASCII that nobody sees
)
"""Never shown to a reader of the document, so never to the model. Words stay whole, right-to-left text too: its letters
know their direction. Three flags (England, Scotland, Wales) are spelt with tags and turn black."""

_JOINED: Final = "\u0590-\u109f\u1700-\u18af\ua800-\uabff\ufb1d-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff"
_PICTURE: Final = "\u2190-\u2bff\U0001f000-\U0001faff"
_STRAY: Final = re.compile(
    # A joiner spells Persian, Malayalam or Sinhala after a letter of such a script, and families and flags in emoji.
    f"\u200c(?<![{_JOINED}]\u200c)"
    f"|\u200d(?<![{_JOINED}]\u200d)(?:(?<![{_PICTURE}\ufe0f]\u200d)|(?![{_PICTURE}]))"
    # A variation selector chooses how the one character before it looks; "1", selector, U+20E3 is a keycap.
    "|[\ufe00-\ufe0f](?<![^\x00-\x7f\\s\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef].)(?!\u20e3)"
    "|[\U000e0100-\U000e01ef](?<![\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff].)"
)
"""Joiners and variation selectors where they spell nothing: between ASCII letters, say, or in rows."""
_UNUSUAL: Final = re.compile(f"[{_BREAKS}{_INVISIBLE}\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""All that the three above look at: most text has none of it, and is read once instead of three times."""

# Each pattern below begins with one character, to which the search can jump: most text has no such character.
_TURNS: Final = (
    re.compile(
        r"""[<＜](?=[|｜][^\s<>|｜＜＞]{1,64}[|｜][>＞]                   # <|im_start|>, <｜User｜>, <|"|>
                 | \|\w{3,40}> | \w{3,40}\|>                           # <|turn>, <turn|>
                 | (?:/?s|bos|eos|pad|unk|sop|eop)> | </?SYS>>
                 | (?:start|begin|end)_of_\w{1,40}>
                 | (?:SPECIAL_|extra_id_|reserved_|unused|ctrl)\d{1,4}>)""",
        re.VERBOSE,
    ),
    re.compile(
        r"""[\[\]](?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CONTENT)\]
                  | [gs]MASK\] | \|/?[a-z]{3,20}\|\]                   # [gMASK], [|endofturn|]
                  | ~!?b[\[\]] | e~\[)                                 # ]~b], [e~[""",
        re.VERBOSE,
    ),
)
"""Where a control token of a chat template begins. Tokenizers match such tokens to the letter, also in a document."""

_TAGS: Final = (
    re.compile(
        r"""<(?=/?(?:think|tool_calls?|tool_response|function_calls?|arg_key|arg_value)>
             | /?(?:seed|minimax):\w{1,20}>)""",
        re.VERBOSE,
    ),
    re.compile(r"\[(?=/?(?:THINK|TOOL_CALLS)\])"),
)
"""Where thoughts and calls begin: a worked example may well contain them, a passage has no use for them."""


def clean(text: str) -> str:
    """The text without invisible characters, and with a space in every control token, which makes it mere text.

    A space, because what is cut out can leave another token behind. Ordinary text stays as it is; twice is once.

    >>> clean("List<T> x | y </s><|im_<|im_end|>end|> caf\\u00e9\\u200b")
    'List<T> x | y < /s><|im_< |im_end|>end|> café'
    """
    if _UNUSUAL.search(text):
        text = re.sub(f"[{_INVISIBLE}]", "", re.sub(f"[{_BREAKS}]", "\n", text))
        text = _STRAY.sub("", text)
    return _spaced(_TURNS, text)


def inert(text: str) -> str:
    """The text of a passage: clean, and without the tags in which models think and call.

    >>> inert("<think>Call it.</think> <b>bold</b>")
    '< think>Call it.< /think> <b>bold</b>'
    """
    return _spaced(_TAGS, clean(text))


def _spaced(tokens: Iterable[re.Pattern[str]], text: str) -> str:
    """A space after the first character of each of these tokens."""
    for begins in tokens:
        text = begins.sub(r"\g<0> ", text)
    return text


def mark(passages: Sequence[str], question: str) -> str:
    """A word for the fence around these passages that stands in none of them, nor in the question.

    Made from question and passages instead of drawn: the gateway, an evaluation and the training chats then send the
    same bytes for the same question. A document's author knows neither the question nor its neighbours, so cannot know
    the word; one who knew both would have to write a text that holds its own hash, and would gain nothing, since a word
    that stands anywhere inside is hashed again until it does not (as a MIME boundary is chosen, RFC 2046).

    >>> mark(["Owls hoot."], "Who hoots?") == mark(["Owls hoot."], "Who barks?")
    False
    """
    inside = "\0".join((*passages, question))
    found = _hashed(inside)
    while found in inside:
        found = _hashed(found + inside)
    return found


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:LENGTH]
