"""What each reward adds to the whole reward of a response.

    part = weight * gate(clip(scale(score)))

The score is the reward's own, its token scores summed; the parts add up to the whole reward. Scaling depends
on other responses, and an imputed score on the prompt's: one such part of a response is the rest of the whole
reward. Where the parts do not add up, as of a recipe that was changed, none is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ppokit.report.ragged import Floats
from ppokit.report.run_data import RunData, section
from ppokit.report.step_file import Samples

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Rule:
    """What a recipe makes of a reward's score.

    Attributes:
        clip: lowest and highest score; None for no bounds.
        gate: the reward that opens it, above what score, and the score where it is shut; None for no gate.
    """

    weight: float
    is_scaled: bool
    is_imputed: bool
    clip: tuple[float, float] | None
    gate: tuple[str, float, float] | None

    @property
    def words(self) -> str:
        """What comes before the weight, by the recipe's keys."""
        keys = {"scale": self.is_scaled, "clip": self.clip is not None, "gate": self.gate is not None}
        return ", ".join(key for key, is_there in keys.items() if is_there)


def rules(run: RunData) -> dict[str, Rule]:
    """Of the recipe's rewards, by their names; of damaged ones none."""
    rewards = run.recipe.get("rewards")
    known = {}
    for reward in rewards if isinstance(rewards, list) else ():
        own = section({"reward": reward}, "reward")
        try:
            known[_name(own)] = _rule(own)
        except (TypeError, ValueError, KeyError):
            continue
    return known


def parts(samples: Samples, known: Mapping[str, Rule]) -> dict[str, Floats]:
    """[B] of each reward; NaN where it is not known."""
    names = list(samples.rewards)
    if not names or not set(names) <= known.keys():
        return {}
    own = np.stack([_part(samples, name, known[name]) for name in names])  # [rewards, B]
    unknown = np.isnan(own)
    rest = samples.total - np.nansum(own, axis=0)
    one = unknown.sum(axis=0) == 1
    own = np.where(unknown & one, rest, own)
    strange = ~unknown.any(axis=0) & ~(np.abs(rest) <= TOLERANCE * np.maximum(1.0, np.abs(samples.total)))
    own[:, strange] = np.nan
    return dict(zip(names, own, strict=True))


def _part(samples: Samples, name: str, rule: Rule) -> Floats:
    """[B]; NaN where it cannot be computed of the reward's own score."""
    score = samples.rewards[name]
    scored = np.isfinite(score)
    if rule.clip is not None:
        score = np.clip(score, *rule.clip)
    if rule.is_scaled:
        score = np.full(len(score), np.nan)
    if rule.gate is not None:
        opener, above, otherwise = rule.gate
        opened = samples.rewards.get(opener, np.full(len(score), np.nan)) > above  # not by NaN
        score = np.where(opened, score, otherwise)
    failed = np.array([each == "failed" for each in samples.reward_outcomes.get(name, [""] * len(score))])
    without = np.where(rule.is_imputed & failed, np.nan, 0.0)
    return np.where(scored, rule.weight * score, without) if rule.weight else np.zeros(len(score))


def _name(reward: Mapping[str, object]) -> str:
    """Its own, or that of its component, as in `use: name@distribution` and `use: module:name`."""
    component = str(reward["use"]).partition("@")[0].rpartition(":")
    return str(reward.get("name") or (component[2].rpartition(".")[2] if component[1] else component[2]))


def _rule(reward: Mapping[str, object]) -> Rule:
    clip, gate = reward.get("clip"), section(reward, "gate")
    return Rule(
        weight=_number(reward.get("weight", 1.0)),
        is_scaled=reward.get("scale", "none") != "none",
        is_imputed=reward.get("on_failure") == "impute",
        clip=(_number(clip[0]), _number(clip[1])) if isinstance(clip, list) else None,
        gate=(str(gate["reward"]), _number(gate.get("above", 0.0)), _number(gate.get("otherwise", 0.0)))
        if gate
        else None,
    )


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)
