"""What a reward provider returns: an outcome per response, with reasons, named parts and notes.

Legend of shapes: `ppokit.plugin.types`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from ppokit.errors import PluginError, one_paragraph, reason_of
from ppokit.plugin.reductions import Metric

if TYPE_CHECKING:
    from torch import Tensor

_LONGEST_REASON = 2000  # characters: a service's answer may be the reason

Outcome = Literal["scored", "abstained", "failed"]
CALL_METRICS = ("scored", "abstained", "failed", "imputed", "retried")
"""What the core itself reports under `reward/<name>/`: names that no part, note or metric may have."""
Value = float | None | BaseException
"""A score; None abstains; an exception fails that response, and is the reason."""


@dataclass(frozen=True)
class Span:
    """A score of some characters of a response: those from `start` to before `end`."""

    start: int
    end: int
    score: float


@dataclass(frozen=True)
class RewardOutput:
    """What a reward provider returns for a rollout of B responses.

    Attributes:
        scores: [B] float32; read only where the outcome is `scored`. None for a provider of token scores
            alone: it has no opinion on a whole response, and its token scores count; or of parts alone, whose
            sum is the score.
        outcomes: one per response: `scored`; `abstained` (the provider has no opinion: it adds
            nothing); `failed` (it should have one and could not: counted against the error budget,
            and the response is not trained on).
        token_scores: [B,R] float32 added token by token, only where the outcome is `scored`; None for none.
        metrics: numbers to report; the core puts `reward/<provider>/` before the name. A plain number is a
            mean over the responses; see `ppokit.plugin.reductions` for others.
        failures: by index in the batch, what a response failed of; a text, or the exception itself.
        parts: [B] scores by name, NaN where there is none; `parts:` in a recipe weighs them, and a response
            without a part that counts abstains.
        notes: texts by name, one per response, for people to read: a rationale, what a judge answered.
        spans: scores of characters of each response, which the core gives to their tokens and adds to
            `token_scores`; None for none.
        part_failures: by name of the part and index in the batch, why a response lacks that part: where it
            counts, the response fails of it.
    """

    scores: Tensor | None
    outcomes: tuple[Outcome, ...]
    token_scores: Tensor | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    failures: Mapping[int, str | BaseException] = field(default_factory=dict)
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    spans: Sequence[Sequence[Span]] | None = None
    part_failures: Mapping[str, Mapping[int, str | BaseException]] = field(default_factory=dict)

    @staticmethod
    def of_scores(
        scores: Tensor,
        outcome: Outcome = "scored",
        *,
        token_scores: Tensor | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> RewardOutput:
        """One score per response, [B], all with the same outcome."""
        return RewardOutput(scores, (outcome,) * len(scores), token_scores, dict(metrics or {}))

    @staticmethod
    def of_tokens(token_scores: Tensor, metrics: Mapping[str, Metric] | None = None) -> RewardOutput:
        """Token scores [B,R] alone: they count, and do not stand for a score of a whole response."""
        scored: Outcome = "scored"
        return RewardOutput(None, (scored,) * len(token_scores), token_scores, dict(metrics or {}))

    @staticmethod
    def of_spans(
        spans: Sequence[Sequence[Span]], metrics: Mapping[str, Metric] | None = None
    ) -> RewardOutput:
        """Scores of characters alone, some spans per response: `[[Span(0, 5, -1.0)], []]`."""
        scored: Outcome = "scored"
        return RewardOutput(None, (scored,) * len(spans), metrics=dict(metrics or {}), spans=spans)

    @staticmethod
    def from_values(
        values: Sequence[Value],
        metrics: Mapping[str, Metric] | None = None,
        *,
        parts: Mapping[str, Sequence[Value]] | None = None,
        notes: Mapping[str, Sequence[str]] | None = None,
    ) -> RewardOutput:
        """One number per response; None abstains, an exception fails the response and is the reason.

        Args:
            values: `[0.5, None, TimeoutError("the judge")]`.
            parts: numbers by name, likewise; None and exceptions leave a response without that part, which
                abstains or fails only where the recipe weighs it.
            notes: texts by name, one per response.
        """
        values, parts = list(values), {name: list(part) for name, part in (parts or {}).items()}
        failures = _failures(values)
        outcomes: tuple[Outcome, ...] = tuple(
            "failed" if i in failures else "abstained" if value is None else "scored"
            for i, value in enumerate(values)
        )
        return RewardOutput(
            _numbers(values, 0.0),
            outcomes,
            metrics=dict(metrics or {}),
            failures=failures,
            parts={name: _numbers(part, float("nan")) for name, part in parts.items()},
            notes=dict(notes or {}),
            part_failures={name: _failures(part) for name, part in parts.items()},
        )

    @staticmethod
    def from_parts(
        parts: Mapping[str, Sequence[Value]],
        metrics: Mapping[str, Metric] | None = None,
        *,
        notes: Mapping[str, Sequence[str]] | None = None,
    ) -> RewardOutput:
        """Named numbers alone; the score is their sum, or what the recipe's `parts:` makes of them.

        A response without one of the parts that count abstains, or fails where that part did.

        Raises:
            PluginError: there are no parts, or they have different lengths.
        """
        lengths = {name: len(part) for name, part in parts.items()}
        if len(set(lengths.values())) != 1:
            raise PluginError(f"got parts of lengths {lengths}; expected one number per response in each")
        values = [0.0] * next(iter(lengths.values()))
        return replace(RewardOutput.from_values(values, metrics, parts=parts, notes=notes), scores=None)

    def reason(self, index: int) -> str:
        """What a response failed of, in one paragraph; empty where it did not, or nobody knows."""
        failure = self.failures.get(index, "")
        reason = one_paragraph(failure) if isinstance(failure, str) else reason_of(failure)
        return reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"


@dataclass(frozen=True)
class Scored:
    """What a provider that is asked for single responses may return in place of a number.

    Attributes:
        value: as in `RewardOutput.from_values`; with `parts` alone, leave it out.
        parts: numbers by name; None or an exception where there is none.
        notes: texts by name.
        spans: scores of characters of the response, beside the number.
    """

    value: Value = None
    parts: Mapping[str, Value] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    spans: Sequence[Span] = ()


def _failures(values: Sequence[Value]) -> dict[int, BaseException]:
    """By index, those that are exceptions."""
    return {i: value for i, value in enumerate(values) if isinstance(value, BaseException)}


def _numbers(values: Sequence[Value], fill: float) -> Tensor:
    """[B] float32, with `fill` where there is no number."""
    import torch

    if text := [value for value in values if isinstance(value, str | bytes)]:  # float would read some
        raise TypeError(f"got {text[0]!r:.60}; expected numbers, None or exceptions")
    return torch.tensor([fill if v is None or isinstance(v, BaseException) else float(v) for v in values])
