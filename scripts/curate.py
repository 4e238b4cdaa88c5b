"""Turn captured chats into training chats and test candidates, so that no question is ever on both sides.

A training row holds the prompt as its strategy lays it out, passages included: it is what the model will be asked with,
and a bare question would teach it to answer without reading. Only the last answer is learnt. All that is left out is
listed with the reason.
    python -m scripts.curate out/chats.jsonl --stack out/demo/world/stack.yaml --out out/curated
"""

import asyncio
import json
import re
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from eval.task import Example
from eval.wording import counted
from retrieval.console import Parser
from retrieval.files import FileError, write_jsonl
from retrieval.passage import Query, RetrievalError
from retrieval.retriever import Hands
from scripts.apart import groups, is_test
from scripts.make_sft import reasons
from scripts.prompts import Others, Silent
from scripts.targets import says
from scripts.teacher import Dropped
from serve.asked import ChatRequest, Refusal, read
from serve.capture import Captured, read_captured
from serve.chat import Conversation, Message, ServeError
from serve.combination import Combination
from serve.hands import counter
from serve.layout import passages
from serve.passed import Given
from serve.reading import cited_in
from serve.stack import Stack
from serve.strategies.kind import Strategy
from serve.strategies.kinds import build
from train.overlap import Text, check, read_texts

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which chats are looked at."""

    rating: str = "good"
    """`good`: rated up, or corrected; `up`, `down`: rated so; `any`: unrated ones too."""
    combinations: tuple[str, ...] = ("*",)
    since: float = 0.0
    """Unix time."""
    with_sources: bool = False
    corrected: bool = False

    def why_not(self, chat: Captured) -> str:
        """Why this one is not wanted; nothing when it is."""
        ratings = {"good": chat.rating == "up" or bool(chat.correction), "any": True}
        if not ratings.get(self.rating, chat.rating == self.rating):
            return f"not asked for: its rating is {chat.rating or 'missing'}"
        if not any(fnmatchcase(chat.combination, one) for one in self.combinations):
            return f"not asked for: it is by {chat.combination}"
        if chat.at < self.since:
            return "not asked for: it is older"
        if self.with_sources and not chat.sources:
            return "not asked for: it has no sources"
        if self.corrected and not chat.correction:
            return "not asked for: it has no correction"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A chosen chat, read."""

    chat: Captured
    query: Query
    turns: tuple[str, ...]
    """What the person said, the question last."""

    @property
    def answer(self) -> str:
        """What should be said: a correction replaces what was."""
        return self.chat.correction.strip() or self.chat.text.strip()

    @property
    def stands_alone(self) -> bool:
        """Whether the question means the same without what came before it."""
        return len(self.turns) == 1 and not self.query.history and not self.query.meta.get("system_message")

    def dropped(self, why: str) -> Dropped:
        return Dropped(id=self.chat.id, question=self.turns[-1], why=why)

    def texts(self) -> list[Text]:
        return [Text(where=self.chat.id, question=turn) for turn in self.turns if turn.strip()]


@dataclass(slots=True, kw_only=True)
class Curated:
    """What came of the chats."""

    training: list[Row] = field(default_factory=list)
    candidates: list[Row] = field(default_factory=list)
    left_out: list[Dropped] = field(default_factory=list)


def curate(chats: Sequence[Captured], wanted: Wanted, stack: Stack, tests: Sequence[Text], share: float) -> Curated:
    """Choose, part, render. `tests` are questions that may not be trained on; `share` of the groups become tests."""
    made = Curated()
    talks = _without_tests(
        list(_chosen(sorted(chats, key=lambda chat: (chat.at, chat.id)), wanted, made)),
        tests,
        "in the test set already",
        made,
    )
    names = groups([talk.turns for talk in talks])
    sides = [(talk, name, is_test(name, share)) for talk, name in zip(talks, names, strict=True)]
    made.candidates = _candidates([talk for talk, _, test in sides if test], made)
    held = [Text(where=f"candidate {row['id']}", question=row["question"]) for row in made.candidates]
    training = _without_tests([talk for talk, _, test in sides if not test], held, "like a test candidate", made)
    named = {talk.chat.id: name for talk, name, _ in sides}
    made.training = asyncio.run(_training(training, named, stack, made))
    return made


