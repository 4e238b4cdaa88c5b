"""Which tokens of a chat are labelled: render the turns before an answer, render them with it, take the difference.

Template-agnostic on purpose: nothing here knows a role marker. An answer is labelled with its end-of-turn token,
without its header. Knows nothing of files or batches.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.chat import Chat, Message, refuse_all
from train.door import TrainError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Tokens to run through the model, and which of them are labelled: enter the loss. The last one always is."""

    where: str
    tokens: tuple[int, ...]
    labelled: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The model's own chat template and tokenizer: what the server will use."""

    tokenizer: Any
    stops: frozenset[int]
    """The tokens at which the server ends an answer."""
    markers: tuple[str, ...]
    """The special tokens' texts."""

    @classmethod
    def load(cls, folder: Path) -> "Template":
        """Read both from a model folder."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if tokenizer.chat_template is None:
            raise TrainError(
                f"{folder}: the tokenizer has no chat template; take the instruct (chat) version of the model"
            )
        special = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        return cls(tokenizer=tokenizer, stops=frozenset(_stops(folder, tokenizer)), markers=special)

    def ids(self, chat: Chat, end: int, *, to_answer: bool = False) -> tuple[int, ...]:
        """The first `end` messages as tokens; `to_answer` ends with the header of the answer to come.

        The template writes its own beginning-of-sequence token, so the tokenizer must not add a second one.
        """
        text = self.tokenizer.apply_chat_template(
            list(chat.messages[:end]), tools=list(chat.tools) or None, add_generation_prompt=to_answer, tokenize=False
        )
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def text(self, tokens: Sequence[int]) -> str:
        """The tokens as text, special ones included."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))


def _stops(folder: Path, tokenizer: Any) -> Iterator[int]:
    """vLLM stops at the tokenizer's end-of-sequence token and at those of generation_config.json."""
    if tokenizer.eos_token_id is not None:
        yield tokenizer.eos_token_id
    file = folder / "generation_config.json"
    more = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    yield from [more] if isinstance(more, int) else more or []


def encode(chats: Sequence[Chat], template: Template) -> tuple[Sample, ...]:
    """Every chat as samples; a TrainError names every row that cannot be masked."""
    samples: list[Sample] = []
    wrong: list[str] = []
    for chat in chats:
        try:
            samples += mask(chat, template)
        except TrainError as error:
            wrong.append(f"{chat.where} {error}")
    refuse_all(wrong)
    return tuple(samples)


def mask(chat: Chat, template: Template) -> tuple[Sample, ...]:
    """One sample for the whole chat where every answer's rendering survives in it; otherwise one for each answer."""
    _refuse_markers(chat.messages, template)
    try:
        answers = tuple(_answer(chat, turn, template) for turn in chat.trained)
    except TrainError:
        raise
    except Exception as error:  # a template is a program of the model's authors: it may raise anything
        raise TrainError(f"messages: the model's chat template refuses them ({error}) - see what it allows") from None
    *earlier, last = answers
    if all(last.tokens[: len(answer.tokens)] == answer.tokens for answer in earlier):
        return (_joined(answers),)
    return answers


def _joined(answers: Sequence[Sample]) -> Sample:
    """The last answer's tokens, with every answer labelled."""
    tokens = answers[-1].tokens
    labelled = [False] * len(tokens)
    for answer in answers:
        for i, is_labelled in enumerate(answer.labelled):
            labelled[i] |= is_labelled
    return Sample(where=answers[-1].where, tokens=tokens, labelled=tuple(labelled))


def _answer(chat: Chat, turn: int, template: Template) -> Sample:
    """The chat up to and with the answer at `turn`; labelled from behind its header up to its end-of-turn token."""
    prompt = template.ids(chat, turn, to_answer=True)
    tokens = template.ids(chat, turn + 1)
    field = f"messages[{turn}]"
    if tokens[: len(prompt)] != prompt:
        raise TrainError(
            f"{field}: the rendered answer does not begin where the server's prompt ends, so no mask would be right - "
            "remove white space at the start of the answer; if that does not help, this template cannot be trained on"
        )
    ends = [i for i in range(len(prompt), len(tokens)) if tokens[i] in template.stops]
    if not ends:
        raise TrainError(
            f"{field}: the rendered answer holds none of the tokens at which the server stops ({_names(template)}), so "
            "the model would never learn to stop - set eos_token in tokenizer_config.json to the template's end of turn"
        )
    end = ends[-1] + 1
    return Sample(where=chat.where, tokens=tokens[:end], labelled=tuple(i >= len(prompt) for i in range(end)))


def _refuse_markers(messages: Sequence[Message], template: Template) -> None:
    """A text that contains the template's own markers could open and close turns."""
    for i, message in enumerate(messages):
        for marker in template.markers:
            if marker in (message.get("content") or ""):
                raise TrainError(f"messages[{i}].content: holds the special token {marker!r} as text - remove it")


def _names(template: Template) -> str:
    return (
        ", ".join(repr(template.tokenizer.convert_ids_to_tokens(stop)) for stop in sorted(template.stops))
        or "none known"
    )
