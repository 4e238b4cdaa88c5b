"""What a training row must be: OpenAI's fine-tuning format, an object with `messages`. All that is wrong, at once.

Pure: knows nothing of files, tokens or templates.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

Problem = tuple[str, str]
"""(field, what is wrong - what to do)"""

ROLES: Final = ("system", "user", "assistant", "tool")
ROW_KEYS: Final = frozenset({"messages", "tools", "parallel_tool_calls", "meta"})
MESSAGE_KEYS: Final = frozenset(
    {"role", "content", "reasoning_content", "name", "weight", "tool_calls", "tool_call_id"}
)

OTHER_FORMATS: Final = {
    "conversations": "looks like ShareGPT - rename `conversations` to `messages`, `from` to `role` "
    "(human is user, gpt is assistant) and `value` to `content`",
    "instruction": "looks like Alpaca - make `instruction` (and `input`) the content of a user message and `output` of "
    "an assistant message, in a list called `messages`",
    "prompt": "looks like prompt and completion - make `prompt` the content of a user message and `completion` of an "
    "assistant message, in a list called `messages`",
    "text": "is plain text - training needs to know who speaks: write `messages` with roles",
}
OTHER_ROLES: Final = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "developer": "system",
    "function": "tool",
}
OTHER_KEYS: Final = {
    "from": "rename it to `role`",
    "value": "rename it to `content`",
    "text": "rename it to `content`",
    "function_call": "write it as `tool_calls`",
    "weights": "rename it to `weight`",
    "reasoning": "rename it to `reasoning_content`",
    "thinking": "rename it to `reasoning_content`",
}

HALF_A_CHARACTER: Final = "holds half of a surrogate pair, which no tokenizer can read - repair the text's encoding"


def problems(row: Mapping[str, Any]) -> Iterator[Problem]:
    """Every problem of one row."""
    messages = row.get("messages")
    if messages is None:
        yield _no_messages(row)
        return
    for key in sorted(row.keys() - ROW_KEYS):
        yield key, "is not a key of a row - put what you want to keep under `meta`"
    yield from _meta(row.get("meta", {}))
    yield from _tools(row.get("tools", []))
    if not isinstance(messages, list) or not messages:
        yield "messages", "is not a list of messages - write at least a user and an assistant message"
        return
    broken = [problem for i, message in enumerate(messages) for problem in _message(f"messages[{i}]", message)]
    yield from broken or _conversation(messages)


def is_trained(message: Mapping[str, Any]) -> bool:
    """Whether the model is to learn this message."""
    return bool(message["role"] == "assistant" and message.get("weight", 1) == 1)


def _no_messages(row: Mapping[str, Any]) -> Problem:
    for key, advice in OTHER_FORMATS.items():
        if key in row:
            return key, advice
    return "messages", 'is missing - a row is {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}'


def _meta(meta: Any) -> Iterator[Problem]:
    if not isinstance(meta, dict):
        yield "meta", 'is not an object - write {"id": ..., "group": ...} or leave it out'
    elif not isinstance(meta.get("group", ""), str):
        yield "meta.group", "is not text - rows with the same group are held out together, so name the group"


def _tools(tools: Any) -> Iterator[Problem]:
    if not isinstance(tools, list):
        yield "tools", "is not a list of tools"
        return
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            yield f"tools[{i}]", 'has no function name - write {"type": "function", "function": {"name": ..., ...}}'


def _message(where: str, message: Any) -> Iterator[Problem]:
    """What is wrong with a message by itself."""
    if not isinstance(message, dict):
        yield where, 'is not an object - write {"role": ..., "content": ...}'
        return
    for key in sorted(message.keys() - MESSAGE_KEYS):
        yield f"{where}.{key}", f"is not a key of a message - {OTHER_KEYS.get(key, 'remove it')}"
    yield from _role(f"{where}.role", message.get("role"))
    yield from _content(f"{where}.content", message)
    yield from _thoughts(f"{where}.reasoning_content", message)
    yield from _weight(f"{where}.weight", message)
    yield from _tool_calls(f"{where}.tool_calls", message)


def _role(where: str, role: Any) -> Iterator[Problem]:
    if role is None:
        yield where, f"is missing - one of {', '.join(ROLES)}"
    elif role not in ROLES:
        meant = OTHER_ROLES.get(str(role).lower())
        yield where, f"{role!r} is not a role - " + (f"write {meant!r}" if meant else f"one of {', '.join(ROLES)}")


def _content(where: str, message: Mapping[str, Any]) -> Iterator[Problem]:
    content = message.get("content")
    if content is None:
        if not message.get("tool_calls"):
            yield where, "is missing - every message without tool calls says something"
    elif isinstance(content, list):
        yield where, "is a list of parts - join their texts into one string (pictures and sound cannot be trained on)"
    elif not isinstance(content, str):
        yield where, f"is a {type(content).__name__} - write text"
    elif not content.strip() and not message.get("tool_calls"):
        yield where, "is empty - remove the row or say something"
    elif _has_lone_surrogate(content):
        yield where, HALF_A_CHARACTER


def _thoughts(where: str, message: Mapping[str, Any]) -> Iterator[Problem]:
    thoughts = message.get("reasoning_content")
    if thoughts is None:
        return
    if message.get("role") != "assistant":
        yield where, "stands on a message of someone else - only the assistant's thoughts are rendered"
    elif not isinstance(thoughts, str):
        yield where, f"is a {type(thoughts).__name__} - write text"
    elif _has_lone_surrogate(thoughts):
        yield where, HALF_A_CHARACTER


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else False


def _weight(where: str, message: Mapping[str, Any]) -> Iterator[Problem]:
    if "weight" not in message:
        return
    weight = message["weight"]
    if message.get("role") != "assistant":
        yield where, "stands on a message that is never trained - only assistant messages have one"
    elif isinstance(weight, bool) or weight not in (0, 1):
        yield where, f"is {weight!r} - 1 trains the message, 0 shows it without training it"


def _tool_calls(where: str, message: Mapping[str, Any]) -> Iterator[Problem]:
    calls = message.get("tool_calls")
    if calls is None:
        return
    if message.get("role") != "assistant":
        yield where, "stands on a message of someone else - only the assistant calls tools"
    elif not isinstance(calls, list) or not calls:
        yield where, "is not a list of calls - leave it out when there are none"
    else:
        for i, call in enumerate(calls):
            yield from _tool_call(f"{where}[{i}].function", call)


def _tool_call(where: str, call: Any) -> Iterator[Problem]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        yield where, 'has no name - write {"type": "function", "function": {"name": ..., "arguments": "{...}"}}'
    elif parsed_arguments(function) is None:
        yield f"{where}.arguments", 'are not a JSON object in a string - write for instance "{\\"city\\": \\"Oslo\\"}"'


def parsed_arguments(function: Mapping[str, Any]) -> dict[str, Any] | None:
    """A call's arguments as an object, as templates and the server want them; None when they are not one."""
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (TypeError, json.JSONDecodeError):
        return None
    return arguments if isinstance(arguments, dict) else None


def _conversation(messages: list[dict[str, Any]]) -> Iterator[Problem]:
    """What is wrong with the order of messages that are each fine."""
    before = "start"
    for i, message in enumerate(messages):
        role = message["role"]
        if role not in MAY_FOLLOW[before]:
            allowed = " or ".join(sorted(MAY_FOLLOW[before]))
            yield f"messages[{i}].role", f"{role!r} cannot come after {before!r} - expected {allowed}"
        before = "call" if message.get("tool_calls") else role
    if messages[-1]["role"] != "assistant":
        yield (
            f"messages[{len(messages) - 1}].role",
            "the last message is not the assistant's - end with the answer to learn",
        )
    elif not any(is_trained(message) for message in messages):
        yield "messages", "no assistant message has weight 1, so there is nothing to learn - remove the row or a weight"


MAY_FOLLOW: Final[dict[str, frozenset[str]]] = {
    "start": frozenset({"system", "user"}),
    "system": frozenset({"user"}),
    "user": frozenset({"assistant"}),
    "assistant": frozenset({"user"}),
    "call": frozenset({"tool"}),
    "tool": frozenset({"tool", "assistant"}),
}
"""Which roles may follow which; `call` is an assistant message with tool calls. An order that every template takes."""
