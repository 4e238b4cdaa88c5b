"""`quote_check`: what an answer quotes must stand in the passages that it cites, word for word.

By comparing strings, without asking a model again; knows nothing of what a quote means.
"""

from dataclasses import dataclass
from typing import Literal

from retrieval.passage import Query
from retrieval.retriever import Retriever
from serve.chat import Answer, Model
from serve.layout import passages
from serve.reading import Quote, cited_in, quotes, stands_in
from serve.strategies.checked import Checked
from serve.strategies.kind import Parts, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteCheck(Checked):
    """An answer without any quote is blocked too: `of` must be told to quote. With `json`, that field is the quote."""

    kind: Literal["quote_check"]

    def build(self, parts: Parts) -> Strategy:
        """The answer of `of` without the quotes that are not in what it cites; notes count all and those found."""
        ask = parts.strategy(self.of)

        async def quote_check(query: Query, retriever: Retriever, model: Model) -> Answer:
            answer = await ask(query, retriever, model)
            if self.abstains(answer.text):
                return self.judged(answer, [True], quotes=0, found=0)
            text = answer.text
            shown = [hit.passage.searchable for hit in passages(answer.sources)]
            made = [Quote(self.value(text), None, text)] if self.json else quotes(text)
            found = [stands_in(one.words, _looked_at(one, text, shown)) for one in made]
            kept = self.judged(answer, found, quotes=len(made), found=sum(found))
            return kept if kept.notes["blocked"] or all(found) else without(kept, made, found)

        return quote_check


def _looked_at(quote: Quote, text: str, shown: list[str]) -> list[str]:
    """The passage cited behind a quote; else those that the reply cites at all; else every one."""
    numbers = {quote.of} if quote.of else cited_in(text)
    return [one for n, one in enumerate(shown, start=1) if n in numbers or not numbers]


def without(answer: Answer, made: list[Quote], found: list[bool]) -> Answer:
    """The answer without the quotes that were not found."""
    text = answer.text
    for quote in (one for one, stands in zip(made, found, strict=True) if not stands):
        text = text.replace(quote.written, "[...]")
    return answer.saying(text)
