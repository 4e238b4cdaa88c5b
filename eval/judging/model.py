"""Judges: a language model that is held to a JSON schema, or a cross-encoder with a threshold.

    with opened(settings) as judge:
        judgement = await judge.judge(inquiry)

Which judge it is, is a hash of content (`identity`). Knows nothing of metrics, of runs, or of what was judged before.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from eval.judging.inquiry import HIGHEST, KINDS, Inquiry, Judgement, digest
from eval.judging.settings import JudgeSettings
from retrieval.files import fingerprint, model_hash
from retrieval.rerank import Reranker, locate, open_reranker
from serve.chat import Sampling, ServeError
from serve.engine import check
from serve.reading import sentences
from serve.replicas import engines
from serve.stack import Stack
from serve.upstream import Line, Server, Upstream

FORCED: Final = (
    "--structured-outputs-config",
    json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
)
"""A small model would fill a schema with line breaks."""
LIKELIEST: Final = 20
"""Tokens whose probabilities are asked for: the most that servers tell."""


class Judge(Protocol):
    """Something that answers inquiries."""

    async def judge(self, inquiry: Inquiry) -> Judgement:
        """What it says; ServeError when it says nothing that counts."""
        ...

    async def close(self) -> None:
        """Nothing more is asked."""
        ...


def identity(settings: JudgeSettings) -> str:
    """The hash of all that makes this judge judge as it does; behind a `url`, a model is what its name says."""
    if settings.reranker:
        return digest(["cross-encoder", model_hash(locate(settings.reranker)), settings.threshold])
    stack = stack_of(settings)
    sampling = Sampling(max_tokens=settings.max_tokens)
    if stack.url:
        return digest([stack.model, sampling])
    engine = stack.engine
    return digest([fingerprint(check(stack)), engine.dtype, engine.max_model_len, engine.arguments, sampling])


def stack_of(settings: JudgeSettings) -> Stack:
    """What the engine of a language model is started with."""
    assert settings.model
    arguments = settings.engine.arguments
    if FORCED[0] not in arguments:
        arguments = (*arguments, *FORCED)
    engine = replace(settings.engine, arguments=arguments)
    return Stack(model=settings.model, strategies={}, engine=engine, url=settings.url)


@contextmanager
def opened(settings: JudgeSettings) -> Iterator[Judge]:
    """The judge, ready; an engine of our own is stopped afterwards."""
    if settings.reranker:
        folder = locate(settings.reranker)
        yield EncoderJudge(open_reranker(folder, model_hash(folder)), settings.threshold)
        return
    stack = stack_of(settings)
    with ExitStack() as stay:
        server = Server(stack.urls) if stack.urls else stay.enter_context(engines(stack))
        yield ModelJudge(Upstream(Line(server), stack.model, Sampling(max_tokens=settings.max_tokens)))


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """A language model, asked greedily."""

    model: Upstream

    async def judge(self, inquiry: Inquiry) -> Judgement:
        """What it says, in the JSON that its server held it to."""
        kind = KINDS[inquiry.kind]
        schema = {"name": inquiry.kind, "schema": kind.schema, "strict": True}
        fields: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": schema}}
        if inquiry.kind == "score":
            fields |= {"logprobs": True, "top_logprobs": LIKELIEST}
        completion = await self.model.complete(inquiry.messages, None, **fields)
        choice = completion["choices"][0]
        if choice["finish_reason"] == "length":
            raise ServeError("the judge's answer was cut off: raise `max_tokens`, or the engine's `max_model_len`")
        said = kind.read(choice["message"].get("content") or "")
        tokens = ((choice.get("logprobs") or {}).get("content") or []) if inquiry.kind == "score" else []
        return Judgement(said, expected_score(tokens))

    async def close(self) -> None:
        """Hang up."""
        await self.model.line.__aexit__()


@dataclass(frozen=True, slots=True)
class EncoderJudge:
    """A cross-encoder: yes from a threshold on. Its claims are the sentences of a text, cut by a rule."""

    reranker: Reranker
    threshold: float

    async def judge(self, inquiry: Inquiry) -> Judgement:
        """Yes or no with its raw score, or sentences."""
        parts = inquiry.named
        if inquiry.kind == "claims":
            return Judgement({"claims": sentences(parts["question"], parts["text"])})
        if inquiry.kind == "supported":
            asked, shown = parts["claim"], parts["context"]
        else:
            asked, shown = f"{parts['question']} {parts['answer']}", parts["passage"]
        score = float((await self.reranker.scores((asked, shown)))[0])
        return Judgement({"verdict": "yes" if score >= self.threshold else "no", "score": round(score, 4)})

    async def close(self) -> None:
        """Nothing is open."""


def expected_score(tokens: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean of the scores that could have stood there, by their probabilities (G-Eval, section 3.3).

    `tokens` are those of the reply with their alternatives, as OpenAI's API tells them; None when it tells nothing.
    The score is the last token that is a whole number of the scale.

    >>> likely = [{"token": "4", "logprob": math.log(0.6)}, {"token": "2", "logprob": math.log(0.2)}]
    >>> expected_score([{"token": ":", "top_logprobs": []}, {"token": "4", "top_logprobs": likely}])
    3.5
    """
    scale = {str(score): score for score in range(1, HIGHEST + 1)}
    place = next((one for one in reversed(tokens) if str(one.get("token", "")).strip() in scale), None)
    if place is None:
        return None
    chances = [
        (scale.get(str(one["token"]).strip()), math.exp(one["logprob"])) for one in place.get("top_logprobs") or ()
    ]
    known = [(score, chance) for score, chance in chances if score is not None]
    total = math.fsum(chance for _, chance in known)
    return round(math.fsum(score * chance for score, chance in known) / total, 6) if total else None
