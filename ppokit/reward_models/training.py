"""Training of an adapter and heads, stopped by held-out prompts.

    regression     loss_h = sum_i b_ih w_i (s_ih - y_i)^2 / N           y: mean z-score, w: its weight
    Bradley-Terry  loss_h = sum_i b_ih log(1 + exp(s_rejected - s_chosen)) / N

Bradley and Terry 1952, Biometrika 39:324. Each head h has its own bootstrap of the prompts, b ~ Poisson(1)
per prompt (Oza and Russell 2001, online bagging), so that heads differ where ratings are few: the standard
deviation of their scores is the model's uncertainty (Osband et al. 2016, arXiv:1602.04621; heads share the
trunk, so it is a lower bound).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ppokit.errors import TrainingError
from ppokit.plugin.batching import length_batches, shuffled_batches, token_batches
from ppokit.reward_models.base import Fitted, trainable
from ppokit.reward_models.samples import Choice, grouped, responses_of
from ppokit.reward_models.texts import Advance, Encoded, lengths

if TYPE_CHECKING:
    from ppokit.ratings.arrays import Ints

HEAD_RATE = 10.0  # the head starts at nothing, the trunk does not
WARMUP = 0.1
MAX_NORM = 1.0
EVALUATION_BATCH = 64
# Of a forward pass in training. The widest tensors of a small model then have 25 MB; from 32 MB on, glibc
# takes each from the kernel anew, which clears its pages.
CPU_TOKENS = 4096
EVALUATION_COST = 1 / 3  # of a training pass over the same tokens


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: at most; fewer where the held-out loss stops falling.
        lr: of the adapter, at its highest; heads learn ten times as fast.
        batch_size: samples per step; a choice is one sample of two texts.
    """

    epochs: int
    lr: float
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Encodings:
    """Samples as token ids.

    Attributes:
        first, second: the responses, or the chosen and the rejected ones.
        ratings, weights: of samples; ones for choices. [N]
        groups: a number for each prompt. [N]
    """

    first: list[Encoded]
    second: list[Encoded] | None
    ratings: Tensor
    weights: Tensor
    groups: Ints

    @property
    def sizes(self) -> list[int]:
        """Tokens of each sample."""
        return [
            max(pair) for pair in zip(lengths(self.first), lengths(self.second or self.first), strict=True)
        ]

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(lengths(self.first)) + sum(lengths(self.second or []))


@dataclass(frozen=True)
class Epoch:
    """One pass over the samples: mean losses."""

    epoch: int
    train_loss: float
    validation_loss: float

    @property
    def name(self) -> str:
        return f"epoch {self.epoch}"


def encode(fitted: Fitted, samples: Sequence[Any]) -> Encodings:
    """Samples, or choices, as token ids."""
    texts = fitted.texts
    prompts = [sample.prompt for sample in samples]
    groups = grouped(samples)
    encoded = [texts.encode(prompts, responses) for responses in responses_of(samples)]
    if isinstance(samples[0], Choice):
        ones = torch.ones(len(samples))
        return Encodings(encoded[0], encoded[1], ones, ones, groups)
    return Encodings(
        encoded[0],
        None,
        torch.tensor([sample.rating for sample in samples], dtype=torch.float32),
        torch.tensor([sample.weight for sample in samples], dtype=torch.float32),
        groups,
    )


