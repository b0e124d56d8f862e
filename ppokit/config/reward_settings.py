"""A reward in a recipe: what is asked, how its calls run, and what becomes of its scores."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from ppokit.config.section import Name, Section, Text


class Gate(Section):
    reward: Name = Field(description="Name of the reward that opens it.")
    above: float = Field(default=0.0, description="Its own score above which it is open.")
    otherwise: float = Field(default=0.0, description="The score where it is shut, before the weight.")


class RewardSettings(Section):
    use: Text = Field(description="Reward provider.")
    name: Name | None = Field(default=None, description="Its name in metrics; the provider's, if not given.")
    weight: float = Field(default=1.0, description="Factor of its scores in the sum of rewards.")
    scale: Literal["none", "batch", "running", "reference"] = Field(
        default="none",
        description="Divide by the standard deviation of this batch, or of the run so far; or give the "
        "scores mean 0 and deviation 1 by those of the first step, before any training. Of responses' whole "
        "scores; token scores are divided by the same number.",
    )
    clip: tuple[float, float] | None = Field(
        default=None,
        description="Lowest and highest score, after scaling and before the weight; of each token score too, "
        "where a reward gives any, and then with 0 between them.",
    )
    gate: Gate | None = Field(
        default=None,
        description="Let it count only where another reward's own score is high enough.",
    )
    text: Literal["whole", "answer"] = Field(
        default="whole",
        description="What it sees of a response: all, or what stands behind the thinking part, which is "
        "nothing where the thinking does not end.",
    )
    thinking: tuple[Text, Text] | None = Field(
        default=None,
        description="What begins and what ends a thinking part, for text: answer. Not set: <think> and "
        "others that models have.",
    )
    parts: dict[Name, float] | None = Field(
        default=None,
        description="Weights of named parts, of a provider that gives any: the score is then their weighted "
        "sum, and parts that are not named here do not count. Not set: the provider's own score.",
    )
    timeout: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which a call has failed: of a response, where the provider is asked for "
        "one at a time, else of all that it is given.",
    )
    isolate: Literal["thread", "process"] | None = Field(
        default=None,
        description="Where calls run: in a thread, which cannot be stopped and is given up at a time-out, or "
        "in a process of its own, which is ended. Not set: with a timeout in a process, except coroutines, "
        "which are cancelled; without one wherever.",
    )
    retries: int = Field(
        default=0,
        ge=0,
        description="How many times more a response is asked for that failed, after 0.5 s, 1 s, 2 s and so "
        "on with jitter, or as long as the server says, up to 60 s.",
    )
    concurrency: int | None = Field(
        default=None,
        gt=0,
        description="Calls at once, of each process, among which a batch is divided. Not set: it is not "
        "divided, and of a coroutine that takes one response, or so many at most, 16 calls run at once "
        "(in a process of its own one), else 1.",
    )
    rate_limit: float | None = Field(
        default=None,
        gt=0,
        description="Calls that begin in a second at most, of all processes together; a call of judge may be "
        "several requests.",
    )
    overlap: bool = Field(
        default=False,
        description="Let its calls go on while the next step's prompts are answered. These are then answered "
        "by a policy that has not learned from this step, and every step after the first trains on responses "
        "that are one update old; the ratio to the policy that wrote them corrects for it.",
    )
    on_failure: Literal["fail", "drop", "impute"] = Field(
        default="drop",
        description="Where a response failed: stop the run; do not train on the response, within "
        "run.max_failed_rewards; or, within it too, give the mean score of the responses to the same prompt, "
        "or of the step where none of those was scored (of a reward of tokens alone, as drop).",
    )

    @property
    def beside_main_thread(self) -> bool:
        """Whether its calls run beside the main thread, whatever the provider is."""
        several = self.concurrency is not None and self.concurrency > 1
        limited = self.timeout is not None or self.rate_limit is not None
        return bool(limited or several or self.retries or self.overlap)

    @field_validator("thinking")
    @classmethod
    def _of_answers(cls, tags: tuple[str, str] | None, info: ValidationInfo) -> tuple[str, str] | None:
        if tags is not None and info.data.get("text") == "whole":
            raise ValueError("needs text: answer, which leaves the thinking part out")
        return tags

    @field_validator("clip")
    @classmethod
    def _ascends(cls, clip: tuple[float, float] | None) -> tuple[float, float] | None:
        if clip is not None and clip[0] >= clip[1]:
            raise ValueError(f"got [{clip[0]}, {clip[1]}]; expected the lower bound before the higher")
        return clip
