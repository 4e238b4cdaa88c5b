"""Instructions that can be checked without a judge, as IFEval has them (Zhou et al. 2023, arXiv 2311.07911).

An example carries `meta.instruction_id_list` and `meta.kwargs` in IFEval's published form, and needs no gold answer: a
reply keeps its instructions or does not, whatever it says. The rules are those of the published checker but for two
things. Sentences are split by nltk's Punkt without its trained English model, which is data and not in the package, and
with the abbreviations below instead. Keywords are words here, where the checker reads them as patterns.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Final, Literal, get_args, get_origin

from eval.example import Example
from eval.scoring.kinds import Scorer, ScorerSettings

Check = Callable[..., bool]
"""(reply, and the instruction's own arguments by their published names) -> whether the reply keeps it"""
Relation = Literal["less than", "at least"]

ABBREVIATIONS: Final = (
    "dr mr mrs ms prof sr jr st rev gen gov sen rep lt col capt sgt inc ltd corp co vs etc e.g i.e u.s u.k a.m p.m no "
    "vol fig jan feb mar apr jun jul aug sep sept oct nov dec ph.d d.c"
)
"""After these a full stop ends no sentence."""
DETECTED: Final = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")
"""Instructions that ask which language a reply is in, which langdetect guesses."""


def instructions(settings: ScorerSettings) -> Scorer:
    """1 when every instruction of the example is kept: IFEval's prompt level, strict or loose."""
    return lambda example, text, _: float(all(kept(example, text, loose=settings.loose)))


def instruction_share(settings: ScorerSettings) -> Scorer:
    """The share of the example's instructions that are kept.

    Its mean weighs every question alike; IFEval's instruction level weighs every instruction alike, and is the figure
    that ends in `_pooled`.
    """

    def score(example: Example, text: str, _: Sequence[str]) -> float:
        found = kept(example, text, loose=settings.loose)
        return sum(found) / len(found)

    return score


def kept(example: Example, text: str, *, loose: bool) -> list[bool]:
    """Whether each instruction is kept: by the reply as it is, or loosely by any of its eight forms.

    A form that says nothing keeps none.
    """
    forms = [form for form in (loosened(text) if loose else [text]) if form.strip()]
    return [any(check(form) for form in forms) for check in checks(example)]


def loosened(text: str) -> list[str]:
    """The reply; without its first line, its last, both; and each of the four without asterisks."""
    rows = text.split("\n")
    forms = [text, *("\n".join(some).strip() for some in (rows[1:], rows[:-1], rows[1:-1]))]
    return [*forms, *(form.replace("*", "") for form in forms)]


def checks(example: Example) -> list[Callable[[str], bool]]:
    """The example's instructions, ready to be asked of a reply. ValueError when one is unknown or incomplete."""
    return [_bound(CHECKS[name], said) for name, said in _listed(example)]


def knows_instructions(_: ScorerSettings, example: Example) -> None:
    """ValueError when an instruction of the example cannot be checked."""
    for name, said in _listed(example):
        if name in DETECTED and find_spec("langdetect") is None:
            raise ValueError(f"the instruction {name!r} needs the package langdetect, which is not installed")
        for key, parameter in _parameters(CHECKS[name]).items():
            if key not in said:
                raise ValueError(f"`meta.kwargs`: the instruction {name!r} needs `{key}`")
            if not _is(said[key], parameter.annotation):
                raise ValueError(f"`meta.kwargs`: {said[key]!r} cannot be `{key}` of the instruction {name!r}")


def _listed(example: Example) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The instructions with their arguments; those that are null, as some copies of IFEval have it, left out."""
    names, said = example.meta.get("instruction_id_list"), example.meta.get("kwargs")
    if not isinstance(names, list) or not isinstance(said, list) or not names or len(names) != len(said):
        raise ValueError("`meta.instruction_id_list` and `meta.kwargs` must be lists of the same length, not empty")
    for name, one in zip(names, said, strict=True):
        if name not in CHECKS:
            raise ValueError(f"`meta.instruction_id_list`: there is no instruction {name!r}")
        if not isinstance(one, dict):
            raise ValueError(f"`meta.kwargs`: {one!r} is not an object")
        yield name, {key: value for key, value in one.items() if value is not None}


def _bound(check: Check, said: Mapping[str, Any]) -> Callable[[str], bool]:
    known = {key: said[key] for key in _parameters(check)}
    return lambda text: check(text, **known)


@cache
def _parameters(check: Check) -> Mapping[str, inspect.Parameter]:
    _, *own = inspect.signature(check).parameters.values()
    return {one.name: one for one in own}


def _is(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of the kind that a check names."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, kind) and not isinstance(value, bool)


def _holds(count: int, relation: Relation, wanted: int) -> bool:
    return count < wanted if relation == "less than" else count >= wanted


def _has(word: str, text: str) -> int:
    """How often, whatever the case, inside other words too."""
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


def keywords(text: str, keywords: list[str]) -> bool:
    return all(_has(word, text) for word in keywords)


def keyword_frequency(text: str, keyword: str, frequency: int, relation: Relation) -> bool:
    return _holds(_has(keyword.strip(), text), relation, frequency)


def forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    return _holds(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def response_language(text: str, language: str) -> bool:
    return _language(text) in (language, None)


def number_sentences(text: str, num_sentences: int, relation: Relation) -> bool:
    return _holds(len(_splitter().tokenize(text)), relation, num_sentences)


def number_words(text: str, num_words: int, relation: Relation) -> bool:
    return _holds(len(re.findall(r"\w+", text)), relation, num_words)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Parted by `***`. The first and the last may be empty; one between may not."""
    first, *rest = re.split(r"\s?\*\*\*\s?", text)
    inner, last = rest[:-1], rest[-1:]
    count = len(inner) + sum(bool(one.strip()) for one in (first, *last))
    return all(one.strip() for one in inner) and count == num_paragraphs


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Parted by an empty line. Blank paragraphs are not counted, but keep their place."""
    parts = text.split("\n\n")
    count = sum(bool(one.strip()) for one in parts)
    if count != num_paragraphs or not 1 <= nth_paragraph <= count:
        return False
    words = parts[nth_paragraph - 1].split()
    first = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0] if words else ""
    return first.lower() == first_word.lower() if words else False


def number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    """Anywhere, whatever its case; spaces between the letters of the two usual markers are forgiven."""
    usual = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    marker = postscript_marker.strip()
    return bool(re.search(usual.get(marker, re.escape(marker.lower())), text.lower()))


def number_bullet_lists(text: str, num_bullets: int) -> bool:
    """Lines that begin with `-`, or with one `*`."""
    return len(re.findall(r"^\s*(?:\*[^*]|-).*$", text, re.MULTILINE)) == num_bullets


def constrained_response(text: str) -> bool:
    return any(one in text for one in ("My answer is yes.", "My answer is no.", "My answer is maybe."))


def number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """`*so*` and `**so**`; the checker counts what is between two pairs in both ways, and so do we."""
    single = [one for one in re.findall(r"\*[^\n*]*\*", text) if one.strip("*").strip()]
    double = [one for one in re.findall(r"\*\*[^\n*]*\*\*", text) if one.strip("*").strip()]
    return len(single) + len(double) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def json_format(text: str) -> bool:
    """JSON of any kind, in a code fence or not."""
    bare = re.sub(r"\A```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```").strip()
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    return any(one.lstrip("<").rstrip(">").strip() for one in re.findall(r"<<[^\n]+>>", text))


def two_responses(text: str) -> bool:
    """Parted by `******`, and different. The first and the last part may be empty; one between may not."""
    parts = [one.strip() for one in text.split("******")]
    said = [one for one in parts if one]
    return all(parts[1:-1]) and len(said) == 2 and said[0] != said[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(text: str, capital_frequency: int, capital_relation: Relation) -> bool:
    words = (word for sentence in _splitter().tokenize(text) for word in _words().tokenize(sentence))
    return _holds(sum(word.isupper() for word in words), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    return text.isupper() and _language(text) in ("en", None)


def english_lowercase(text: str) -> bool:
    return text.islower() and _language(text) in ("en", None)


def no_comma(text: str) -> bool:
    return "," not in text


def quotation(text: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


CHECKS: Final[Mapping[str, Check]] = {
    "keywords:existence": keywords,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_words": number_words,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
"""By their published names."""


def _language(text: str) -> str | None:
    """What langdetect takes it for; None where it finds nothing to go by, which counts as kept, as published."""
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0  # it draws at random, and would score one reply differently twice
    try:
        return str(detect(text))
    except LangDetectException:
        return None


@cache
def _splitter() -> Any:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    known = PunktParameters()
    known.abbrev_types = set(ABBREVIATIONS.split())
    return PunktSentenceTokenizer(known)


@cache
def _words() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
