"""What an evaluator must do, and the view of the policy that it gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ppokit.plugin.types import Rewards, Rollout, Row

if TYPE_CHECKING:
    from torch import Tensor

    LogitReader = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recorded:
    """What is kept of an evaluator's responses.

    Attributes:
        evaluator: its name in metrics.
        values: [B] by name, as recorded; None where there is none. Empty of responses that were scored alone.
        rewards: what the recipe's rewards gave; None where the evaluator did not have them scored.
    """

    evaluator: str
    rollout: Rollout
    values: Mapping[str, Sequence[float | None]]
    rewards: Rewards | None = None


class EvaluationView(Protocol):
    """The policy of now and the recipe's rewards, to be asked without anything being learned.

    Every process must make the same calls in the same order; each gets the whole of what it asks for.

    Attributes:
        prompts: the held-out prompts; empty where the recipe has none.
        rows: a row of the held-out data set per prompt.
        training_rows: the rows of the training prompts, whose columns the rewards know.
        prompt_column: the column of those that holds the prompt.
        is_main: whether this process is the one whose metrics are kept.
        scales_move: whether a reward's `scale` changes in the run, so that weighted sums of rewards in two
            evaluations have different units.
    """

    @property
    def prompts(self) -> Sequence[str]: ...

    @property
    def rows(self) -> Sequence[Row]: ...

    @property
    def training_rows(self) -> Sequence[Row]: ...

    @property
    def prompt_column(self) -> str: ...

    @property
    def is_main(self) -> bool: ...

    @property
    def scales_move(self) -> bool: ...

    def generate(
        self, prompts: Sequence[str] | None = None, *, n: int | None = None, rows: Sequence[Row] | None = None
    ) -> Rollout:
        """Responses, prompt by prompt, with what the evaluator's `needs` names.

        Args:
            prompts: the held-out prompts, unless given.
            n: responses per prompt, drawn by numbers that are the same at every evaluation, so that it is
                the policy that differs; None for one greedy response per prompt.
            rows: a row of data per prompt, for rewards that read columns; only with `prompts`.
        """
        ...

    def recorded(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        separator: str = "",
        rows: Sequence[Row] | None = None,
    ) -> Rollout:
        """Responses that were written before, one per prompt, with what the evaluator's `needs` names.

        Args:
            separator: what stands between a plain prompt and its response.
        """
        ...

    def logprobs(self, rollout: Rollout) -> Tensor:
        """[B,R] float32 of each token under the policy, at the sampling temperature; 0 on padding."""
        ...

    def read_logits(self, rollout: Rollout, read: LogitReader) -> Tensor:
        """[B,R,K] float32 of each token that the policy wrote: what `read` makes of its logits; 0 elsewhere.

        Args:
            read: given logits [n,V], float32 and by no temperature, and which tokens they predict: responses
                [n] and positions [n] in [B,R]; returns [n,K]. It is called with a part of the tokens at a
                time, on each process with its share.
        """
        ...

    def score(self, rollout: Rollout) -> Rewards:
        """The recipe's rewards of a rollout; what scores are scaled by stays as it is.

        The core keeps what failed and what abstained, with causes, in `evaluation/`.
        """
        ...

    def record(self, rollout: Rollout, values: Mapping[str, Sequence[float | None]]) -> None:
        """Numbers of single responses to the held-out prompts, by name; None where there is none.

        The core reports how the mean over prompts has changed since step 0, with its interval, as
        `eval/<evaluator>/<name>/gain`, and keeps the responses and their numbers in `evaluation/`.

        Args:
            rollout: what `generate` or `recorded` gave; all of it on every process.
            values: one number per response; each name once per evaluation.
        """
        ...

    def warn(self, text: str) -> None:
        """Tell the observers what a person should look at: a sentence without its full stop."""
        ...


class Evaluator(Protocol):
    """Measures the policy during a run. Called on every process."""

    def evaluate(self, view: EvaluationView, step: int) -> Mapping[str, float]:
        """Numbers by name, which stand under `eval/<name of the evaluator>/`.

        Args:
            view: the policy after `step` steps.
            step: 0 before any training.
        """
        ...
