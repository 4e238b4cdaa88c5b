"""The kinds that ask once: `direct`, `instructed`, `fewshot` and `cot`. Others are made of them.

Knows nothing of HTTP, of engines, or of who asks: an evaluation and the gateway call the same functions.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retrieval.files import FileError, read_jsonl
from retrieval.passage import Query
from retrieval.retriever import NoRetrieval, Retriever
from serve.chat import Answer, Message, Model
from serve.layout import demonstrations, layout, shown
from serve.strategies.kind import Kind, Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompted(Kind):
    """One call: instructions, worked examples, passages and the question, in one prompt."""

    kind: Literal["direct", "instructed", "fewshot", "cot"]
    instructions: str = ""
    """The system message."""
    demonstrations: Path | None = None
    """Worked examples shown to every question: JSONL of `{"messages": [user, assistant, ...]}`."""
    examples_from: str | None = None
    """A retriever of the stack that finds worked examples (documents with an `answer`) for each question."""
    fence: bool = False
    """Stand each passage between two lines that no passage can contain, and say so above them.

    Off, because it costs tokens and, with the models tried, no fewer attacks were seen to work: measure yours with
    `python -m scripts.injections GRID`.
    """

    def __post_init__(self) -> None:
        shows = self.demonstrations or self.examples_from
        if self.kind == "direct" and (self.instructions or shows):
            raise ValueError(
                "`direct` asks the bare question; with instructions it is `instructed`, with examples `fewshot`"
            )
        if self.kind in ("instructed", "cot") and not self.instructions.strip():
            raise ValueError(f"`{self.kind}` needs instructions, the text of its system message")
        if self.kind == "instructed" and shows:
            raise ValueError("`instructed` shows no examples; with demonstrations or examples_from it is `fewshot`")
        if self.kind == "fewshot" and not shows:
            raise ValueError("`fewshot` needs demonstrations (a JSONL file of chats) or examples_from (a retriever)")

    @property
    def streamed(self) -> bool:
        """`cot` shows only what follows the last `Answer:`."""
        return self.kind != "cot"

    @property
    def retrievers(self) -> tuple[str, ...]:
        """The one that finds worked examples."""
        return (self.examples_from,) if self.examples_from else ()

    def problems(self) -> Iterator[tuple[str, str]]:
        """Whatever is wrong with the demonstrations."""
        try:
            read_shots(self.demonstrations)
        except FileError as error:
            yield "demonstrations", str(error)

    def build(self, parts: Parts) -> "OneCall":
        """Ask once."""
        return OneCall(
            instructions=self.instructions.strip(),
            shots=read_shots(self.demonstrations),
            examples=parts.retrievers[self.examples_from] if self.examples_from else NoRetrieval(),
            fence=self.fence,
            read=last_answer if self.kind == "cot" else str,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OneCall:
    """Retrieve, lay out the prompt, ask once. `read` takes the answer out of what the model wrote."""

    instructions: str = ""
    shots: tuple[Message, ...] = ()
    examples: Retriever = field(default_factory=NoRetrieval)
    fence: bool = False
    read: Callable[[str], str] = str

    async def __call__(self, query: Query, retriever: Retriever, model: Model) -> Answer:
        hits = await retriever.search(query)
        examples = demonstrations(await self.examples.search(query))
        messages = layout(self.shots, query, (*hits, *examples), self.instructions, self.fence)
        reply = await model.chat(messages)
        return Answer(
            text=self.read(reply.text),
            messages=messages,
            sources=shown(hits),
            finish_reason=reply.finish_reason,
            completion=reply.completion if self.read is str else None,
        )


def last_answer(text: str) -> str:
    """What follows the last `Answer:`, or everything when the model wrote no such line.

    >>> last_answer("Two and two. Answer: 5? No.\\nAnswer: 4")
    '4'
    """
    return text.rpartition("Answer:")[2].strip()


def read_shots(path: Path | None) -> tuple[Message, ...]:
    """The turns of the demonstrations, in the file's order; FileError names each line that is not a chat of them."""
    if path is None:
        return ()
    chats = [(number, _turns(row)) for number, row in read_jsonl(path)]
    wrong = [number for number, turns in chats if not turns]
    if wrong or not chats:
        form = '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}, nothing else'
        raise FileError("\n".join(f"{path}:{number}: a demonstration is {form}" for number in wrong or [1]))
    return tuple(turn for _, turns in chats for turn in turns)


def _turns(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The chat in a row, when it is user, assistant (, user, assistant ...); nothing when it is something else."""
    try:
        turns = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
    except (KeyError, TypeError):
        return ()
    alternate = [turn.role for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
    return turns if alternate and all(isinstance(turn.content, str) for turn in turns) else ()