def _chosen(chats: Sequence[Captured], wanted: Wanted, made: Curated) -> Iterator[Talk]:
    """The chats that are wanted and whose answer may be held up as right."""
    for chat in chats:
        try:
            body = json.dumps({"model": chat.combination, "messages": chat.messages})
            asked = read(ChatRequest, body.encode())
            turns = tuple(turn.text for turn in asked.messages if turn.role == "user")
            talk = Talk(chat=chat, query=asked.query(), turns=turns)
        except Refusal as refusal:
            made.left_out.append(Dropped(id=chat.id, question="", why=f"no longer a question: {refusal}"))
            continue
        if why := wanted.why_not(chat) or _unusable(talk):
            made.left_out.append(talk.dropped(why))
        else:
            yield talk


def _unusable(talk: Talk) -> str:
    if not talk.turns[-1].strip():
        return "empty question"
    if isinstance(talk.query, Conversation) or "tools" in talk.chat.sampling:
        return "tools: neither a row nor a candidate here can hold them"
    if talk.chat.correction.strip():
        return ""
    if talk.chat.rating == "down":
        return "rated down and not corrected: no right answer is known"
    if talk.chat.finish_reason != "stop":
        return f"broken off: its finish_reason is {talk.chat.finish_reason or 'missing'}"
    return "" if talk.answer else "empty answer"


def _without_tests(talks: list[Talk], tests: Sequence[Text], why: str, made: Curated) -> list[Talk]:
    """The talks of which no turn is one of these questions.

    Repeated until nothing is found: what counts as a common phrase depends on the rows that are left.
    """
    while leaks := {
        one.train.where: one.said for one in check([t for talk in talks for t in talk.texts()], tests).refused
    }:
        made.left_out += [talk.dropped(f"{why}: {leaks[talk.chat.id]}") for talk in talks if talk.chat.id in leaks]
        talks = [talk for talk in talks if talk.chat.id not in leaks]
    return talks


# --- candidates for a test set


def _candidates(talks: Sequence[Talk], made: Curated) -> list[Row]:
    """One for each question, with every answer that was held up as right."""
    found: dict[str, list[Talk]] = {}
    for talk in talks:
        if talk.stands_alone:
            found.setdefault(" ".join(talk.turns[-1].casefold().split()), []).append(talk)
        else:
            made.left_out.append(
                talk.dropped("no question by itself: a test set holds neither turns before it nor a system message")
            )
    alike = [sorted(talks, key=lambda talk: not talk.chat.correction) for talks in found.values()]
    for best, *others in alike:
        made.left_out += [one.dropped(f"asked again: its answer is with candidate {best.chat.id}") for one in others]
    return [asdict(_candidate(talks)) for talks in alike]


def _candidate(talks: Sequence[Talk]) -> Example:
    """The best answer first; evidence is what it cites, or else all that it was shown, unless it is a correction."""
    best, shown = talks[0], passages(talks[0].chat.sources)
    cited = [hit for n, hit in enumerate(shown, start=1) if n in cited_in(best.answer)]
    evidence = cited or ([] if best.chat.correction else shown)
    kind = "cited" if cited else "retrieved" if evidence else "none"
    answers = dict.fromkeys(re.sub(r"\s*\[S\d+\]", "", talk.answer).strip() or talk.answer for talk in talks)
    return Example(
        id=best.chat.id,
        question=best.turns[-1],
        answers=tuple(answers),
        evidence=tuple(dict.fromkeys(hit.passage.id for hit in evidence)),
        meta={"combination": best.chat.combination, "evidence": kind},
    )


# --- rows to train on


async def _training(talks: Sequence[Talk], named: Mapping[str, str], stack: Stack, made: Curated) -> list[Row]:
    """A row for each talk whose prompt can be laid out as it was, each prompt and answer once."""
    rows: dict[str, Row] = {}
    strategies = _strategies(stack, {Combination.parse(talk.chat.combination).strategy for talk in talks})
    for talk in talks:
        strategy = Combination.parse(talk.chat.combination).strategy
        if why := _cannot_be_rendered(strategy, stack):
            made.left_out.append(talk.dropped(why))
            continue
        # What was found when it was asked: the index may be another by now.
        prompt = (await strategies[strategy](talk.query, Given(talk.chat.sources), Silent())).messages
        messages = [*map(_given, prompt), says(talk.answer)]
        meta = {"id": talk.chat.id, "question": talk.turns[-1], "group": named[talk.chat.id]}
        row = {"messages": messages, "meta": meta | {"combination": talk.chat.combination}}
        if rows.setdefault(json.dumps(messages), row) is not row:
            made.left_out.append(talk.dropped("the same again: this prompt has this answer in another row"))
    return list(rows.values())


