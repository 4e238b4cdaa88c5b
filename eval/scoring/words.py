"""Comparisons of what was said with one gold answer, word by word, after SQuAD's normalisation.

Pure; knows nothing of replies, fields or examples.
"""

import string
from collections import Counter
from typing import Final

NORMALISATION: Final = "squad-1.1+1"
"""Version of `normalise`, kept with every run. `+1`: a text of articles only, such as the option "A", keeps them."""


def normalise(text: str) -> str:
    """SQuAD 1.1: lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016, evaluate-v1.1.py).

    >>> normalise("The  Red-Fox!"), normalise("A")
    ('redfox', 'a')
    """
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    words = [word for word in bare.split() if word not in ("a", "an", "the")]
    return " ".join(words or bare.split())


def exact(said: str, gold: str) -> float:
    """Exact match after SQuAD's normalisation."""
    return float(normalise(said) == normalise(gold))


def choice(said: str, gold: str) -> float:
    """The label itself, spaces around it aside. Case counts: a label is an identifier, and `Card_Lost` is not one.

    >>> choice(" card_lost\\n", "card_lost"), choice("Card_lost", "card_lost")
    (1.0, 0.0)
    """
    return float(said.strip() == gold.strip())


def contains(said: str, gold: str) -> float:
    """The gold answer stands in the text as whole words, both normalised.

    >>> contains("It was the red fox.", "Red Fox"), contains("foxes", "fox")
    (1.0, 0.0)
    """
    return float(f" {normalise(gold)} " in f" {normalise(said)} ")


def f1(said: str, gold: str) -> float:
    """Overlap of the normalised words, whatever their order (SQuAD's token F1).

    >>> f1("red fox jumps", "the red fox")
    0.8
    """
    ours, theirs = Counter(normalise(said).split()), Counter(normalise(gold).split())
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else float(ours == theirs)
