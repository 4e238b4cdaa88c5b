"""A question without its names and literals: what is left is its shape, by which worked examples can be found.

Pure. Knows nothing of embedders, indexes or demonstrations.
"""

import re
from collections.abc import Iterable
from typing import Final

MASK: Final = "<mask>"
NAMES: Final = "names"
"""The key of a question's metadata that lists words of it which name things in their own world, such as the tables and
columns of a database: they are hidden too."""

PIECE: Final = re.compile(
    r"""(?P<quoted>"[^"\n]{1,200}"|“[^”\n]{1,200}”|„[^“”\n]{1,200}[“”]|«[^»\n]{1,200}»|`[^`\n]{1,200}`"""
    r"""|(?<!\w)'[^'\n]{1,200}'(?!\w))|(?P<word>\w+(?:[-.,:/@'’]\w+)*)"""
)
ENDS: Final = re.compile(r"[.?!:;\n]")
"""After one of these a capital may be that of a sentence."""


def masked(text: str, names: Iterable[str] = ()) -> str:
    """The text with `<mask>` for what is quoted, for whatever has a digit (numbers, dates, codes), for words with a
    capital that begin no sentence, and for these `names`, whatever their capitals; several in a row become one.
    Masked-question similarity of DAIL-SQL (2308.15363).

    A rule without a model, so it cannot know a name in small letters or one that begins the sentence (also after
    "St. "), it hides German nouns, "Monday" and "English" with the names, and it leaves numbers that are words. A text
    in capitals throughout keeps its words.

    >>> masked('Which singers older than 30 performed "Hey Jude" at Wembley Stadium on 3 May 2014?')
    'Which singers older than <mask> performed <mask> at <mask> on <mask>?'
    >>> masked("What is the average age of all singers?", names=["age", "singers"])
    'What is the average <mask> of all <mask>?'
    """
    named = {name.lower() for name in names}
    names_show = any(letter.islower() for letter in text)
    pieces, end = [], 0
    for piece in PIECE.finditer(text):
        gap = text[end : piece.start()]
        opens = end == 0 or ENDS.search(gap) is not None
        is_hidden = piece.group().lower() in named or _hides(piece, names_show and not opens)
        pieces += [gap, MASK if is_hidden else piece.group()]
        end = piece.end()
    return ROW.sub(MASK, "".join((*pieces, text[end:])))


ROW: Final = re.compile(rf"{MASK}(?:[ \t]+{MASK})+")


def _hides(piece: re.Match[str], capitals_are_names: bool) -> bool:
    word = piece.group()
    if piece["quoted"] or any(letter.isdigit() for letter in word):
        return True
    return capitals_are_names and word[0].isupper() and word != "I" and not word.startswith(("I'", "I’"))
