"""Prompts that are chats: several messages, read by a chat template and shown to people as one text."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ppokit.messages import listed, shorten

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
_FORM = "expected a list of messages such as {role: user, content: ...}"
_ROLE = (
    rf"\{{[^{{}}]*['\"]role['\"]\s*:\s*['\"]({'|'.join(ROLES)})['\"]"  # behind a name, or the id of a call
)
_WRITTEN_CHAT = re.compile(
    rf"\s*\[\s*(\{{\s*['\"](role|content|from)['\"]|\]\s*$|{_ROLE})"
    rf"|\s*\{{\s*['\"](?s:.*?)['\"]\s*:\s*\[\s*{_ROLE}"  # an object that holds the list
)


class ChatPrompt(str):
    """A chat as one prompt: its text is what rewards, people and files see of it.

    The text of one message of the user is its content. That of several has a paragraph for each, which
    begins with its role: `User: How are you?`. Calls of tools follow the content, as JSON, one per line.

    Args:
        messages: of `role` and `content`, the last one the user's or a tool's. What else a message has
            (`name`, `tool_calls`, ...) goes to the template; keys whose value is None are left out.
        tools: JSON schemas of the tools that the model may call, for the template.

    Attributes:
        messages, tools: the same, as a template gets them.

    Raises:
        ValueError: they are no such messages; says which and what was expected.
    """

    messages: list[Message]
    tools: list[Any] | None

    def __new__(cls, messages: Sequence[Any], tools: Sequence[Any] | None = None) -> ChatPrompt:
        read = _messages(messages)
        prompt = super().__new__(cls, prompt_text(read))
        prompt.messages, prompt.tools = read, None if tools is None else _tools(tools)
        return prompt

    def __reduce__(self) -> tuple[Any, ...]:
        return ChatPrompt, (self.messages, self.tools)


def prompt_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a chat that is to be answered, see `ChatPrompt`."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return str(messages[0]["content"])
    paragraphs = []
    for message in messages:
        calls = [
            json.dumps(call.get("function", call), ensure_ascii=False)
            for call in message.get("tool_calls") or ()
        ]
        content = message.get("content") or ""
        lines = [content, *calls] if content or not calls else calls
        paragraphs.append(f"{str(message['role']).capitalize()}: " + "\n".join(lines))
    return "\n\n".join(paragraphs)


def chat_of(prompt: str) -> ChatPrompt:
    """A prompt as a chat: plain text is one message of the user."""
    return prompt if isinstance(prompt, ChatPrompt) else ChatPrompt([{"role": "user", "content": prompt}])


def read_chat(cell: Any, tools: Any = None) -> str:
    """A cell of a data set as a prompt: messages, the same written as text, or plain text.

    Args:
        cell: the messages may also be the one list of messages in an object, which may hold `tools` too.
        tools: the cell of the row's tools; None for none.

    Raises:
        ValueError: it is none of them, or no such messages as `ChatPrompt` takes.
    """
    if isinstance(cell, str) and _WRITTEN_CHAT.match(cell):
        cell = _written(cell)
    if isinstance(cell, Mapping):
        lists = [value for key, value in cell.items() if key != "tools" and _is_chat(value)]
        if len(lists) == 1:
            cell, tools = lists[0], tools or cell.get("tools") or None
    if isinstance(tools, str):
        tools = _written(tools)
    if isinstance(cell, str):
        return cell if tools is None else ChatPrompt([{"role": "user", "content": cell}], tools)
    if not isinstance(cell, list | tuple):
        raise ValueError("expected text or a list of messages")
    return ChatPrompt(cell, tools)


def _is_chat(value: Any) -> bool:
    """Whether a value is meant as messages."""
    return isinstance(value, list | tuple) and any(
        isinstance(message, Mapping) and "role" in message for message in value
    )


def _written(text: str) -> Any:
    """A value that was written into a cell, as JSON or, by pandas, as Python."""
    try:
        return json.loads(text)
    except ValueError as error:
        fault = error
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"a list or object that is not JSON ({fault}); expected JSON") from fault


def _messages(messages: Any) -> list[Message]:
    if not isinstance(messages, list | tuple) or not messages:
        raise ValueError(f"{'an empty chat' if messages in ([], ()) else 'no chat'}; {_FORM}")
    read = [_message(message, number) for number, message in enumerate(messages, 1)]
    if read[-1]["role"] not in ("user", "tool"):
        raise ValueError(
            f"the last message is of the role {read[-1]['role']}; expected the user's or a tool's, which the "
            "model answers: leave the messages after it out, or begin the response by prompts.prefill"
        )
    return read


def _message(message: Any, number: int) -> Message:
    if not isinstance(message, Mapping) or "role" not in message:
        keys = f", which has {listed(map(str, message))}" if isinstance(message, Mapping) and message else ""
        raise ValueError(f"message {number} has no role{keys}; {_FORM}")
    read: Message = _without_none(message)
    role, content = message["role"], message.get("content")
    if role not in ROLES:
        raise ValueError(f"message {number} is of the role {role!r}; expected {listed(ROLES, 'or')}")
    if isinstance(content, list | tuple):  # parts, as for models that also see pictures
        parts = [_part(part) for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else content
    if content is None and role == "assistant" and (read.get("tool_calls") or "content" in message):
        content = ""  # an answer may be a call, or thoughts, alone
    if not isinstance(content, str):
        raise ValueError(f"the content of message {number} is {shorten(repr(content))}; expected text")
    read["content"] = content
    if "tool_calls" in read:
        read["tool_calls"] = [_tool_call(call, number) for call in read["tool_calls"]]
    return read


def _part(part: Any) -> Any:
    """Its text; None of a picture, which may have an empty text in a table."""
    if isinstance(part, Mapping):
        return part.get("text") if part.get("type", "text") in ("text", "input_text") else None
    return part


def _tool_call(call: Any, number: int) -> Any:
    """A call of a tool whose arguments are a mapping, as templates expect; OpenAI writes JSON, or nothing."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise ValueError(f"message {number} calls a tool without a name; expected {{name, arguments}}")
    if isinstance(arguments := function.get("arguments", ""), str):
        try:
            function = {**function, "arguments": json.loads(arguments) if arguments.strip() else {}}
        except ValueError as error:
            raise ValueError(
                f"message {number} calls {function['name']} with arguments that are not JSON"
            ) from error
    return {**call, "function": function} if "function" in call else function


def _tools(tools: Any) -> list[Any]:
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError(f"the tools are {shorten(repr(tools))}; expected a list of JSON schemas")
    return [_without_none(tool) for tool in tools]


def _without_none(value: Any) -> Any:
    """Parquet gives every mapping of a column the keys of all the others."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
