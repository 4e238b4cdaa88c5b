"""Several answers to one question, as one: what a question counts for is the mean over its repeats.

Knows nothing of why it was asked more than once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from eval.record import Record
from serve.chat import Usage


def averaged(records: Sequence[Record]) -> Record:
    """The first of them with the mean scores, tokens and seconds of all."""
    first = records[0]
    if len(records) == 1:
        return first
    return replace(
        first,
        scores={name: fmean(one.scores[name] for one in records) for name in first.scores},
        usage=_mean(one.usage for one in records),
        seconds=fmean(one.seconds for one in records),
        search_seconds=fmean(one.search_seconds for one in records),
        in_flight=max(one.in_flight for one in records),
        shared=all(one.shared for one in records),
    )


def _mean(usages: Iterable[Usage]) -> Usage:
    found = tuple(usages)
    cached = [one.cached_tokens for one in found if one.cached_tokens is not None]
    return Usage(
        round(fmean(one.prompt_tokens for one in found)),
        round(fmean(one.completion_tokens for one in found)),
        round(fmean(cached)) if cached else None,
    )
