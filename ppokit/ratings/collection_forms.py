"""Ratings and choices as public collections hand them out.

    arena           battles: conversation_a, conversation_b and winner; or prompt, response_a, response_b and
                    winner_model_a, winner_model_b
    hh              chosen and rejected transcripts, "\\n\\nHuman: ...\\n\\nAssistant: ..."
    ultrafeedback   an instruction with scored completions; or chosen and rejected lists of messages
    openassistant   messages with parent_id and rank, flat or as trees

A chat becomes a prompt and the answer to it; of two chats, which differ in their last answer alone, a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ppokit.data.formats import Table
from ppokit.plugin.chats import prompt_text
from ppokit.ratings.chats import ROLES, Chat, alternating, chat_of, pair_of_chats, transcript
from ppokit.ratings.form import Form, Record, Row, attempt, better_first, parsed_cell
from ppokit.ratings.records import RatingColumns


class Arena(Form):
    """Two models' chats with one person, who says which one is better."""

    question = "winner"

    def __init__(self, table: Table, columns: RatingColumns) -> None:
        super().__init__(table, columns)
        self.expect(
            ("conversation_a", "conversation_b", "winner"),
            ("prompt", "response_a", "response_b", "winner"),
            ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        )

    def read(self, row: Row, left_out: Counter[str]) -> list[Record]:
        if self.has("winner"):
            winner = str(row["winner"]).strip()
        else:
            won = [str(row[f"winner_model_{side}"]) in ("1", "1.0", "True", "true") for side in "ab"]
            winner = "model_a" if won[0] else "model_b" if won[1] else "tie"
        who = self.rater(row, "judge", "judge_hash")
        what = self.item(row, "question_id", "id")
        if self.has("conversation_a"):
            chats = [chat_of(row[f"conversation_{side}"]) for side in "ab"]
        else:
            chats = [alternating(row["prompt"], row[f"response_{side}"]) for side in "ab"]
        two = better_first(chats, winner, self.question, left_out)
        return pair_of_chats(*two, who, what, left_out) if two is not None else []


class HelpfulHarmless(Form):
    """Two transcripts a row."""

    question = "chosen"

    def __init__(self, table: Table, columns: RatingColumns) -> None:
        super().__init__(table, columns)
        self.expect(("chosen", "rejected"))

    def read(self, row: Row, left_out: Counter[str]) -> list[Record]:
        better, worse = (transcript(str(row[name])) for name in ("chosen", "rejected"))
        return pair_of_chats(better, worse, self.rater(row, "rater"), self.item(row, "item"), left_out)


class UltraFeedback(Form):
    """Scored by a model; `--column rating=fine-grained_score` names another of its scores."""

    def __init__(self, table: Table, columns: RatingColumns) -> None:
        super().__init__(table, columns)
        self.expect(("instruction", "completions"), ("chosen", "rejected"))
        self.pairs = not self.has("completions")
        self.question = "overall_score" if columns.rating == "rating" else columns.rating

    def read(self, row: Row, left_out: Counter[str]) -> list[Record]:
        who, what = self.rater(row, "rater"), self.item(row, "item", "prompt_id")
        if self.pairs:
            better, worse = (chat_of(row[name]) for name in ("chosen", "rejected"))
            return pair_of_chats(better, worse, who, what, left_out)
        records = []
        for completion in parsed_cell(row["completions"]) or []:
            if completion.get(self.question) is None:
                left_out["completions without a score"] += 1
            else:
                records.append(
                    [row["instruction"], completion["response"], completion[self.question], who, None]
                )
        return records


class OpenAssistant(Form):
    """People ranked the replies to a message; `--column rating=quality` reads a label of each reply."""

    def __init__(self, table: Table, columns: RatingColumns) -> None:
        super().__init__(table, columns)
        self.expect(("message_id", "parent_id", "text", "role"), ("message_tree_id", "prompt"))
        self.pairs = columns.rating == "rating"
        self.question = "rank" if self.pairs else columns.rating

    def rows(self, table: Table, left_out: Counter[str]) -> Iterator[tuple[int, list[Record] | str]]:
        messages: dict[str, tuple[int, dict[str, Any]]] = {}
        for number, cells in table.rows:
            row = dict(zip(table.header, cells, strict=True))
            own = attempt(partial(self._messages, row))
            if isinstance(own, str):
                yield number, own
            else:
                messages |= {name: (number, message) for name, message in own.items()}
        replies: dict[str, list[str]] = {}
        for name, (_, message) in messages.items():
            if message.get("parent_id") is not None and ROLES.get(message["role"]) != "user":
                replies.setdefault(message["parent_id"], []).append(name)
        for parent, names in replies.items():
            number = messages[names[0]][0]
            usable = [messages[name][1] for name in names if not messages[name][1].get("deleted")]
            left_out["deleted messages"] += len(names) - len(usable)
            yield number, attempt(partial(self._siblings, parent, usable, messages, left_out))

    def _messages(self, row: dict[str, Any]) -> dict[str, dict[str, Any]]:
        own = list(_messages_of_tree(row["prompt"], None)) if self.has("prompt") else [row]
        return {message["message_id"]: message | {"role": str(message["role"])} for message in own}

    def _siblings(
        self,
        parent: str,
        replies: Sequence[Mapping[str, Any]],
        messages: Mapping[str, tuple[int, Mapping[str, Any]]],
        left_out: Counter[str],
    ) -> list[Record]:
        chat: Chat = []
        above: str | None = parent
        while above is not None:
            if above not in messages:
                raise ValueError(f"the file has no message {above!r}, which one of its messages answers")
            message = messages[above][1]
            role = ROLES.get(message["role"], message["role"])
            chat.insert(0, {"role": role, "content": message["text"]})
            above = message.get("parent_id")
        prompt = prompt_text(chat)
        if not self.pairs:
            scored = [(reply["text"], _label(reply, self.question)) for reply in replies]
            left_out["messages without the label"] += sum(value is None for _, value in scored)
            return [[prompt, text, value, None, None] for text, value in scored if value is not None]
        ranked = sorted((r for r in replies if r.get("rank") is not None), key=lambda reply: reply["rank"])
        left_out["replies without a rank"] += len(replies) - len(ranked)
        return [
            [prompt, better["text"], worse["text"], None, parent]
            for position, better in enumerate(ranked)
            for worse in ranked[position + 1 :]
            if better["rank"] < worse["rank"]
        ]


def _messages_of_tree(message: Any, parent: str | None) -> Iterator[dict[str, Any]]:
    stack = [(parsed_cell(message), parent)]
    while stack:
        own, above = stack.pop()
        yield {**own, "parent_id": above}
        stack += [(reply, own["message_id"]) for reply in reversed(own.get("replies") or [])]


def _label(message: Mapping[str, Any], name: str) -> Any:
    labels = parsed_cell(message.get("labels")) or {}
    if isinstance(labels.get("name"), list):  # as the data set's Parquet has it
        return dict(zip(labels["name"], labels["value"], strict=True)).get(name)
    own = labels.get(name)
    return own.get("value") if isinstance(own, dict) else own
