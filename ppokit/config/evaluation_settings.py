"""The keys of the section `evaluation`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ppokit.config.prompt_settings import HeldOutPromptSettings
from ppokit.config.section import Name, Section, Text

GREEDY, SAMPLED, TEXTS = "greedy", "sampled", "texts"
"""Under which names every evaluation reports of its responses and of texts, beside those of evaluators."""


class TextSettings(Section):
    path: Text = Field(
        description="A .csv, .tsv, .jsonl, .json, .parquet or .txt file, or a data set on the hub."
    )
    column: Text = Field(default="text", description="Column that holds the texts.")
    split: Text | None = Field(
        default=None, description="Split of a data set of the hub; train, if not set. A file has none."
    )
    limit: int = Field(default=100, gt=0, description="Texts that are read, from the first.")

    @property
    def table(self) -> HeldOutPromptSettings:
        """The same as a data set of prompts is read."""
        return HeldOutPromptSettings(**dict(self))


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
    texts: TextSettings | None = Field(
        default=None,
        description="Texts that people wrote, of no prompt: how likely the policy finds them tells what it "
        "has unlearned of the language.",
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
    patience: int | None = Field(
        default=None,
        gt=0,
        description="Evaluations in a row without a better value of best after which the run ends.",
    )
