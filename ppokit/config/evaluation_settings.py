"""The keys of the section `evaluation`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ppokit.config.prompt_settings import HeldOutPromptSettings
from ppokit.config.section import Name, Section, Text


class EvaluatorSettings(Section):
    use: Text = Field(description="Evaluator.")
    name: Name | None = Field(default=None, description="Its name in metrics; the evaluator's, if not given.")


class EvaluationSettings(Section):
    every: int = Field(
        default=10,
        gt=0,
        description="Steps between evaluations; one is before any training, and one after the last step.",
    )
    prompts: HeldOutPromptSettings | None = Field(
        default=None,
        description="What the policy is asked, with the system message and chat template of prompts.",
    )
    evaluators: list[EvaluatorSettings] = Field(
        min_length=1, description="What is measured; each with its evaluator's own keys."
    )
    best: Text | None = Field(
        default=None,
        description="Metric, such as eval/rewards/mean, by which the best policy is kept in policy-best/.",
    )
    best_is: Literal["highest", "lowest"] = Field(
        default="highest", description="Which value of that metric is the best."
    )
