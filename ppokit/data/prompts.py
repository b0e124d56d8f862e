"""From a data set to the prompts of each step.

Which prompts per step takes depends on the seed and the step alone, so that a resumed run goes on as if
it had never stopped.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ppokit.data.columns import check_csv
from ppokit.errors import DataError, first_line
from ppokit.plugin.types import PromptBatch
from ppokit.seeds import seed_from

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}


def read_rows(path: str, split: str, *, key: str = "prompts.path") -> list[dict[str, Any]]:
    """Every row of a local file (JSON lines, CSV, Parquet, text) or of a hub data set.

    Args:
        key: how errors name the path.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    import datasets

    local = Path(path).expanduser()
    datasets.disable_progress_bars()
    try:
        if local.is_file():
            reader = _READERS.get(local.suffix.lower())
            if reader is None:
                raise DataError(
                    f"{key}: {path} ends in {local.suffix or 'nothing'}; expected one of "
                    f"{', '.join(_READERS)}."
                )
            if local.suffix.lower() == ".jsonl":
                # Read by hand: rows may differ in their columns, and a bad line is named.
                return _json_lines(local, key)
            cells: dict[str, Any] = {}
            if reader == "csv":
                _check_csv(local, key)
                # Only an empty cell is missing: pandas would also drop texts such as "NA" and "None", and
                # take the first column as names of rows where lines end in a comma.
                cells = {"keep_default_na": False, "na_values": [""], "index_col": False}
            data = datasets.load_dataset(reader, data_files=str(local), split="train", **cells)
        else:
            data = datasets.load_dataset(path, split=split)
        rows = [dict(row) for row in data]
    except DataError:
        raise
    except Exception as error:  # datasets raises a dozen types, from many libraries
        first = first_line(error.__cause__ or error)
        raise DataError(f"{key}: {path} cannot be read: {first}") from error
    if local.suffix.lower() == ".txt":
        rows = [row for row in rows if row["text"].strip()]
    if not rows:
        raise DataError(f"{key}: {path} has no rows; expected at least one prompt.")
    return rows


def _check_csv(path: Path, key: str) -> None:
    try:
        check_csv(path)
    except DataError as error:
        raise DataError(f"{key}: {error}.") from error


def _json_lines(path: Path, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{key}: {path} line {number} is not JSON: {error.msg}.") from error
            if not isinstance(row, dict):
                raise DataError(f"{key}: {path} line {number} is no JSON object.")
            rows.append(row)
    if not rows:
        raise DataError(f"{key}: {path} has no rows; expected at least one prompt.")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key) for key in columns} for row in rows]


def distinct(rows: Sequence[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """The first row of each prompt."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(str(row.get(column)), row)
    return list(first.values())


def encode_prompt(
    text: str, tokenizer: PreTrainedTokenizerBase, *, chat: bool, system: str | None = None
) -> list[int]:
    """Token ids of one prompt, through the chat template or as plain text."""
    if not chat:
        ids = list(tokenizer(text, verbose=False)["input_ids"])
        # Some tokenizers end every text; a prompt is there to be gone on with.
        if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
            ids.pop()
        return ids
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": text})
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"])


class Prompts:
    """The prompts of a run.

    Args:
        rows: the data set.
        column: the prompt's column.
        tokenizer: of the policy.
        chat, system: whether prompts go through the chat template, and with which system message.
        context: the longest sequence that the model takes; None where it has no limit.
        max_new_tokens: room that a response needs.
        per_step: prompts per step.
        seed: of the order.

    Raises:
        DataError: a column is missing, a prompt is no text, is empty, or leaves no room for a response.
    """

    def __init__(
        self,
        rows: list[dict[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        column: str,
        chat: bool,
        system: str | None,
        context: int | None,
        max_new_tokens: int,
        per_step: int,
        seed: int,
    ) -> None:
        self.rows: list[Mapping[str, Any]] = list(rows)
        self.per_step = per_step
        self.seed = seed
        self._cached_order: tuple[int, torch.Tensor] | None = None
        if column not in rows[0]:
            raise DataError(f"prompts.column: {column!r}; the data set has {', '.join(map(repr, rows[0]))}.")
        if chat and not getattr(tokenizer, "chat_template", None):
            raise DataError(
                "prompts.chat: true, but the model's tokenizer has no chat template. Use chat: false, or an "
                "instruction-tuned model."
            )
        self.texts: list[str] = []
        self.ids: list[list[int]] = []
        for number, row in enumerate(rows, 1):
            text = row[column]
            if not isinstance(text, str):
                raise DataError(f"prompts.column: row {number} has {text!r} in {column!r}; expected text.")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"prompts.column: row {number} has half a character (a lone surrogate) in {text[:60]!a}; "
                    "expected text that can be written as UTF-8."
                ) from error
            ids = encode_prompt(text, tokenizer, chat=chat, system=system)
            if not ids:
                raise DataError(f"prompts: row {number} is an empty prompt; expected at least one token.")
            if context is not None and len(ids) + max_new_tokens > context:
                raise DataError(
                    f"prompts: row {number} has {len(ids)} tokens, and rollout.max_new_tokens asks for "
                    f"{max_new_tokens} more, but the model's context holds {context}. Shorten or drop the "
                    f"row, or lower max_new_tokens. It begins {text[:60]!r}."
                )
            self.texts.append(text)
            self.ids.append(ids)

    def step(self, step: int) -> PromptBatch:
        """The prompts of a step, from 0: the data set in a new order each epoch, none left out."""
        count = len(self.rows)
        first = step * self.per_step
        indices = []
        for place in range(first, first + self.per_step):
            epoch, offset = divmod(place, count)
            indices.append(int(self._order(epoch)[offset]))
        return self._batch(indices, 0)

    def resample(self, step: int, refill: int, count: int, used: Collection[int]) -> PromptBatch:
        """At most `count` other prompts for a step, drawn from those not `used` in it.

        Args:
            refill: which of the step's refills it is, from 1.
        """
        generator = torch.Generator().manual_seed(seed_from(self.seed, step, -refill, 0))
        order = torch.randperm(len(self.rows), generator=generator).tolist()
        return self._batch([index for index in order if index not in used][:count], refill)

    def _batch(self, indices: list[int], refill: int) -> PromptBatch:
        return PromptBatch(
            indices=indices,
            prompts=[self.texts[i] for i in indices],
            prompt_ids=[self.ids[i] for i in indices],
            rows=[self.rows[i] for i in indices],
            resample_round=refill,
        )

    def steps(self, first: int, last: int) -> Iterator[PromptBatch]:
        """The prompts of steps first to last - 1."""
        return (self.step(step) for step in range(first, last))

    def _order(self, epoch: int) -> torch.Tensor:
        if self._cached_order is None or self._cached_order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_from(self.seed, epoch))
            self._cached_order = (epoch, torch.randperm(len(self.rows), generator=generator))
        return self._cached_order[1]
