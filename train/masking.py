"""Which tokens of a chat are labelled: render the server's prompt, render the answer, take the difference.

Template-agnostic on purpose: nothing here knows a role marker. A sample is proved, or its row is refused: it begins
with the prompt that the server would make, the answer's words are in it, and it ends with the first token at which the
server stops. That token is labelled; the header is not. Knows nothing of files or batches.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from train.chat import Chat, Message, refuse_all
from train.door import TrainError

THOUGHT: Final = ("<think>", "</think>")
WITHOUT_THOUGHTS: Final = (
    "answers have no thoughts, but by default the template opens one: serve them with chat_template_kwargs "
    '{"enable_thinking": false}, or write thoughts into `reasoning_content`'
)
WITH_THOUGHTS: Final = (
    "answers have thoughts, but by default the template asks for none: serve them with chat_template_kwargs "
    '{"enable_thinking": true}'
)
NEVER_OPENED: Final = (
    "answers have no thoughts, but the server's prompt opens one and the template has no switch against it: the server "
    "asks differently than was trained, so expect less of the adapter, or take another base"
)
REQUESTS: Final[tuple[tuple[Mapping[str, bool], str], ...]] = (
    ({}, ""),
    ({"enable_thinking": False}, WITHOUT_THOUGHTS),
    ({"enable_thinking": True}, WITH_THOUGHTS),
)
"""How the server can be asked to render, likeliest first, and what to say when an answer needs it so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Tokens to run through the model, and which of them are labelled: enter the loss. The last one always is."""

    where: str
    tokens: tuple[int, ...]
    labelled: tuple[bool, ...]
    note: str = ""
    """What the user should know about serving such answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The model's own chat template and tokenizer: what the server will use."""

    tokenizer: Any
    stops: frozenset[int]
    """The tokens at which the server ends an answer."""
    markers: tuple[str, ...]
    """The special tokens' texts."""
    in_parts: bool = False
    """Whether the template wants contents as lists of parts, as those of models that see do."""

    @classmethod
    def load(cls, folder: Path) -> "Template":
        """Read both from a model folder."""
        tokenizer = _tokenizer(folder)
        if tokenizer.chat_template is None:
            raise TrainError(
                f"{folder}: the tokenizer has no chat template; take the instruct (chat) version of the model"
            )
        special = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        stops = frozenset(_stops(folder, tokenizer))
        return cls(tokenizer=tokenizer, stops=stops, markers=special, in_parts=_wants_parts(tokenizer))

    def render(self, messages: Sequence[Message], tools: Sequence[Any] = (), **settings: Any) -> str:
        """The messages as the server's text; with `add_generation_prompt` it ends with the header of the answer."""
        shown = [_in_parts(message) for message in messages] if self.in_parts else list(messages)
        return str(
            self.tokenizer.apply_chat_template(shown, tools=list(tools) or None, tokenize=False, **settings),
        )

    def tokens(self, text: str) -> tuple[int, ...]:
        """The template writes its own beginning-of-sequence token, so the tokenizer must not add a second one."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def text(self, tokens: Sequence[int]) -> str:
        """The tokens as text, special ones included."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _tokenizer(folder: Path) -> Any:
    """As AutoTokenizer loads it, which takes three seconds for torch; hence not for the class that needs no search."""
    settings = folder / "tokenizer_config.json"
    if settings.exists() and '"tokenizer_class": "TokenizersBackend"' in settings.read_text(encoding="utf-8"):
        from transformers import PreTrainedTokenizerFast as Tokenizer
    else:
        from transformers import AutoTokenizer as Tokenizer

    return Tokenizer.from_pretrained(folder, local_files_only=True)


def _stops(folder: Path, tokenizer: Any) -> Iterator[int]:
    """vLLM stops at the tokenizer's end-of-sequence token and at those of generation_config.json."""
    if tokenizer.eos_token_id is not None:
        yield tokenizer.eos_token_id
    file = folder / "generation_config.json"
    more = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    yield from [more] if isinstance(more, int) else more or []


