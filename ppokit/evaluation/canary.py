"""The canary: held-out ratings that tell whether a rising reward still means what people meant.

At an evaluation, recorded responses that people rated, and that nothing trains on, are scored as the run's
own are and read by the policy as it is. Two rank correlations with the ratings (Spearman's) are taken:

    canary/reward_spearman   of the training reward, token rewards such as a KL penalty included
    canary/policy_spearman   of the policy's mean log-probability of a response's tokens

The reward can only be right about responses that it ranks as people do, and a policy that games it comes
to prefer what people do not: Gao et al. 2023, arXiv:2210.10760, on overoptimisation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppokit.config.settings import CanarySettings, Settings
from ppokit.data.tables import warn_of_bad_rows
from ppokit.errors import DataError
from ppokit.plugin.masked import masked_mean
from ppokit.plugin.types import Rewards, Rollout
from ppokit.ratings.agreement import rank_correlation
from ppokit.ratings.table import mean_ratings, read_with_cells


@dataclass(frozen=True)
class HeldOut:
    """Rated responses.

    Attributes:
        prompts, responses: texts.
        ratings: the mean rating of each, [n].
        rows: of each, what the file has of the columns of the run's data.
        separator: what stands between a plain prompt and its response.
    """

    prompts: list[str]
    responses: list[str]
    ratings: Tensor
    rows: list[dict[str, Any]]
    separator: str


def read_held_out(
    settings: CanarySettings, prompts: Sequence[Mapping[str, Any]], prompt_column: str
) -> HeldOut:
    """The first `limit` rated responses of the file.

    Args:
        prompts: the run's data, whose columns the rewards know.
        prompt_column: the one that holds the prompt.

    Raises:
        DataError: the file cannot be read, has too few, or a cell is of another kind than the run's.
    """
    table, cells = read_with_cells(settings.path, settings.columns, on_bad_row=settings.on_bad_row)
    warn_of_bad_rows(table.source, table.bad_rows)
    rated = mean_ratings(table)
    keys = list(rated)[: settings.limit]
    means = [rated[key] for key in keys]
    if len(set(means)) < 2:
        raise DataError(
            f"canary.path: the first {len(keys)} rated responses of {settings.path} have "
            f"{len(set(means))} different ratings; expected at least two."
        )
    first: dict[tuple[str, str], int] = {}
    for rating in table.ratings:
        first.setdefault((rating.prompt, rating.response), rating.row)
    examples = {
        name: next((row[name] for row in prompts if row[name] is not None), None) for name in prompts[0]
    }

    def row_of(key: tuple[str, str]) -> dict[str, Any]:
        number = first[key]
        shared = {name: cell for name, cell in cells[number].items() if name in examples}
        row = {name: _like(cell, examples[name], name, number, settings) for name, cell in shared.items()}
        return {**row, prompt_column: key[0]}

    return HeldOut(
        prompts=[prompt for prompt, _ in keys],
        responses=[response for _, response in keys],
        ratings=torch.tensor(means),
        rows=[row_of(key) for key in keys],
        separator=settings.separator,
    )


def _like(cell: Any, example: Any, name: str, number: int, settings: CanarySettings) -> Any:
    """A cell of a CSV, which is text, as the kind of value that the run's data have in that column."""
    if not isinstance(cell, str) or isinstance(example, str | None):
        return cell
    if not cell.strip():
        return None
    try:
        if isinstance(example, bool):
            return {"true": True, "false": False}[cell.strip().lower()]
        return type(example)(cell) if isinstance(example, int | float) else json.loads(cell)
    except (ValueError, KeyError):
        raise DataError(
            f"canary.path: {settings.path} row {number} has {cell!r} in {name!r}, where the prompts have a "
            f"{type(example).__name__}, such as {example!r}; correct it, or drop the column."
        ) from None


class Canary:
    """Measures the correlations, and says when reward and ratings part ways.

    Args:
        held_out: what people rated.
        collect: them as a rollout, with log-probabilities and what the rewards need.
        score: rewards of a rollout, learning nothing from it.
    """

    def __init__(
        self,
        held_out: HeldOut,
        collect: Callable[[HeldOut], Rollout],
        score: Callable[[Rollout], Rewards],
        every: int = 1,
    ) -> None:
        self.every = every
        self.held_out = held_out
        self.collect = collect
        self.score = score

    def measure_if_due(self, step: int) -> dict[str, float]:
        """`measure` where so many steps are done; empty otherwise."""
        return {} if step % self.every else self.measure()

    def measure(self) -> dict[str, float]:
        """Both correlations now; one that cannot be taken is left out."""
        rollout = self.collect(self.held_out)
        assert rollout.old_logprobs is not None, "collected with logprobs"
        rewards = self.score(rollout)
        rows = zip(rollout.old_logprobs, rollout.loss_mask, strict=True)
        likely = torch.stack([masked_mean(numbers, mask) for numbers, mask in rows])
        totals = rewards.token_rewards.sum(dim=1)
        ratings = self.held_out.ratings
        found = {
            "canary/reward_spearman": _spearman(totals[rewards.scored], ratings[rewards.scored]),
            "canary/policy_spearman": _spearman(likely, ratings),
            "canary/scored": float(rewards.scored.float().mean()),
        }
        return {name: number for name, number in found.items() if not math.isnan(number)}

    def step_warnings(
        self, metrics: dict[str, float], read_metrics: Callable[[], Sequence[Mapping[str, Any]]]
    ) -> list[str]:
        """Warnings of a step, if any; `canary/warning` is set in its metrics where the canary has measured.

        Args:
            read_metrics: of the run's steps so far, whose first measure this one is compared with.
        """
        if "canary/scored" not in metrics:
            return []
        first = next((line for line in read_metrics() if "canary/scored" in line), metrics)
        warning = self.warning(first, metrics)
        metrics["canary/warning"] = float(warning is not None)
        return [] if warning is None else [warning]

    def warning(self, first: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
        """A sentence if the mean reward has risen since the first measure while a correlation fell.

        By more than its standard error, 1 / sqrt(n - 1), since noise falls too.

        Args:
            first, now: metrics of the steps, what `measure` gave and `reward/mean`.
        """
        error = 1 / math.sqrt(len(self.held_out.ratings) - 1)
        fallen = [
            f"{name} fell from {first[name]:.2f} to {now[name]:.2f}"
            for name in ("canary/reward_spearman", "canary/policy_spearman")
            if name in now and name in first and now[name] < first[name] - error
        ]
        before, mean = first["reward/mean"], now["reward/mean"]  # None or NaN where nothing was scored
        if not fallen or before is None or mean is None or not mean > before:
            return None
        return (
            f"the mean reward rose from {before:.3f} to {mean:.3f}, but on the "
            f"held-out ratings {' and '.join(fallen)}: the policy may be learning to please the reward, "
            "not people"
        )


def build_canary(
    settings: Settings,
    prompts: Sequence[Mapping[str, Any]],
    collect: Callable[[HeldOut], Rollout],
    score: Callable[[Rollout], Rewards],
) -> Canary | None:
    """The canary of a recipe, if it has one."""
    if settings.canary is None:
        return None
    held_out = read_held_out(settings.canary, prompts, settings.prompts.column)
    return Canary(held_out, collect, score, every=settings.canary.every)


def _spearman(x: Tensor, y: Tensor) -> float:
    return rank_correlation(x.double().numpy(), y.double().numpy())
