"""One step's samples, `rollouts/step-000001.parquet`, as columns; those that an older run lacks are empty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppokit.report.ragged import Floats, Ragged, ragged_of

TOKENS = (
    "token_rewards",
    "sampler_logprobs",
    "kl/k1",
    "advantages",
    "values",
    "new_values",
    "returns",
    "log_ratio",
    "entropy",
    "clipped",
)
"""Columns of numbers by token that the ledger shows."""

_LISTS = ("prompt_ids", "response_ids", "loss_mask", *TOKENS)
_SUMMED = (
    "id",
    "group",
    "response",
    "outcome",
    "score",
    "scored",
    "trained",
    "loss_mask",
    "token_rewards",
    "kl/k1",
    "log_ratio",
)
_ALWAYS = (
    "id",
    "group",
    "prompt",
    "response",
    "outcome",
    "response_ids",
    "loss_mask",
    "sampler_logprobs",
    "advantages",
    "score",
    "scored",
    "trained",
    "token_rewards",
)
_BY_PROVIDER = ("reward/", "outcome/", "reason/", "seconds/", "part/", "note/")


@dataclass(frozen=True)
class Samples:
    """Responses of one step; B of them.

    Attributes:
        score: [B] weighted sum of sequence scores; NaN where there was none.
        total: [B] the whole reward, token rewards summed; NaN likewise.
        length: [B] tokens that the policy wrote.
        kl: [B] sum over tokens of log-probability before the update less the reference's; NaN for none.
        change: [B] sum over tokens of log-probability in the last pass less that before it; NaN for none.
        rewards: raw scores by provider; NaN where it did not score.
        reward_outcomes, reasons, notes: texts by provider, or by note, one per response.
        seconds: of the call that gave an outcome, by provider; NaN where it is unknown.
        parts: named parts of rewards.
        absent: columns that the file lacks and every run of this version writes.
        keys: equal for equal texts of responses.
        asked_in: `training`, or the evaluation that asked for these responses.
        tokens: what was read of `TOKENS`, and `response_ids`, `loss_mask`; empty unless asked for.
    """

    step: int
    ids: list[str]
    groups: list[int]
    outcomes: list[str]
    score: Floats
    total: Floats
    length: Floats
    kl: Floats
    change: Floats
    trained: NDArray[np.bool_]
    rewards: dict[str, Floats]
    reward_outcomes: dict[str, list[str]]
    reasons: dict[str, list[str]]
    seconds: dict[str, Floats]
    parts: dict[str, Floats]
    notes: dict[str, list[str]]
    absent: list[str]
    keys: list[int]
    asked_in: str = "training"
    prompts: list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    tokens: dict[str, Ragged] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def unscored(self, reward: str) -> Iterator[tuple[int, str]]:
        """Rows for which a reward failed or abstained, and which; where the response failed none is asked."""
        for row, (own, response) in enumerate(zip(self.reward_outcomes[reward], self.outcomes, strict=True)):
            if own in ("failed", "abstained") and response != "failed":
                yield row, own


def read_step(path: Path, step: int, rows: Sequence[int] | None = None) -> Samples:
    """The samples of a step; texts and tokens of those of its rows that are wanted.

    Raises:
        Exception: of pyarrow, where the file is damaged.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        summed = [name for name in names if name in _SUMMED or name.startswith(_BY_PROVIDER)]
        if "loss_mask" not in names and "response_ids" in names:
            summed.append("response_ids")
        if "group" not in names and "prompt" in names:
            summed.append("prompt")
        table = file.read(columns=names if rows is not None else summed)
    return _samples(table, names, step, rows)


def read_outcomes(path: Path, step: int) -> Samples:
    """Outcomes of rewards with their reasons and seconds alone; every other number is NaN.

    Raises:
        Exception: of pyarrow, where the file is damaged.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        return _samples(file.read(columns=list(filter(_is_outcome, names))), names, step, None)


def read_evaluation(path: Path, step: int) -> list[Samples]:
    """Likewise of an evaluation, `evaluation/step-000010.parquet`, by evaluator.

    Raises:
        Exception: of pyarrow, where the file is damaged.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        table = file.read(columns=["evaluator", *filter(_is_outcome, names)])
    rows: dict[str, list[int]] = {}
    for row, evaluator in enumerate(table["evaluator"].to_pylist()):
        rows.setdefault(f"evaluation {evaluator}", []).append(row)
    parts = {name: _samples(table.take(own), names, step, None) for name, own in rows.items()}
    return [replace(part, asked_in=name) for name, part in parts.items()]