def _wants_parts(tokenizer: Any) -> bool:
    """Whether text survives only as a part. Such a template drops or refuses strings; the server finds out likewise."""
    word = "fulcrum"
    for content, wants in ((word, False), ([{"type": "text", "text": word}], True)):
        try:
            if word in tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False):
                return wants
        except Exception:  # a template is a program of the model's authors: it may raise anything
            continue
    return False


def _in_parts(message: Message) -> Message:
    """As vLLM hands it to such a template: a tool's result stays text, and no text is no part."""
    if message["role"] == "tool":
        return message
    return {**message, "content": [{"type": "text", "text": message["content"]}] if message["content"] else []}


def encode(chats: Sequence[Chat], template: Template) -> tuple[Sample, ...]:
    """Every chat as samples; a TrainError names every row that cannot be masked."""
    samples: list[Sample] = []
    wrong: list[str] = []
    for chat in chats:
        try:
            samples += mask(chat, template)
        except TrainError as error:
            wrong += [f"{chat.where} {problem}" for problem in str(error).split("\n")]
    refuse_all(wrong)
    return tuple(samples)


def too_long(samples: Sequence[Sample], max_length: int) -> tuple[str, ...]:
    """A sentence for every sample that does not fit, since nothing is ever cut."""
    return tuple(
        f"{sample.where} row: is {len(sample.tokens):,} tokens long and max_length is {max_length:,} - "
        f"shorten it, set max_length={len(sample.tokens)}, or drop such rows with too_long=drop"
        for sample in samples
        if len(sample.tokens) > max_length
    )


def mask(chat: Chat, template: Template) -> tuple[Sample, ...]:
    """One sample for the whole chat where every answer's rendering survives in it; otherwise one for each answer."""
    refused = list(_markers(chat.messages, template))
    if refused:
        raise TrainError("\n".join(refused))
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
    note = next((answer.note for answer in answers if answer.note), "")
    return Sample(where=answers[-1].where, tokens=tokens, labelled=tuple(labelled), note=note)


def _answer(chat: Chat, turn: int, template: Template) -> Sample:
    """The chat up to and with the answer at `turn`; labelled from behind its header up to its end-of-turn token."""
    field = f"messages[{turn}]"
    prompt, whole, note = _prompt_and_whole(chat, turn, template)
    _check_words(chat.messages[turn], whole[len(prompt) :], field)
    head = template.tokens(prompt)
    tokens = _continued(head, prompt, whole, template)
    if tokens is None:
        raise TrainError(
            f"{field}: the answer's first token melts into the header's last, so no mask would be right - "
            "remove white space at the start of the answer"
        )
    end = next((i for i in range(len(head), len(tokens)) if tokens[i] in template.stops), None)
    if end is None:
        tokens, end = (*tokens, _stop_after(chat, turn, template)), len(tokens)
    elif rest := _said(tokens[end + 1 :], template):
        raise TrainError(
            f"{field}: the rendered answer goes on behind the token at which the server stops ({rest[:40]!r}) - "
            "split the message, or correct eos_token in tokenizer_config.json"
        )
    labelled = tuple(i >= len(head) for i in range(end + 1))
    return Sample(where=chat.where, tokens=tokens[: end + 1], labelled=labelled, note=note)


def _prompt_and_whole(chat: Chat, turn: int, template: Template) -> tuple[str, str, str]:
    """The server's prompt, the same with the answer behind it, and what to say about serving it."""
    asked = chat.messages[:turn]
    answered = chat.messages[: turn + 1]
    for switches, note in REQUESTS:
        prompt = template.render(asked, chat.tools, add_generation_prompt=True, **switches)
        whole = template.render(answered, chat.tools, **switches)
        if whole.startswith(prompt):
            return prompt, whole, note
    prompt, whole = (
        template.render(asked, chat.tools, add_generation_prompt=True),
        template.render(answered, chat.tools),
    )
    header = prompt.rstrip().removesuffix(THOUGHT[0])
    if header != prompt.rstrip() and whole.startswith(header):
        return header, whole, NEVER_OPENED
    raise TrainError(
        f"messages[{turn}]: the rendered answer does not begin where the server's prompt ends, so no mask would be "
        "right - this chat template cannot be trained on; take another base or repair its chat_template.jinja"
    )


