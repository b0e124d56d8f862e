"""Parity: the policy that answers is the policy that trains, checked in every step before a weight moves.

    gap = log p_sampler(token) - log p_trainer(token)

of each sampled token, both at the sampling temperature and over the whole vocabulary. An engine that answers
as the base, reads another prompt or loses its cache trains on wrong ratios without any other sign. What the
dtype explains is measured where that matters: bfloat16 products are rounded differently where other responses
stand beside a response, and in another kernel, which on some tokens becomes large, see `models.jitter`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ppokit.data.batches import TokenBatch, token_batch
from ppokit.distributed import Processes
from ppokit.errors import TrainingError
from ppokit.models.jitter import jittered
from ppokit.models.roles import ModelRoles, Role
from ppokit.plugin.types import Rollout

_FLOOR = 1e-3  # nats per token at temperature 1: of deep models in float32, with and without a cache
_EPS = 16  # in units of the dtype's precision: rounding of merged weights, which `_NOISE` does not show
_NOISE = 4  # times what a response differs by alone and in a batch
_JITTER = 2  # times what it differs by with the last bit of each module's result off
_WORST = 3  # times what all responses may have together: a short response has little to average over
_UNSTABLE = 10  # times what the dtype explains: a text that differs so from itself is no rounding
_SAMPLES = 8  # responses that noise, jitter and causes are measured on


@dataclass(frozen=True)
class ResponseGap:
    """How far the sampler is from the trainer on one response.

    Attributes:
        index: its position in the rollout.
        squares: sum over its tokens of the squared gap.
        tokens: how many were compared.
        first: the gap of the first of them.
    """

    index: int
    squares: float
    tokens: int
    first: float

    @property
    def rms(self) -> float:
        """Root mean square, in nats per token."""
        return math.sqrt(self.squares / self.tokens)


@dataclass
class ParityCheck:
    """Compares the sampler's log-probabilities with the trainer's.

    Attributes:
        engine: how errors name the rollout engine.
        limit: the largest gap of a step, in nats per token; None for what the dtype explains.
    """

    roles: ModelRoles
    processes: Processes
    temperature: float
    engine: str
    limit: float | None
    _explained: float = field(default=0.0, init=False)  # by what was measured, beside rounding

    def check(self, rollout: Rollout, trainer: Tensor, version: int) -> float | None:
        """The gap, root mean square over the tokens of all processes; None where nothing can be compared.

        Every process calls it, before any weight moves.

        Args:
            trainer: [B,R] the trainer's log-probabilities; rows of NaN are not compared, which are those
                that other processes train on.
            version: of the policy; what an earlier one wrote is not compared.

        Raises:
            TrainingError: the gap is more than `limit`.
        """
        gaps = self.processes.gather(_gaps(rollout, trainer, version))
        if not gaps:
            return None
        gap, allowed = _rms(gaps), self._allowed()
        if self.limit is None and not _within(gaps, allowed):
            # Only now: it costs some forward passes.
            noise = self._measured_noise(rollout, trainer)
            self._check_noise(noise)
            jitter = self._measured_jitter(rollout, trainer, gaps)
            self._explained = max(self._explained, _NOISE * noise, _JITTER * jitter)
            allowed = self._allowed()
        if not _within(gaps, allowed):
            worst = max(gaps, key=lambda own: own.rms)
            raise TrainingError(
                f"{self.engine} answers with another policy than the one that is trained: the "
                f"log-probabilities of what it sampled are {gap:.3g} nats per token from the trainer's (root "
                f"mean square; {worst.rms:.3g} for sample {rollout.ids[worst.index]}), where "
                + (
                    f"rollout.max_logprob_gap allows {allowed:.3g}. "
                    if self.limit is not None
                    else f"{self._dtype} explains {allowed:.3g}. "
                )
                + f"What fits: {self._cause(rollout, trainer, gaps, allowed)}. Nothing was trained in this "
                "step. Where such a gap is meant, as with a sampler of lower precision, say how large it may "
                "be by rollout.max_logprob_gap."
            )
        return gap

    def _check_noise(self, noise: float) -> None:
        """That noise is rounding; where it is more, it would explain whatever the sampler does."""
        rounding = self._rounding()
        if noise > _UNSTABLE * rounding:
            raise TrainingError(
                f"model.name: the log-probabilities of one text differ by {noise:.3g} nats per token "
                f"(root mean square) where it stands alone and beside others, and {self._dtype} explains "
                f"{rounding:.3g}: the model's numbers depend on the batch, or are random. Nothing was "
                "trained in this step; choose another model, or a wider model.dtype."
            )

    @property
    def _dtype(self) -> str:
        return str(self.roles.dtype).removeprefix("torch.")

    def _allowed(self) -> float:
        if self.limit is not None:
            return self.limit
        return self._rounding() + self._explained

    def _rounding(self) -> float:
        """That of logits, which the temperature divides; the noise is measured at the temperature."""
        return max(_FLOOR, _EPS * torch.finfo(self.roles.dtype).eps) / self.temperature

    def _measured_noise(self, rollout: Rollout, trainer: Tensor) -> float:
        """Root mean square by which responses alone differ from the same ones together, each twice."""
        rows = self._own(trainer)
        together = self._logprobs(rollout, rows * 2, "policy") if rows else trainer.new_empty(0)
        return self._distance(rollout, rows, together[: len(rows)])

    def _measured_jitter(self, rollout: Rollout, trainer: Tensor, gaps: Sequence[ResponseGap]) -> float:
        """Root mean square by which the worst responses differ from the same ones with jitter."""
        known = ~trainer.isnan().all(dim=1)
        worst = sorted((own for own in gaps if known[own.index]), key=lambda own: own.rms, reverse=True)
        rows = [own.index for own in worst[:_SAMPLES]]
        with jittered(self.roles.model):
            moved = [self._logprobs(rollout, [row], "policy")[0] for row in rows]
        return self._distance(rollout, rows, moved)

    def _distance(self, rollout: Rollout, rows: Sequence[int], others: Sequence[Tensor] | Tensor) -> float:
        """Root mean square by which these responses, each alone, differ from others, over all processes."""
        sums = torch.zeros(2, dtype=torch.float64)
        for row, other in zip(rows, others, strict=True):
            alone = self._logprobs(rollout, [row], "policy")[0]
            gap = (alone - other)[rollout.loss_mask[row]]
            sums += torch.tensor([float(gap.double().square().sum()), float(gap.numel())])
        self.processes.sum([sums])
        return math.sqrt(float(sums[0] / sums[1].clamp(min=1)))

    def _own(self, trainer: Tensor) -> list[int]:
        """Some of the responses that this process trains on."""
        known: list[int] = (~trainer.isnan().all(dim=1)).nonzero().flatten().tolist()
        return known[:: max(1, len(known) // _SAMPLES)][:_SAMPLES]

    @torch.no_grad()
    def _logprobs(self, rollout: Rollout, rows: Sequence[int], role: Role) -> Tensor:
        batch: TokenBatch = token_batch(rollout, rows, self.roles.device)
        return self.roles.logprobs(batch, role, temperature=self.temperature)[0].cpu()

    def _cause(self, rollout: Rollout, trainer: Tensor, gaps: Sequence[ResponseGap], allowed: float) -> str:
        """Which of the known causes the gaps look like."""
        if self.roles.lora is not None and self._as_base(rollout, trainer, gaps) < 0.5 * _rms(gaps):
            return "the adapter: these are the log-probabilities of the base without it"
        lengths = {own.index: len(rollout.prompt_ids[own.index]) for own in gaps}
        longest = [own for own in gaps if lengths[own.index] == max(lengths.values())]
        if len(longest) < len(gaps) and _rms(longest) <= allowed:
            return (
                "positions: the longest prompts are answered right and the shorter ones wrong, as where a "
                "model ignores position_ids or attends to the padding on the left"
            )
        if math.sqrt(sum(own.first**2 for own in gaps) / len(gaps)) <= allowed:
            return "the cache: the first token of each response is right, and those behind it are wrong"
        return (
            "the prompt's template, or other weights: the first token of the responses is wrong already, as "
            "where a chat template or a start token is added twice or left out"
        )

    def _as_base(self, rollout: Rollout, trainer: Tensor, gaps: Sequence[ResponseGap]) -> float:
        """The sampler's gap from the base without an adapter, over some of the responses."""
        rows = self._own(trainer)
        base = torch.full_like(trainer, math.nan)
        for row in rows:
            base[row] = self._logprobs(rollout, [row], "base")[0]
        part = self.processes.gather(_gaps(rollout, base, None))
        return _rms(part) if part else math.inf


def _gaps(rollout: Rollout, trainer: Tensor, version: int | None) -> list[ResponseGap]:
    """Of each response that can be compared; the version None compares those of any policy."""
    if rollout.policy_logprobs is None:
        return []
    difference = (rollout.policy_logprobs - trainer).double()
    comparable = rollout.loss_mask & ~difference.isnan()
    if version is not None:
        comparable &= (rollout.policy_version == version)[:, None]
    gaps = []
    for row in comparable.any(dim=1).nonzero().flatten().tolist():
        numbers = difference[row, comparable[row]]
        gaps.append(ResponseGap(row, float(numbers.square().sum()), numbers.numel(), float(numbers[0])))
    return gaps


def _rms(gaps: Sequence[ResponseGap]) -> float:
    return math.sqrt(sum(own.squares for own in gaps) / sum(own.tokens for own in gaps))


def _within(gaps: Sequence[ResponseGap], allowed: float) -> bool:
    return _rms(gaps) <= allowed and max(own.rms for own in gaps) <= _WORST * allowed