def _is_outcome(name: str) -> bool:
    return name in ("id", "outcome") or name.startswith(("outcome/", "reason/", "seconds/"))


def _samples(table: Any, names: Sequence[str], step: int, rows: Sequence[int] | None) -> Samples:
    """From what was read of a file, and the names of all of its columns."""
    if rows is not None:
        table = table.take(list(rows))
    columns = {name: table[name] for name in table.column_names}
    count = table.num_rows
    lists = {name: ragged_of(columns[name]) for name in _LISTS if name in columns}
    mask = lists.get("loss_mask")
    written = mask.sums() if mask is not None else _lengths(lists, count)
    prompts, responses = (
        [str(each or "") for each in _list(columns, name, count, "")] for name in ("prompt", "response")
    )
    groups = _list(columns, "group", count, None) if "group" in columns else list(map(hash, prompts))
    scored = np.array(_flags(columns, "scored", count, default=True))
    total = lists["token_rewards"].sums() if "token_rewards" in lists else np.full(count, np.nan)
    return Samples(
        step=step,
        ids=[str(each) for each in _list(columns, "id", count, None)]
        if "id" in columns
        else [f"{step:06d}-{i:04d}" for i in range(count)],
        groups=[-1 if each is None else int(each) for each in groups],
        outcomes=[str(each or "") for each in _list(columns, "outcome", count, "")],
        score=np.where(scored, _numbers(columns, "score", count), np.nan),
        total=np.where(scored, total, np.nan),
        length=written,
        kl=_sums(lists, "kl/k1", mask, count),
        change=_sums(lists, "log_ratio", mask, count),
        trained=np.array(_flags(columns, "trained", count, default=True)),
        rewards={name: _numbers(columns, f"reward/{name}", count) for name in _after("reward/", columns)},
        reward_outcomes=_texts("outcome/", columns, count),
        reasons=_texts("reason/", columns, count),
        seconds={name: _numbers(columns, f"seconds/{name}", count) for name in _after("seconds/", columns)},
        absent=_absent(names),
        keys=[hash(each) for each in responses],
        parts={name: _numbers(columns, f"part/{name}", count) for name in _after("part/", columns)},
        notes=_texts("note/", columns, count),
        prompts=prompts if rows is not None else [],
        responses=responses if rows is not None else [],
        tokens=lists if rows is not None else {},
    )


def _absent(names: Sequence[str]) -> list[str]:
    absent = [name for name in _ALWAYS if name not in names]
    if any(
        name.startswith("reward/") and name.replace("reward/", "outcome/", 1) not in names for name in names
    ):
        absent.append("outcome/<reward>")
    return absent


def _after(prefix: str, columns: Mapping[str, Any]) -> list[str]:
    return [name.removeprefix(prefix) for name in columns if name.startswith(prefix)]


def _list(columns: Mapping[str, Any], name: str, count: int, default: Any) -> list[Any]:
    return list(columns[name].to_pylist()) if name in columns else [default] * count


def _texts(prefix: str, columns: Mapping[str, Any], count: int) -> dict[str, list[str]]:
    return {
        name: [str(each or "") for each in _list(columns, prefix + name, count, "")]
        for name in _after(prefix, columns)
    }


def _flags(columns: Mapping[str, Any], name: str, count: int, *, default: bool) -> list[bool]:
    return [default if each is None else bool(each) for each in _list(columns, name, count, None)]


def _numbers(columns: Mapping[str, Any], name: str, count: int) -> Floats:
    """[B]; NaN where there is none."""
    numbers = [np.nan if each is None else float(each) for each in _list(columns, name, count, None)]
    return np.array(numbers, dtype=np.float64)


def _sums(lists: Mapping[str, Ragged], name: str, mask: Ragged | None, count: int) -> Floats:
    """[B]; NaN for a response that has no such numbers."""
    if name not in lists:
        return np.full(count, np.nan)
    return np.where(lists[name].lengths > 0, lists[name].sums(mask), np.nan)


def _lengths(lists: Mapping[str, Ragged], count: int) -> Floats:
    for name in ("response_ids", *TOKENS):
        if name in lists:
            return lists[name].lengths.astype(np.float64)
    return np.full(count, np.nan)