def train(
    fitted: Fitted, fit: Encodings, validation: Encodings, plan: Plan, *, advance: Advance = lambda _: None
) -> list[Epoch]:
    """Train in place; the weights of the epoch with the lowest held-out loss stay.

    Args:
        advance: told of the tokens that each step took, for a progress bar.

    Raises:
        TrainingError: a loss is not finite.
    """
    generator = np.random.default_rng(plan.seed)
    torch.manual_seed(plan.seed)
    parameters = trainable(fitted.model)
    heads = list(fitted.heads.parameters())
    adapter = [p for p in parameters.values() if not any(p is head for head in heads)]
    # Matrices of the adapter decay a little; the heads do not.
    optimizer = torch.optim.AdamW(
        [
            {"params": adapter, "lr": plan.lr, "weight_decay": 0.01},
            {"params": heads, "lr": plan.lr * HEAD_RATE, "weight_decay": 0.0},
        ]
    )
    steps = plan.epochs * math.ceil(len(fit.first) / plan.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (WARMUP * steps), (steps - step) / steps)
    )
    sizes, tokens = fit.sizes, lengths(fit.first)
    if fit.second is not None:
        tokens = [a + b for a, b in zip(tokens, lengths(fit.second), strict=True)]
    bags = bootstrap(fit.groups, fitted.heads.out_features, generator)
    history: list[Epoch] = []
    best: dict[str, Tensor] = {}
    for epoch in range(1, plan.epochs + 1):
        fitted.model.train()
        total = 0.0
        for chosen in shuffled_batches(sizes, plan.batch_size, generator):
            optimizer.zero_grad()
            loss = 0.0
            for part in _parts(fitted, fit, sizes, chosen):
                losses = _losses(fitted, fit, part)  # [n, heads]
                share = (losses * bags[part].to(losses.device)).sum() / (len(chosen) * losses.shape[1])
                share.backward()  # type: ignore[no-untyped-call]
                loss += share.item()
            if not math.isfinite(loss):
                raise TrainingError(f"the loss became {loss} in epoch {epoch}; try a lower --lr.")
            nn.utils.clip_grad_norm_(list(parameters.values()), MAX_NORM)
            optimizer.step()
            schedule.step()
            total += loss * len(chosen) / len(fit.first)
            advance(sum(tokens[i] for i in chosen))
        held_out = loss_of(fitted, validation)
        advance(round(validation.tokens * EVALUATION_COST))
        history.append(Epoch(epoch, total, held_out))
        lowest = min(history, key=lambda e: e.validation_loss)
        if lowest.epoch == epoch:
            best = {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}
        elif epoch - lowest.epoch >= patience(plan.epochs):
            break
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(best[name])
    return history


def patience(epochs: int) -> int:
    """Epochs without a lower held-out loss after which training stops: half of all.

    The loss on a few dozen held-out samples jumps, and most is gained late, when the rate falls.
    """
    return math.ceil(epochs / 2)


def bootstrap(groups: Ints, heads: int, generator: np.random.Generator) -> Tensor:
    """How often each head draws each sample; a prompt's samples go together. All 1 for a single head.

    Args:
        groups: a number for each sample's prompt, from 0. [N]

    Returns:
        [N, heads]
    """
    if heads == 1:
        return torch.ones(len(groups), 1)
    drawn = generator.poisson(1.0, (int(groups.max()) + 1, heads))
    return torch.from_numpy(drawn[groups].astype(np.float32))


def predict(fitted: Fitted, encoded: Sequence[Encoded]) -> Tensor:
    """What each head gives each text. [N, heads], float32 on the CPU, in the order of the texts"""
    device = next(fitted.model.parameters()).device
    out = torch.zeros(len(encoded), fitted.heads.out_features)
    fitted.model.eval()
    for chosen in length_batches(lengths(encoded), EVALUATION_BATCH):
        batch = fitted.texts.batch([encoded[i] for i in chosen], device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=fitted.autocast):
            out[chosen] = fitted.model(**batch).logits.float().cpu()
    return out


def loss_of(fitted: Fitted, samples: Encodings) -> float:
    """Mean loss of the mean of the heads, which is what is saved."""
    scores = predict(fitted, samples.first).mean(1)
    if samples.second is not None:
        return float(nn.functional.softplus(predict(fitted, samples.second).mean(1) - scores).mean())
    return float((samples.weights * (scores - samples.ratings) ** 2).mean())


def _parts(fitted: Fitted, samples: Encodings, sizes: Sequence[int], chosen: list[int]) -> list[list[int]]:
    """A batch in the parts that go through the model one by one: on a CPU, as much as its allocator keeps."""
    if next(fitted.model.parameters()).device.type != "cpu":
        return [chosen]
    texts = 1 if samples.second is None else 2
    return token_batches(chosen, sizes, CPU_TOKENS // texts)


def _losses(fitted: Fitted, samples: Encodings, chosen: list[int]) -> Tensor:
    """[n, heads]"""
    device = next(fitted.model.parameters()).device
    both = [samples.first[i] for i in chosen]
    if samples.second is not None:
        both += [samples.second[i] for i in chosen]
    with torch.autocast(device.type, torch.bfloat16, enabled=fitted.autocast):
        scores = fitted.model(**fitted.texts.batch(both, device)).logits.float()
    if samples.second is not None:
        return nn.functional.softplus(scores[len(chosen) :] - scores[: len(chosen)])
    ratings, weights = samples.ratings[chosen].to(device), samples.weights[chosen].to(device)
    squares: Tensor = weights[:, None] * (scores - ratings[:, None]) ** 2
    return squares
