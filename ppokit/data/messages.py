"""Chats as lists of messages, `{role, content, ...}` each, and the text by which a person knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def prompt_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a chat that is to be answered.

    That of a single message of the user is the message; of a longer chat, `Role: content` per message, with a
    blank line between them.
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return str(messages[0]["content"])
    return "\n\n".join(
        f"{str(message['role']).capitalize()}: {message.get('content') or ''}" for message in messages
    )
