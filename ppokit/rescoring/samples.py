"""The responses that are scored anew: a run's saved samples, or texts from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ppokit.config import yaml_file
from ppokit.config.prompt_settings import PromptSettings
from ppokit.config.settings import RunSettings
from ppokit.data.prompt_rows import prompt_of
from ppokit.data.tables import read_table
from ppokit.errors import DataError, first_line
from ppokit.messages import shorten
from ppokit.plugin.chats import read_chat
from ppokit.plugin.types import Rollout
from ppokit.rollout.generate import pad

_COLUMNS = (
    *("outcome", "response_ids", "id", "group", "prompt", "response", "row", "prompt_ids", "loss_mask"),
    *("policy_version", "sampler_logprobs"),
)


@dataclass(frozen=True)
class Origin:
    """What rewards were told of the run, by its recipe.

    Attributes:
        prompts: of which column the prompts are, and whether they are chats; None outside a run.
        seed, steps: the run's.
    """

    prompts: PromptSettings | None = None
    seed: int = 0
    steps: int = 0

    @property
    def chat(self) -> bool:
        """Whether prompts went through the policy's chat template."""
        return self.prompts is not None and self.prompts.chat

    @classmethod
    def of_run(cls, folder: Path) -> Origin:
        """By the recipe in a run's folder, whose plugins need not be installed; that of no run without one.

        Raises:
            DataError: its sections are none that a run has written.
        """
        file = folder / "recipe.yaml"
        data = yaml_file.read(str(file)).data if file.is_file() else None
        if not data:
            return cls()
        try:
            run = RunSettings.model_validate(data.get("run"))
            return cls(PromptSettings.model_validate(data.get("prompts")), run.seed, run.steps)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise DataError(f"{file} is no recipe of a run: {key}: {first['msg'].lower()}") from error


@dataclass(frozen=True)
class Batch:
    """Responses that were scored together.

    Attributes:
        before: [B] float32, the whole rewards that they had, of tokens too; NaN where there was none.
        step: in which they were scored, from 1; 0 outside a run.
    """

    rollout: Rollout
    before: Tensor
    step: int = 0


def of_run(folder: Path, origin: Origin) -> Iterator[Batch]:
    """The samples of a run, step by step, their prompts as its rewards saw them.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    import pyarrow.parquet as pq

    files = sorted((folder / "rollouts").glob("step-*.parquet"))
    if not files:
        raise DataError(f"{folder} has no samples in rollouts/; expected the folder of a run")
    for file in files:
        try:
            columns = pq.read_table(file).to_pydict()
        except Exception as error:  # pyarrow has errors of its own, and of the system
            raise DataError(f"{file} cannot be read: {first_line(error)}") from error
        if missing := [name for name in _COLUMNS if name not in columns]:
            raise DataError(f"{file} has no column {missing[0]!r}; expected a file that a run has written")
        step = file.stem.removeprefix("step-")
        if not step.isdecimal():
            raise DataError(f"{file} has no step in its name; expected one such as step-000001.parquet")
        batch = _of_columns(columns, int(step), origin)
        if batch is not None:
            yield batch


def _of_columns(columns: dict[str, list[Any]], step: int, origin: Origin) -> Batch | None:
    """The responses of a file; None where all failed to be answered."""
    answered = [i for i, outcome in enumerate(columns["outcome"]) if outcome != "failed"]
    if not answered:
        return None
    of = {name: [values[i] for i in answered] for name, values in columns.items()}
    ids, mask = pad(of["response_ids"])
    scored = of.get("scored", [False] * len(answered))
    rows = [json.loads(row) for row in of["row"]]
    rollout = Rollout(
        ids=of["id"],
        group_ids=torch.tensor(of["group"]),
        prompts=[_chat(text, row, origin) for text, row in zip(of["prompt"], rows, strict=True)],
        responses=of["response"],
        rows=rows,
        prompt_ids=of["prompt_ids"],
        response_ids=ids,
        response_mask=mask,
        loss_mask=_padded(of["loss_mask"], mask).bool(),
        outcomes=of["outcome"],
        policy_version=torch.tensor(of["policy_version"]),
        sampler_logprobs=_padded(of["sampler_logprobs"], mask),
        prefill="" if origin.prompts is None else origin.prompts.prefill,
    )
    before = torch.full((len(answered),), float("nan"))
    for index in [index for index, ok in enumerate(scored) if ok]:
        tokens = of["token_rewards"][index]  # an empty response has none to stand on
        before[index] = sum(tokens) if tokens else of["score"][index]
    return Batch(rollout, before, step)


def _chat(text: str, row: Mapping[str, Any], origin: Origin) -> str:
    """A prompt with its messages, where it is a chat; else its text."""
    if origin.prompts is None or not origin.chat or origin.prompts.column not in row:
        return text
    try:
        return prompt_of(row, origin.prompts)
    except (ValueError, KeyError) as error:
        raise DataError(f"the prompt {shorten(text)!r} is no chat that a run has written: {error}") from error


def _padded(rows: Sequence[Sequence[float]], mask: Tensor) -> Tensor:
    numbers = torch.zeros(mask.shape)
    numbers[mask] = torch.tensor([number for row in rows for number in row], dtype=torch.float32)
    return numbers


def of_texts(path: Path, *, prompt: str = "prompt", response: str = "response") -> Batch:
    """Rows of a file; those with the same prompt are a group. Its column `score`, if any, is what they had.

    Args:
        prompt, response: names of its columns; without a prompt, each response is a group of its own.

    Raises:
        DataError: it has no responses, or cannot be read.
    """
    rows = read_table(path).records()
    if not rows or response not in rows[0]:
        raise DataError(
            f"{path} has no column {response!r}; expected one response per row, such as JSON lines"
        )
    texts = ["" if row[response] is None else str(row[response]) for row in rows]
    prompts = [_prompt(row.get(prompt), number, path) for number, row in enumerate(rows, 1)]
    numbers: dict[Any, int] = {}
    groups = [numbers.setdefault(p if prompt in rows[0] else i, len(numbers)) for i, p in enumerate(prompts)]
    # A token stands for a word: of texts alone, nobody knows the policy's.
    ids, mask = pad([list(range(3, 3 + max(1, len(text.split())))) for text in texts])
    count = len(rows)
    rollout = Rollout(
        ids=[str(row.get("id", f"row-{i + 1}")) for i, row in enumerate(rows)],
        group_ids=torch.tensor(groups),
        prompts=prompts,
        responses=texts,
        rows=[{k: v for k, v in row.items() if k not in (response, "score")} for row in rows],
        prompt_ids=[[1]] * count,
        response_ids=ids,
        response_mask=mask,
        loss_mask=mask.clone(),
        outcomes=["finished"] * count,
        policy_version=torch.zeros(count, dtype=torch.int64),
        sampler_logprobs=torch.zeros(mask.shape),
    )
    return Batch(rollout, torch.tensor([_number(row.get("score")) for row in rows]))


def _prompt(cell: Any, number: int, path: Path) -> str:
    """A text, or a chat, as for training."""
    try:
        return "" if cell is None else read_chat(cell if isinstance(cell, list | dict) else str(cell))
    except ValueError as error:
        raise DataError(f"{path}, row {number}: the prompt is no chat: {error}") from error


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
