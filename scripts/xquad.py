"""XQuAD's English half (Artetxe et al. 2020) as files: 240 passages, the questions about half of the articles to learn
from, those about the other half to be asked. All passages are the corpus.

The sentence that holds an answer is its evidence, and questions about one article are a cluster. Reads the published
file in SQuAD's format; knows nothing of models.
    python -m scripts.xquad ../xquad/xquad.en.json && make xquad
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from retrieval.console import Parser
from retrieval.files import FileError, read_text, write_jsonl

OUT: Final = Path(__file__).parents[1] / "out" / "xquad" / "data"

Article = Mapping[str, Any]


def read_articles(path: Path) -> list[Article]:
    """The articles of a file in SQuAD's format; FileError when it is none."""
    try:
        return [dict(one, paragraphs=list(one["paragraphs"])) for one in json.loads(read_text(path))["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path}: is no file in SQuAD's format ({error!r}); give xquad.en.json") from None


def documents(articles: list[Article]) -> Iterator[dict[str, Any]]:
    """Each passage."""
    for article in articles:
        for number, paragraph in enumerate(article["paragraphs"]):
            yield {"_id": _name(article, number), "title": _title(article), "text": paragraph["context"]}


def examples(articles: list[Article]) -> Iterator[dict[str, Any]]:
    """Each question, with the sentence that holds its answer as evidence; the answer alone would give itself away."""
    for article in articles:
        for number, paragraph in enumerate(article["paragraphs"]):
            for asked in paragraph["qas"]:
                texts = list(dict.fromkeys(one["text"] for one in asked["answers"]))
                start, end = sentences(paragraph["context"], asked["answers"][0])
                yield {
                    "id": asked["id"],
                    "question": asked["question"],
                    "answers": texts,
                    "evidence": [f"{_name(article, number)}@{start}-{end}"],
                    "meta": {"cluster": _title(article), "slice": asked["question"].split()[0].lower()},
                }


def sentences(text: str, answer: Mapping[str, Any]) -> tuple[int, int]:
    """Where the sentence with this answer begins and ends; a full stop before a space and a capital parts two.

    >>> sentences("It rained. The U.S. team won by 3.5 points. All slept.", {"answer_start": 20, "text": "team"})
    (11, 43)
    """
    first, last = answer["answer_start"], answer["answer_start"] + len(answer["text"])
    ends = [found.end() for found in re.finditer(r"(?<=[a-z0-9)\]\"][.!?])\s+(?=[A-Z\"])", text)]
    start = max((end for end in ends if end <= first), default=0)
    return start, len(text[: min((end for end in ends if end >= last), default=len(text))].rstrip())


def _name(article: Article, number: int) -> str:
    return f"{article['title']}-{number}"


def _title(article: Article) -> str:
    return str(article["title"]).replace("_", " ")


def main() -> int:
    parser = Parser(description="Write XQuAD as files.", epilog="example: python -m scripts.xquad ../xquad.en.json")
    parser.add_argument("file", type=Path, help="xquad.en.json")
    try:
        articles = read_articles(parser.parse_args().file)
        train, test = articles[0::2], articles[1::2]
        write_jsonl(OUT / "corpus.jsonl", documents(articles))
        write_jsonl(OUT / "train.jsonl", examples(train))
        asked = list(examples(test))
        write_jsonl(OUT / "test.jsonl", asked)
    except FileError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"wrote {len(articles)} articles, {len(asked)} questions about {len(test)} of them to {OUT}; next: make xquad"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
