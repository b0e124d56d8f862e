"""Held-out ratings that tell whether a rising reward still means what people meant.

Recorded responses that people rated, and that nothing trains on, are scored as the run's own are and read by
the policy as it is. Two rank correlations with the ratings (Spearman's) are taken:

    reward_spearman   of the training reward, token rewards such as a KL penalty included
    policy_spearman   of the policy's mean log-probability of a response's tokens

The reward can only be right about responses that it ranks as people do, and a policy that games it comes
to prefer what people do not: Gao et al. 2023, arXiv:2210.10760, on overoptimisation. A warning is given where
the mean reward of training has risen since the first step while a correlation fell by more than its standard
error under no correlation, 1 / sqrt(n - 1) with its n responses, since noise falls too.

`std_error` of each is the jackknife's over responses; a response is recorded with its share of a correlation,
so that the change since step 0 has an interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ppokit.plugin import (
    CheckContext,
    Component,
    DataError,
    EvaluationView,
    Options,
    Rollout,
    hookimpl,
    jackknife_shares,
    masked_mean,
)
from ppokit.ratings.agreement import rank_correlation
from ppokit.ratings.table import (
    OnBadRow,
    RatingColumns,
    RatingTable,
    mean_ratings,
    read_with_cells,
    warn_of_skipped_rows,
)
from ppokit_evaluators.rewards import standard_error

if TYPE_CHECKING:
    from torch import Tensor

CORRELATIONS = ("reward_spearman", "policy_spearman")


class CanaryOptions(Options):
    path: str = Field(min_length=1, description="File of held-out ratings, on which nothing trains.")
    columns: RatingColumns = Field(
        default_factory=RatingColumns, description="Which of its columns holds what."
    )
    on_bad_row: OnBadRow = Field(default="fail", description="What to do about rows that cannot be read.")
    limit: int = Field(default=200, gt=1, description="Rated responses that are looked at, from the first.")
    separator: str = Field(
        default="",
        description="Text between a plain prompt and its response, such as a space; not for chats.",
    )


@dataclass(frozen=True)
class RatedResponses:
    """Rated responses.

    Attributes:
        prompts, responses: texts.
        ratings: the mean rating of each.
        rows: of each, what the file has of the columns of the run's data.
    """

    prompts: list[str]
    responses: list[str]
    ratings: list[float]
    rows: list[dict[str, Any]]


def rated_responses(
    options: CanaryOptions,
    table: RatingTable,
    cells: Mapping[int, Mapping[str, Any]],
    training_rows: Sequence[Mapping[str, Any]],
    prompt_column: str,
) -> RatedResponses:
    """The first `limit` rated responses of the file.

    Args:
        table, cells: the file's ratings, and its cells by row and column.
        training_rows: the run's data, whose columns the rewards know.
        prompt_column: the one that holds the prompt.

    Raises:
        DataError: the file has too few, or a cell is of another kind than the run's.
    """
    means = mean_ratings(table)
    keys = list(means)[: options.limit]
    ratings = [means[key] for key in keys]
    if len(set(ratings)) < 2:
        raise DataError(
            f"path: the first {len(keys)} rated responses of {options.path} have {len(set(ratings))} "
            "different ratings; expected at least two."
        )
    first: dict[tuple[str, str], int] = {}
    for rating in table.ratings:
        first.setdefault((rating.prompt, rating.response), rating.row)
    examples = {
        name: next((row[name] for row in training_rows if row[name] is not None), None)
        for name in training_rows[0]
    }

    def row_of(key: tuple[str, str]) -> dict[str, Any]:
        number = first[key]
        shared = {name: cell for name, cell in cells[number].items() if name in examples}
        row = {name: _like(cell, examples[name], name, number, options) for name, cell in shared.items()}
        return {**row, prompt_column: key[0]}

    return RatedResponses(
        prompts=[prompt for prompt, _ in keys],
        responses=[response for _, response in keys],
        ratings=ratings,
        rows=[row_of(key) for key in keys],
    )


def _like(cell: Any, example: Any, name: str, number: int, options: CanaryOptions) -> Any:
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
            f"path: {options.path} row {number} has {cell!r} in {name!r}, where the prompts have a "
            f"{type(example).__name__}, such as {example!r}; correct it, or drop the column."
        ) from None


class Canary:
    """Measures the correlations, and says when reward and ratings part ways.

    The mean reward is that of the newest step that is done; `first` holds the first measure, and the first
    step's mean reward.
    """

    def __init__(self, options: CanaryOptions) -> None:
        self.options = options
        path, columns, on_bad_row = options.path, options.columns, options.on_bad_row
        self._table, self._cells = read_with_cells(path, columns, on_bad_row=on_bad_row)
        warn_of_skipped_rows(self._table)
        self.first: dict[str, float] = {}
        self.mean_reward: float | None = None
        self._rated: RatedResponses | None = None

    def evaluate(self, view: EvaluationView, step: int) -> dict[str, float]:
        """Both correlations now, how sure they are and whether they warn; what has no number is left out."""
        import torch

        if self._rated is None:
            self._rated = rated_responses(
                self.options, self._table, self._cells, view.training_rows, view.prompt_column
            )
            if not self.first:  # a resumed run has said so
                self._warn_of_overlap(self._rated.prompts, view)
        rated = self._rated
        rollout = view.recorded(
            rated.prompts, rated.responses, separator=self.options.separator, rows=rated.rows
        )
        rewards = view.score(rollout)
        totals = rewards.token_rewards.sum(dim=1)
        ratings = totals.new_tensor(rated.ratings)
        logprobs = _mean_logprobs(rollout, view.logprobs(rollout))
        compared = {
            "reward_spearman": (totals, rewards.scored),
            "policy_spearman": (logprobs, torch.ones_like(rewards.scored)),
        }
        metrics = {"scored": float(rewards.scored.float().mean())}
        counts = {name: int(known.sum()) for name, (_, known) in compared.items()}
        shares: dict[str, list[float | None]] = {}
        for name, (numbers, known) in compared.items():
            rho = _spearman(numbers[known], ratings[known])
            if math.isnan(rho):
                continue
            metrics[name] = rho
            self.first.setdefault(name, rho)
            if by_response := _shares(rho, numbers, ratings, known.nonzero().flatten().tolist()):
                metrics[f"{name}/std_error"] = standard_error(list(by_response.values()))
                shares[name] = [by_response.get(i) for i in range(len(known))]
        # Correlations are of responses, whichever prompts they share.
        view.record(replace(rollout, group_ids=torch.arange(len(rollout))), shares)
        fallen = self.fallen(metrics, counts)
        if fallen:
            view.warn(self.warning(metrics, fallen))
        metrics |= {f"{name}/warning": float(name in fallen) for name in CORRELATIONS if name in metrics}
        return {**metrics, "warning": float(bool(fallen))}

    def _warn_of_overlap(self, prompts: Sequence[str], view: EvaluationView) -> None:
        training = [row[view.prompt_column] for row in view.training_rows]
        known = {prompt for prompt in training if isinstance(prompt, str)}
        if shared := [prompt for prompt in prompts if prompt in known]:
            view.warn(
                f"path: the prompts of {len(shared)} of the {len(prompts)} rated responses of "
                f"{self.options.path} are among the training prompts too, so that the correlations are too "
                f"kind; expected ratings of prompts that nothing trains on, such as 'ppokit ratings split' "
                f"keeps back. The first is {shared[0][:60]!r}"
            )

    @hookimpl
    def on_step(self, metrics: Mapping[str, float]) -> None:
        self.mean_reward = metrics.get("reward/mean")
        if self.mean_reward is not None and math.isfinite(self.mean_reward):
            self.first.setdefault("mean_reward", self.mean_reward)

    def fallen(self, now: Mapping[str, float], responses: Mapping[str, int]) -> list[str]:
        """Names of the correlations that fell while the mean reward rose.

        Args:
            now: the correlations of now.
            responses: by correlation, how many it is of.
        """
        mean, first_mean = self.mean_reward, self.first.get("mean_reward")
        if mean is None or first_mean is None or not mean > first_mean:
            return []
        known = [name for name in CORRELATIONS if name in now and name in self.first]
        return [name for name in known if now[name] < self.first[name] - 1 / math.sqrt(responses[name] - 1)]

    def warning(self, now: Mapping[str, float], fallen: Sequence[str]) -> str:
        """What to say of correlations that fell."""
        falls = [f"{name} fell from {self.first[name]:.2f} to {now[name]:.2f}" for name in fallen]
        rise = f"the mean reward rose from {self.first['mean_reward']:.3f} to {self.mean_reward:.3f}"
        return (
            f"{rise}, but on the held-out ratings {' and '.join(falls)}: the policy may be learning to "
            "please the reward, not people"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"first": dict(self.first), "mean_reward": self.mean_reward}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.first = dict(state["first"])
        self.mean_reward = state["mean_reward"]


def _mean_logprobs(rollout: Rollout, logprobs: Tensor) -> Tensor:
    """[B] mean log-probability of each response's tokens."""
    rows = zip(logprobs, rollout.loss_mask, strict=True)
    return logprobs.new_tensor([float(masked_mean(numbers, mask)) for numbers, mask in rows])


