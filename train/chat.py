"""The door for training chats: JSONL in OpenAI's fine-tuning format becomes Chats, or every problem at once.

    python -m train.chat out/demo/world/sft.jsonl --model scripts/pocket/model --show 1

Without --model it needs no tokenizer and takes a second. Knows nothing of training.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from retrieval.console import Parser
from retrieval.files import FileError, read_text
from train.door import TrainError, refuse
from train.recipe import Recipe
from train.rows import Problem, is_trained, parsed_arguments, problems

Message = Mapping[str, Any]
"""One chat turn in the shape that templates read: role, content and perhaps tool calls."""

MOST_PROBLEMS: Final = 100
"""More are counted, not printed: a file in another format has one in every line."""

SPREAD: Final = (
    "file",
    "spreads its rows over several lines - write one JSON object a line, without a list around them",
)
CUT_OFF: Final = "the line ends too early: complete or remove it; a line end inside a text is written \\n"
JSON_REMEDIES: Final = {
    "Extra data": "one object a line, and nothing behind it, no comma either",
    "Expecting property name enclosed in double quotes": "use double quotes, and no comma behind the last entry",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One row that is fine."""

    where: str
    """`file:line`, the name under which a row is refused, dropped or blamed."""
    messages: tuple[Message, ...]
    trained: tuple[int, ...]
    """Positions of the assistant messages to learn."""
    tools: tuple[Mapping[str, Any], ...]
    group: str
    """Rows of one group are held out together: `meta.group`, or else the first user turn without case and spacing."""


def read_chats(path: Path) -> tuple[Chat, ...]:
    """Every row of the file, or a TrainError with every problem in it."""
    chats: list[Chat] = []
    wrong: list[str] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row, found = _row(line)
        wrong += [f"{where} {field}: {problem}" for field, problem in found]
        if found == [SPREAD] and len(wrong) == 1 and not chats:
            break  # it is one value over all lines: the others would each repeat this
        if not found:
            chats.append(_chat(where, row))
    refuse_all(wrong)
    if not chats:
        raise TrainError(f"{path}:1 file: has no rows - write one JSON object a line")
    return tuple(chats)


def _text(path: Path) -> str:
    """The file's text. Windows' line ends become plain ones; JSON writes those of a content as \\n, so none is lost."""
    try:
        return read_text(path)
    except FileError as error:
        cause = error.__context__
        if not isinstance(cause, UnicodeDecodeError):
            raise
        line = cause.object[: cause.start].count(b"\n") + 1
        raise TrainError(
            f"{path}:{line} file: is not UTF-8 (byte 0x{cause.object[cause.start]:02x}) - save it as UTF-8"
        ) from None


def refuse_all(wrong: Sequence[str]) -> None:
    """Raise what is wrong, if anything is: the first hundred, and how many more there are."""
    if wrong:
        more = [f"... and {len(wrong) - MOST_PROBLEMS} more problems"] if len(wrong) > MOST_PROBLEMS else []
        raise TrainError("\n".join([*wrong[:MOST_PROBLEMS], *more]))


def _row(line: str) -> tuple[dict[str, Any], list[Problem]]:
    if line.startswith("\ufeff"):
        return {}, [("file", "starts with a byte-order mark - save it as UTF-8 without BOM")]
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        if line.strip() in ("[", "{"):
            return {}, [SPREAD]
        is_cut = error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated string")
        remedy = CUT_OFF if is_cut else JSON_REMEDIES.get(error.msg, "write one JSON object a line")
        return {}, [(f"column {error.colno}", f"is not JSON ({error.msg}) - {remedy}")]
    except RecursionError:
        return {}, [("row", "is nested too deeply - write one flat row a line")]
    if not isinstance(row, dict):
        return {}, [("row", f"is a {type(row).__name__} - write one JSON object a line")]
    return row, list(problems(row))


def _chat(where: str, row: Mapping[str, Any]) -> Chat:
    messages = row["messages"]
    first_question = next(m["content"] for m in messages if m["role"] == "user")
    return Chat(
        where=where,
        messages=tuple(_for_the_template(message) for message in messages),
        trained=tuple(i for i, message in enumerate(messages) if is_trained(message)),
        tools=tuple(row.get("tools", ())),
        group=row.get("meta", {}).get("group") or " ".join(first_question.lower().split()),
    )


def _for_the_template(message: Message) -> Message:
    """As the server hands it to the same template: no weight, no content is "", arguments are objects, thoughts have
    both of their names."""
    shown = {key: value for key, value in message.items() if key != "weight"} | {
        "content": message.get("content") or ""
    }
    if thoughts := message.get("reasoning_content"):
        shown["reasoning"] = thoughts
    if calls := message.get("tool_calls"):
        shown["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": parsed_arguments(call["function"])}}
            for call in calls
        ]
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a file, count what is in it and, with a model, show what would be trained."""
    parser = Parser(
        prog="python -m train.chat",
        description="Check training chats: every problem as `file:line field: problem - fix`, then statistics.",
        epilog="example: python -m train.chat out/demo/world/sft.jsonl --model scripts/pocket/model --show 1",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help='JSONL, each row {"messages": [...]}')
    parser.add_argument(
        "--model", metavar="M", help="count tokens and build masks with this model's tokenizer and template"
    )
    parser.add_argument(
        "--show",
        type=int,
        default=0,
        metavar="N",
        help="print N samples as the model sees them, labelled tokens marked",
    )
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="with --model: refuse rows of more tokens, as training does (default: the recipe's own default)",
    )
    options = parser.parse_args(arguments)
    if (options.show or options.max_length) and not options.model:
        parser.error("--show and --max-length need --model: what is trained depends on the model's template")
    if options.show < 0 or options.max_length == 0 or (options.max_length or 1) < 0:
        parser.error("--show and --max-length count samples and tokens: give positive numbers")
    try:
        print("\n".join(_report(options)))
    except (TrainError, FileError) as error:
        return refuse(error)
    return 0


def _report(options: Namespace) -> Iterator[str]:
    from train.describe import describe, marked

    chats = read_chats(options.file)
    if options.model is None:
        yield from describe(chats)
        return
    from train.base import find_base
    from train.masking import Template, encode, too_long

    template = Template.load(find_base(options.model))
    samples = encode(chats, template)
    max_length = options.max_length or Recipe(model="", data=options.file).max_length
    refuse_all(too_long(samples, max_length))
    yield from describe(chats, samples, max_length)
    for sample in islice(samples, options.show):
        yield f"\n{sample.where} ({sum(sample.labelled)} of {len(sample.tokens)} tokens are labelled)"
        yield marked(sample, template, colour=sys.stdout.isatty())


if __name__ == "__main__":
    sys.exit(main())
