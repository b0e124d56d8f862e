"""What a policy has gained on held-out prompts: by its reward, and by a gold reward model.

    gain_m = mean_p (s_m(trained, p) - s_m(untrained, p)) / sd_m,    agreed = gain_gold / gain_reward

s_m(policy, p): mean score by model m of a policy's responses to prompt p, both policies drawn by the same
random numbers. sd_m: standard deviation of m's scores of the untrained policy's responses, since models that
are less sure give smaller scores.

Gao et al. 2023, arXiv:2210.10760: what a policy gains in the reward that it is trained on exceeds what it
gains in a gold reward model. Differs: the gold model is not the larger model that gave the ratings, but one
of the same kind, fitted to other raters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppokit.config.recipe import Recipe
from ppokit.data.tables import load_table
from ppokit.errors import DataError
from ppokit.plugin.chats import read_chat
from ppokit.ratings.agreement import Estimate
from ppokit.ratings.splitting import same_prompt
from ppokit.reward_models import quality as measures
from ppokit.reward_models.saved import Scorer
from ppokit.rollout.load_policy import load_policy
from ppokit.run.run_dir import RunDir

if TYPE_CHECKING:
    from ppokit.ratings.arrays import Floats


AT_ONCE = 16  # prompts that are answered together
SHARED = (
    "The two were not fitted to different halves of the raters (--half a, --half b): they may share errors."
)


@dataclass(frozen=True)
class Side:
    """One reward model's view.

    Attributes:
        model: its folder.
        before, after: mean scores of the untrained and of the trained policy's responses.
        std: standard deviation of the former.
        gain: from before to after, in standard deviations.
    """

    model: str
    before: float
    after: float
    std: float
    gain: Estimate


@dataclass(frozen=True)
class Gain:
    """What a run brought on prompts that it was not trained on.

    Attributes:
        reward, gold: by the reward that the run was trained with, and by the gold reward model.
        agreed: gain by the latter over that by the former; None where the former is not certain.
        kl_token, kl_response: KL of the trained policy from the untrained one in nats (k1), per token of its
            responses and per response.
        length_before, length_after: mean tokens of a response.
        notes: what a person should be told.
    """

    run: str
    prompts: int
    responses: int
    reward: Side
    gold: Side
    agreed: Estimate | None
    kl_token: float
    kl_response: float
    length_before: float
    length_after: float
    notes: list[str]


def held_out_prompts(
    recipe: Recipe, path: str, column: str, limit: int | None = None
) -> tuple[list[str], list[str]]:
    """Different prompts of a file that the run was not trained on, and what a person should be told.

    Raises:
        DataError: a file cannot be read, or fewer than two prompts are left.
    """
    trained_on = recipe.settings.prompts
    chat = trained_on.chat
    known = set(map(same_prompt, _column(trained_on.path, trained_on.split, trained_on.column, chat)))
    try:
        texts = _column(path, None, column, chat)
    except DataError as error:
        raise DataError(f"--prompts: {error}") from error
    asked = list({same_prompt(text): text for text in reversed(texts)}.values())[::-1]
    kept = [prompt for prompt in asked if same_prompt(prompt) not in known]
    left_out = len(asked) - len(kept)
    if len(kept) < 2:
        raise DataError(
            f"--prompts {path}: the run was trained on {left_out} of its {len(asked)} prompts; expected at "
            "least two others."
        )
    notes = [f"prompts left out, since the run was trained on them: {left_out:,}"] if left_out else []
    return kept[:limit], notes


def _column(path: str, split: str | None, column: str, chat: bool) -> list[str]:
    """The prompts in a column of a file or data set, blanks left out."""
    table = load_table(path, split, {column})
    index = table.index(column)
    prompts = []
    for number, cells in table.rows:
        try:
            prompts += [read_chat(cells[index]) if chat else str(cells[index])] if cells[index] else []
        except ValueError as error:
            raise DataError(f"{path} row {number}: {error}") from error
    return prompts


def measure_gain(
    run: Path,
    recipe: Recipe,
    prompts: Sequence[str],
    rewards: tuple[Path, Path],
    *,
    responses: int,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Gain:
    """Let the untrained and the trained policy answer, and both rewards judge.

    Args:
        run: folder of the run; recipe: its own.
        rewards: folders of `ppokit reward fit`: the one that the run was trained with, and the gold one.
        responses: to each prompt, by each policy.
        advance: told of the prompts that were answered by one policy.

    Raises:
        ModelError: a model cannot be loaded.
        DataError: a reward gives every response the same score.
    """
    scorers = [Scorer(folder) for folder in rewards]
    longest = RunDir(run).longest_text()
    base, trained = (load_policy(recipe, folder, longest) for folder in (None, run / "policy"))
    before, after = [], []
    kl: list[float] = []
    for start in range(0, len(prompts), AT_ONCE):
        some = prompts[start : start + AT_ONCE]
        before.append(base.generate(some, n=responses, seed=seed, step=start + 1))
        advance(len(some))
        after.append(trained.generate(some, n=responses, seed=seed, step=start + 1))
        # k1 of each response: the sum over its tokens of log p_trained - log p_base.
        kl += (trained.logprobs(after[-1]) - base.logprobs(after[-1])).sum(dim=1).tolist()
        advance(len(some))
    base.generator.close()
    trained.generator.close()
    asked = [prompt for prompt in prompts for _ in range(responses)]
    texts = [[text for part in parts for text in part.responses] for parts in (before, after)]
    lengths = [[n for part in parts for n in part.lengths.tolist()] for parts in (before, after)]
    sides, moved = [], []
    for folder, scorer in zip(rewards, scorers, strict=True):
        old, new = (scorer.score(asked, answers).mean(axis=1) for answers in texts)
        side, differences = _side(str(folder), old, new, prompts, seed)
        sides.append(side)
        moved.append(differences)
    low = sides[0].gain.low
    certain = low is not None and low > 0
    return Gain(
        run=str(run),
        prompts=len(prompts),
        responses=responses,
        reward=sides[0],
        gold=sides[1],
        agreed=measures.ratio(moved[1], moved[0], prompts, seed=seed) if certain else None,
        kl_token=sum(kl) / sum(lengths[1]),
        kl_response=sum(kl) / len(kl),
        length_before=float(np.mean(lengths[0])),
        length_after=float(np.mean(lengths[1])),
        notes=[] if _two_halves(*map(_fitted_to, rewards)) else [SHARED],
    )


def _side(
    model: str, before: Floats, after: Floats, prompts: Sequence[str], seed: int
) -> tuple[Side, Floats]:
    """One model's view, and each prompt's gain in standard deviations.

    Args:
        before, after: scores, prompt by prompt. [prompts * responses]
    """
    std = float(before.std(ddof=1))
    if std == 0:
        raise DataError(f"{model} gives every response the same score; there is no gain to measure.")
    differences = (after - before).reshape(len(prompts), -1).mean(axis=1) / std
    gain = measures.mean(differences, prompts, seed=seed)
    return Side(model, float(before.mean()), float(after.mean()), std, gain), differences


def _fitted_to(folder: Path) -> tuple[Any, Any]:
    """The file that a model was fitted to, and which half of its raters, by its report."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return report["source"], report["settings"]["half"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def _two_halves(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether no rater had a part in both: raters of two files may be the same people."""
    return one[0] is not None and one[0] == other[0] and {one[1], other[1]} == {"a", "b"}