def _check_words(message: Message, rendered: str, field: str) -> None:
    """Refuse an answer of which the template drops or doubles something."""
    if lost := [word for word in _words(message) if word not in rendered]:
        raise TrainError(
            f"{field}: the model's chat template drops part of the answer ({lost[0]!r}), so it would not be learnt - "
            "leave that part out, write it into `content`, or take another base"
        )
    if 0 < message["content"].count(THOUGHT[1]) < rendered.count(THOUGHT[1]):
        raise TrainError(
            f"{field}.content: holds thoughts, and the model's chat template adds its own around them - "
            f"move what stands between {THOUGHT[0]} and {THOUGHT[1]} to `reasoning_content`"
        )


def _words(answer: Message) -> list[str]:
    """What of the answer must be found again. Templates may set white space and thoughts' markers anew, words not."""
    text = " ".join(str(answer.get(key) or "") for key in ("reasoning_content", "content"))
    for marker in THOUGHT:
        text = text.replace(marker, " ")
    return text.split() + [call["function"]["name"] for call in answer.get("tool_calls") or ()]


def _continued(head: tuple[int, ...], prompt: str, whole: str, template: Template) -> tuple[int, ...] | None:
    """The whole as tokens that begin with the prompt's; None when no such tokens spell it.

    Where the text's own tokens straddle the border (two line ends that are one token), the answer is tokenized by
    itself: that is what the server sees, which never takes its prompt's tokens back.
    """
    tokens = template.tokens(whole)
    if tokens[: len(head)] == head:
        return tokens
    apart = (*head, *template.tokens(whole[len(prompt) :]))
    return apart if template.text(apart) == template.text(tokens) else None


def _stop_after(chat: Chat, turn: int, template: Template) -> int:
    """The stop token with which the next turn's header begins, in templates that end no turn themselves (GLM).

    Asked of a chat of one word a turn, because there a later turn changes nothing about the answer before it.
    """
    answer = {**chat.messages[turn], "content": "."} if chat.messages[turn].get("tool_calls") else _says("assistant")
    following = _says("tool" if answer.get("tool_calls") else "user")
    asked = template.render([_says("user"), answer], chat.tools)
    more = template.render([_says("user"), answer, following], chat.tools)
    first = template.tokens(more[len(asked) :])[:1] if more.startswith(asked) else ()
    if not template.stops.issuperset(first) or not first:
        raise TrainError(
            f"messages[{turn}]: the rendered answer holds none of the tokens at which the server stops "
            f"({_names(template)}), so the model would never learn to stop - set eos_token in tokenizer_config.json to "
            "the template's end of turn"
        )
    return first[0]


def _says(role: str) -> Message:
    return {"role": role, "content": "."}


def _said(tokens: Sequence[int], template: Template) -> str:
    """The text of the tokens without special ones."""
    return str(template.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def _markers(messages: Sequence[Message], template: Template) -> Iterator[str]:
    """A text that contains the template's own markers could open and close turns."""
    for i, message in enumerate(messages):
        for key in ("content", "reasoning_content"):
            for marker in template.markers:
                if marker in (message.get(key) or ""):
                    yield f"messages[{i}].{key}: holds the special token {marker!r} as text - remove it"


def _names(template: Template) -> str:
    return (
        ", ".join(repr(template.tokenizer.convert_ids_to_tokens(stop)) for stop in sorted(template.stops))
        or "none known"
    )
