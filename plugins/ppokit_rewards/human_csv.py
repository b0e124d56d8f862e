"""People's ratings from a file as a reward, in one of four ways.

    exact    the mean rating of this response to this prompt; abstains where it was not rated
    nearest  sum_i w_i y_i / sum_i w_i over the k rated responses nearest to it, w_i = s_i - floor,
             s_i the cosine of the embeddings; abstains where none is above the floor
    fit      the score of heads on an encoder that are fitted to the file when the run begins
    model    the score of a reward model that `ppokit reward fit` fitted to ratings

`fit` is `ppokit reward fit` without its folder and its curve: the same file gives the same heads. Its metric
`held_out` is what that command reports of the file's test part: Spearman's rank correlation, or the share of
choices that the heads make as people did.

`nearest` looks among the rated responses to the same prompt; with `prompt_floor`, to a prompt without rated
responses it looks among those to prompts at least so similar. Nadaraya 1964 and Watson 1964, with a
triangular kernel in the cosine, limited to the k nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    DataError,
    Mean,
    Metric,
    ModelError,
    Options,
    PluginError,
    RewardOutput,
    Rollout,
    hookimpl,
)
from ppokit.ratings.table import OnBadRow, RatingColumns, mean_ratings, read_for_fit, read_for_run
from ppokit.reward_models.artifact import need_settings
from ppokit_rewards.encoder import Encoder, encoder_problems
from ppokit_rewards.reward_model import RewardModel
from ppokit_rewards.reward_model_options import RewardModelOptions

if TYPE_CHECKING:
    from torch import Tensor


def human_csv(similarities: Tensor, ratings: Tensor, *, k: int, floor: float) -> Tensor:
    """Similarity-weighted rating of each response.

    Args:
        similarities: [B,N] cosine to each rated response; -inf where it does not count.
        ratings: [N].
        k: how many of the most similar count at most.
        floor: similarity from which on one counts at all.

    Returns: [B] float32; NaN where none counts.
    """
    best, indices = similarities.topk(min(k, similarities.shape[1]), dim=1)
    weights = (best - floor).clamp(min=0)
    return (weights * ratings[indices]).sum(dim=1) / weights.sum(dim=1)


class HumanCSVOptions(Options):
    path: str | None = Field(None, description="File of ratings, for all but model; for fit, of choices too.")
    match: Literal["exact", "nearest", "fit", "model"] = Field(
        "exact", description="How a response comes by a rating."
    )
    columns: RatingColumns = Field(
        default_factory=RatingColumns, description="Which column of the file holds what."
    )
    on_bad_row: OnBadRow = Field("fail", description="What to do about rows that cannot be read.")
    encoder: str | None = Field(
        None,
        description="For fit and nearest: an encoder's hub id, folder, or package:DISTRIBUTION/FOLDER. Not "
        "set, for nearest: the base's hidden states.",
    )
    half: Literal["a", "b"] | None = Field(
        None, description="For fit: half of the raters, so that the other half can judge."
    )
    k: int = Field(5, gt=0, description="For nearest: how many rated responses count at most.")
    floor: float = Field(
        0.5, ge=-1, lt=1, description="For nearest: cosine above which a rated response counts."
    )
    prompt_floor: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="For nearest: where a prompt has no ratings, those of prompts at least so similar count.",
    )
    model: str | None = Field(None, description="For model: a folder that `ppokit reward fit` wrote.")

    @model_validator(mode="after")
    def _complete(self) -> HumanCSVOptions:
        if self.match == "model" and self.model is None:
            raise ValueError("match: model needs model: the folder that ppokit reward fit wrote")
        if self.match != "model" and self.path is None:
            raise ValueError(f"match: {self.match} needs path: a file of ratings")
        if self.match == "fit" and self.encoder is None:
            raise ValueError("match: fit needs encoder: what the heads are fitted on")
        if self.match != "fit" and self.half is not None:
            raise ValueError(f"half does nothing with match: {self.match}; leave it out, or use match: fit")
        return self


class Exact:
    """The mean rating of a recorded response."""

    def __init__(self, options: HumanCSVOptions, context: BuildContext) -> None:
        self.means = rated_responses(options)

    def score(self, rollout: Rollout) -> RewardOutput:
        pairs = zip(rollout.prompts, rollout.responses, strict=True)
        values = [self.means.get(pair) for pair in pairs]
        return RewardOutput.from_values(values, {"coverage": _share(values)})


class Nearest:
    """Ratings of the rated responses that are most like a response."""

    def __init__(self, options: HumanCSVOptions, context: BuildContext) -> None:
        import torch

        self.options = options
        self.embed: Callable[[Sequence[str]], Tensor]
        if options.encoder is not None:
            self.embed = Encoder(options.encoder, context.device)
        elif context.base is not None:
            self.embed = context.base.embed
        else:
            raise PluginError(
                "human_csv: match: nearest has no base model here, as no reward that is asked beside the "
                "policy's own passes has one; name an encoder, or leave out timeout, retries, concurrency, "
                "rate_limit and overlap."
            )
        means = rated_responses(options)
        self.prompts = [prompt for prompt, _ in means]
        self.responses = [response for _, response in means]
        self.ratings = torch.tensor(list(means.values()))
        self._rated: Tensor | None = None
        self._known_prompts: dict[str, int] = {}
        for prompt in self.prompts:
            self._known_prompts.setdefault(prompt, len(self._known_prompts))
        self._prompt_of = torch.tensor([self._known_prompts[prompt] for prompt in self.prompts])
        self._prompt_vectors: Tensor | None = None

    def score(self, rollout: Rollout) -> RewardOutput:
        import torch

        if self._rated is None:
            self._rated = self.embed(self.responses)
        similarities = self.embed(rollout.responses) @ self._rated.T
        allowed = self._allowed(rollout.prompts)
        similarities = similarities.where(allowed[:, self._prompt_of], torch.tensor(-torch.inf))
        scores = human_csv(similarities, self.ratings, k=self.options.k, floor=self.options.floor)
        values = [None if number != number else number for number in scores.tolist()]
        metrics: dict[str, Metric] = {"coverage": _share(values)}
        best = similarities.amax(dim=1)
        compared = best[best.isfinite()]
        if len(compared):
            metrics["similarity"] = Mean(float(compared.mean()), len(compared))
        return RewardOutput.from_values(values, metrics)

    def _allowed(self, prompts: Sequence[str]) -> Tensor:
        """[B, rated prompts] bool: whose ratings may count for each response."""
        import torch

        allowed = torch.zeros(len(prompts), len(self._known_prompts), dtype=torch.bool)
        unknown = []
        for row, prompt in enumerate(prompts):
            if prompt in self._known_prompts:
                allowed[row, self._known_prompts[prompt]] = True
            else:
                unknown.append(row)
        if unknown and self.options.prompt_floor is not None:
            if self._prompt_vectors is None:
                self._prompt_vectors = self.embed(list(self._known_prompts))
            near = self.embed([prompts[row] for row in unknown]) @ self._prompt_vectors.T
            allowed[unknown] = near >= self.options.prompt_floor
        return allowed


class Fitted(RewardModel):
    """The score of a model that was fitted to ratings, which every response has."""

    held_out: float | None = None

    def score(self, rollout: Rollout) -> RewardOutput:
        output = super().score(rollout)
        known = {} if self.held_out is None else {"held_out": self.held_out}
        return replace(output, metrics={**output.metrics, "coverage": 1.0, **known})


class _Unheard:
    """Listens to a fit and says nothing."""

    def on_start(self, tokens: int) -> None: ...

    def on_advance(self, tokens: int) -> None: ...

    def on_fit(self, number: int, count: int, samples: int) -> None: ...

    def on_fitted(self, history: Sequence[Any], seconds: float) -> None: ...


def fitted(options: HumanCSVOptions, context: BuildContext) -> Fitted:
    """Heads on the recipe's encoder, fitted to its file now.

    Raises:
        DataError: the ratings are too few, or a library is missing.
        ModelError: the encoder cannot be used.
    """
    import torch

    from ppokit.reward_models.fit import reward_fit
    from ppokit.reward_models.methods import FitOptions

    assert options.path is not None, "validated"
    assert options.encoder is not None, "validated"
    table = read_for_fit(options.path, options.columns, on_bad_row=options.on_bad_row)
    # What is drawn in fitting must not change what the run draws after it.
    with TemporaryDirectory() as folder, torch.random.fork_rng():
        out = Path(folder) / "reward"
        report = reward_fit(
            table, options.encoder, out, FitOptions(half=options.half, curve=False), _Unheard()
        )
        model = Fitted(RewardModelOptions.model_validate({"model": str(out)}), context)
    model.held_out = report.quality.main.value
    return model


def rated_responses(options: HumanCSVOptions) -> dict[tuple[str, str], float]:
    """Mean rating of each rated response to each prompt, in the file's order.

    Raises:
        DataError: the file cannot be read, or holds pairs.
    """
    assert options.path is not None, "validated"
    table = read_for_run(options.path, options.columns, on_bad_row=options.on_bad_row)
    if not table.ratings:
        raise DataError(
            f"{options.path} holds pairs, which are no ratings of single responses; fit a reward model to "
            "them with ppokit reward fit, and use match: model."
        )
    return mean_ratings(table)


def _share(values: Sequence[float | None]) -> float:
    return sum(value is not None for value in values) / max(1, len(values))


def _build(options: HumanCSVOptions, context: BuildContext) -> Exact | Nearest | Fitted:
    if options.match == "fit":
        return fitted(options, context)
    if options.match == "exact":
        return Exact(options, context)
    if options.match == "nearest":
        return Nearest(options, context)
    return Fitted(RewardModelOptions.model_validate({"model": options.model}), context)


def _check(options: HumanCSVOptions, context: CheckContext) -> Iterator[str]:
    if options.match == "model":
        folder = Path(str(options.model)).expanduser()
        if not folder.is_dir():
            yield f"model: there is no folder {options.model}; ppokit reward fit writes one"
            return
        try:
            need_settings(folder)
        except ModelError as error:
            yield f"model: {error}"
        return
    if options.encoder is not None:
        yield from encoder_problems(options.encoder)
    try:
        if options.match == "fit":
            read_for_fit(str(options.path), options.columns, on_bad_row=options.on_bad_row)
        else:
            rated_responses(options)
    except DataError as error:
        yield f"path: {error}"


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    return [
        Component(
            "human_csv",
            _build,
            options=HumanCSVOptions,
            check=_check,
            waivers={"names_examples": "the file of ratings decides what is better"},
        )
    ]