def _strategies(stack: Stack, names: set[str]) -> dict[str, Strategy]:
    """Those that are named and there; one that finds worked examples never finds the question itself."""
    known = {name: stack.strategies[name] for name in names if not _cannot_be_rendered(name, stack)}
    hands = Hands(count=counter(stack.model))
    finders = {finder for one in known.values() for finder in one.retrievers}
    opened = {name: Others.open(stack.retrievers[name], hands) for name in sorted(finders)}
    return build(known, opened)


def _cannot_be_rendered(strategy: str, stack: Stack) -> str:
    if strategy not in stack.strategies:
        return f"its prompt is lost: the stack has no strategy {strategy!r} any more"
    if not stack.strategies[strategy].streamed:
        return f"its words are lost: {strategy!r} took the answer out of a longer reply, which is not kept"
    return ""


def _given(message: Message) -> Row:
    """A turn of the prompt; the model is not to learn what it or a demonstration said before."""
    return {**message.as_sent(), **({"weight": 0} if message.role == "assistant" else {})}


# --- the command


def _time(text: str) -> float:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no date; write 2026-11-25, or 2026-11-25T08:00") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ArgumentTypeError(f"{text!r} is no share; write a number from 0 to 1")
    return share


def main() -> int:
    parser = Parser(
        description="Turn captured chats into training chats and test candidates; no question lands on both sides.",
        epilog="example: python -m scripts.curate out/chats.jsonl --stack out/demo/world/stack.yaml --out out/curated",
    )
    parser.add_argument("chats", type=Path, metavar="CHATS", help="what `capture:` of the stack names")
    parser.add_argument("--stack", type=Path, metavar="FILE", required=True, help="how the strategies lay prompts out")
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="where the three files go")
    parser.add_argument(
        "--rating", choices=("good", "up", "down", "any"), default="good", help="good (default): rated up, or corrected"
    )
    parser.add_argument(
        "--combination", action="append", metavar="ID", help="only of this one, e.g. 'house:*:instructed'; repeatable"
    )
    parser.add_argument("--since", type=_time, default=0.0, metavar="DATE", help="only from then on (UTC)")
    parser.add_argument("--with-sources", action="store_true", help="only with retrieved passages")
    parser.add_argument("--corrected", action="store_true", help="only with a correction")
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="TESTSET",
        help="its questions are left out; repeatable",
    )
    parser.add_argument(
        "--test-share", type=_share, default=0.2, metavar="SHARE", help="of the groups of questions (default 0.2)"
    )
    options = parser.parse_args()
    try:
        for sentence in _report(options):
            print(sentence)
    except (FileError, RetrievalError, ServeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _report(options: Namespace) -> Iterator[str]:
    wanted = Wanted(
        rating=options.rating,
        combinations=tuple(options.combination or ("*",)),
        since=options.since,
        with_sources=options.with_sources,
        corrected=options.corrected,
    )
    tests = [text for file in options.against for text in read_texts(file)]
    stack, chats = Stack.load(options.stack), read_captured(options.chats)
    made = curate(chats, wanted, stack, tests, options.test_share)
    training, candidates, left_out = (options.out / f"{name}.jsonl" for name in FILES)
    for file, rows in (
        (training, made.training),
        (candidates, made.candidates),
        (left_out, map(asdict, made.left_out)),
    ):
        write_jsonl(file, rows)
    yield f"{counted(len(chats), 'chat')} in {options.chats}"
    if made.left_out:
        yield f"left out {len(made.left_out):,} ({reasons(made.left_out)}), each listed in {left_out}"
    if not (made.training or made.candidates):
        yield f"nothing was chosen; next: read {left_out}, and choose with --rating any or another --since"
        return
    yield (
        f"wrote {counted(len(made.training), 'training chat')} to {training} and "
        f"{counted(len(made.candidates), 'test candidate')} to {candidates}; next: "
        + (f"python -m train.chat {training}, and " if made.training else "")
        + "read each candidate before it joins a test set"
    )


FILES: Final = ("train", "candidates", "left_out")

if __name__ == "__main__":
    sys.exit(main())
