"""Ratings and choices that people gave in crowd work and annotation tools.

mturk      results of a batch: Input.prompt, Input.response, Answer.rating, WorkerId
prodigy    `db-out`, JSON lines: `accept` of some `options`, or `answer` of a single response
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ppokit.data.formats import Table
from ppokit.messages import listed, shorten
from ppokit.ratings.form import Form, Record, Row, better_first, first_of, parsed_cell
from ppokit.ratings.records import RatingColumns


class MechanicalTurk(Form):
    """One assignment a row.

    An answer of radio buttons is a column each, `Answer.rating.4`, or JSON in `Answer.taskAnswers`.
    """

    def __init__(self, table: Table, columns: RatingColumns) -> None:
        super().__init__(table, columns)
        self.prompt, response = f"Input.{columns.prompt}", f"Input.{columns.response}"
        two = ("Input.response_1", "Input.response_2")
        self.expect((self.prompt, response), (self.prompt, *two))
        self.pairs = not self.has(response)
        self.fields = two if self.pairs else (response,)
        self.question = "preference" if self.pairs and columns.rating == "rating" else columns.rating

    def read(self, row: Row, left_out: Counter[str]) -> list[Record]:
        if str(row.get("AssignmentStatus")).lower() == "rejected":
            left_out["rejected assignments"] += 1
            return []
        answer = self._answer(row)
        if answer in (None, ""):
            left_out["rows without an answer"] += 1
            return []
        texts = [row[name] for name in self.fields]
        who, what = self.rater(row, "WorkerId"), self.item(row, "Input.item", "Input.id", "HITId")
        if not self.pairs:
            return [[row[self.prompt], *texts, answer, who, what]]
        two = better_first(texts, str(answer), self.question, left_out)
        return [[row[self.prompt], *two, who, what]] if two is not None else []

    def _answer(self, row: Row) -> Any:
        named = f"Answer.{self.question}"
        plain = first_of(row, named, f"{named}.label")
        if plain is not None:
            return plain
        chosen = {name.removeprefix(f"{named}."): row[name] for name in row if name.startswith(f"{named}.")}
        answers = row.get("Answer.taskAnswers")
        if not chosen and answers:
            (answers, *_) = parsed_cell(answers) or [{}]
            own = answers.get(self.question)
            if not isinstance(own, dict):
                return own
            if "label" in own:  # of crowd-classifier
                return own["label"]
            chosen = own
        true = [name for name, value in chosen.items() if str(value).lower() == "true"]
        if len(true) > 1:
            raise ValueError(f"{named} has {len(true)} choices, {listed(true)}; expected one")
        return true[0] if true else None


class Prodigy(Form):
    """Responses to choose from in `options`; or one `response` with a scale there or a verdict."""

    question = "accept"

    def __init__(self, table: Table, columns: RatingColumns) -> None:
        super().__init__(table, columns)
        self.expect(("options", "accept"), (columns.response, "answer"))
        self.pairs = not self.has(columns.response)

    def read(self, row: Row, left_out: Counter[str]) -> list[Record]:
        prompt = first_of(row, self.columns.prompt, "text")
        who = self.rater(row, "_annotator_id", "_session_id")
        what = self.item(row, "item", "id", "_input_hash")
        verdict, accepted = row.get("answer"), parsed_cell(row.get("accept")) or []
        if verdict == "ignore":
            left_out["ignored tasks"] += 1
            return []
        if not self.pairs and not row.get("options"):
            if verdict not in ("accept", "reject"):
                raise ValueError(f"answer is {shorten(repr(verdict))}; expected accept or reject")
            return [[prompt, row[self.columns.response], int(verdict == "accept"), who, what]]
        if verdict == "reject" or not accepted:
            left_out["rows without an answer"] += 1
            return []
        if len(accepted) > 1:
            raise ValueError(f"accept has {len(accepted)} choices; expected one")
        options = {str(option["id"]): option.get("text") for option in parsed_cell(row["options"])}
        choice = str(accepted[0])
        if choice not in options:
            raise ValueError(f"accept is {choice!r}; the options are {listed(map(repr, options))}")
        if not self.pairs:
            return [[prompt, row[self.columns.response], choice, who, what]]
        others = [text for name, text in options.items() if name != choice]
        return [[prompt, options[choice], text, who, what] for text in others]