def _spearman(x: Tensor, y: Tensor) -> float:
    return rank_correlation(x.double().numpy(), y.double().numpy())


def _shares(rho: float, x: Tensor, y: Tensor, known: list[int]) -> dict[int, float]:
    """What each of the known responses adds to their correlation; none where one cannot be left out."""
    others = [[*known[:i], *known[i + 1 :]] for i in range(len(known))]
    left_out = [_spearman(x[own], y[own]) for own in others]
    if any(map(math.isnan, left_out)):
        return {}
    return dict(zip(known, jackknife_shares(rho, left_out), strict=True))


def check(options: CanaryOptions, context: CheckContext) -> Iterable[str]:
    if find_spec("scipy") is None:
        yield "its rank correlations need pip install 'ppokit[ratings]'"
    try:
        _, cells = read_with_cells(options.path, options.columns, on_bad_row=options.on_bad_row)
    except DataError as error:
        yield f"path: {error}"
        return
    yield from context.separator_in_chats(options.separator)
    if context.training_columns is not None:
        # What the rewards get of the file: the columns that they know of the prompts.
        header = next(iter(cells.values()))
        shared = [
            name for name in context.training_columns if name in header or name == context.prompt_column
        ]
        for sentence in context.check_rewards(shared):
            yield f"path: {options.path}: {sentence}"


@hookimpl
def ppokit_evaluators() -> list[Component]:
    return [Component("canary", lambda options, context: Canary(options), options=CanaryOptions, check=check)]
