"""Chats in the forms of public collections, and the pair that two of them are."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from ppokit.messages import shorten
from ppokit.plugin.chats import prompt_text
from ppokit.ratings.form import Record, first_of, parsed_cell

_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
ROLES = {"Human": "user", "Assistant": "assistant", "human": "user", "gpt": "assistant", "prompter": "user"}
Chat = list[dict[str, str]]


def chat_of(cell: Any) -> Chat:
    messages = parsed_cell(cell)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{shorten(repr(cell))} is no list of messages")
    chat = []
    for message in messages:
        role, text = first_of(message, "role", "from"), first_of(message, "content", "value")
        if isinstance(text, list):  # parts, such as images beside a text
            text = "".join(str(part.get("text") or "") for part in text if isinstance(part, dict))
        chat.append({"role": ROLES.get(str(role), str(role)), "content": text or ""})
    return chat


def alternating(prompts: Any, responses: Any) -> Chat:
    """Of the person's turns and the model's: lists, also written as JSON, or one text each."""

    def turns(cell: Any) -> list[Any]:
        listed = parsed_cell(cell) if isinstance(cell, list) or str(cell).lstrip().startswith("[") else [cell]
        return listed if isinstance(listed, list) else [cell]

    asked, answered = turns(prompts), turns(responses)
    if len(asked) != len(answered):
        raise ValueError(f"{len(asked)} prompts, but {len(answered)} responses; expected one each")
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text or ""}
        for both in zip(asked, answered, strict=True)
        for role, text in zip(roles, both, strict=True)
    ]


def transcript(text: str) -> Chat:
    starts = list(_TURN.finditer(text))
    if not starts or text[: starts[0].start()].strip():
        raise ValueError(f"{shorten(repr(text))} does not begin with a turn, Human: or Assistant:")
    ends = [*(turn.start() for turn in starts[1:]), len(text)]
    return [
        {"role": ROLES[turn[1]], "content": text[turn.end() : end]}
        for turn, end in zip(starts, ends, strict=True)
    ]


def pair_of_chats(better: Chat, worse: Chat, rater: Any, item: Any, left_out: Counter[str]) -> list[Record]:
    if better == worse:
        left_out["chats that are the same"] += 1
        return []
    if better[:-1] != worse[:-1]:
        left_out["chats that differ before their last answer"] += 1
        return []
    if better[-1]["role"] != "assistant" or worse[-1]["role"] != "assistant" or len(better) < 2:
        raise ValueError("a chat does not end with an answer of the assistant")
    return [[prompt_text(better[:-1]), better[-1]["content"], worse[-1]["content"], rater, item]]
