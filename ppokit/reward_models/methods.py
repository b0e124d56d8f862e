"""The two ways of fitting: heads solved on a frozen encoder, or an adapter trained on a causal LM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ppokit.reward_models import saved as folders
from ppokit.reward_models.base import Base, Fitted
from ppokit.reward_models.probe import Probe, Tried
from ppokit.reward_models.report import Quality, quality_of
from ppokit.reward_models.samples import Half, Parts, responses_of
from ppokit.reward_models.texts import lengths
from ppokit.reward_models.training import EVALUATION_COST, Epoch, Plan, encode, predict, train

if TYPE_CHECKING:
    from ppokit.ratings.arrays import Floats


RATE, BATCH_SIZE, LORA_R = 3e-4, 32, 16
MAX_LENGTH = {"encoder": 128, "causal": 256}
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 96, 2, 10


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    Attributes:
        held_out: share of the prompts that is held out, where the file has no split column.
        half: fit to half of the raters only.
        heads: how many, for their standard deviation.
        max_length: tokens of a text that are read, counted from its end; None for 128 (an encoder) or 256.
        curve: whether to fit to a quarter and a half of the samples too.
        epochs: of a causal base's adapter, at most; None for about 96 steps, in 2 to 10 epochs.
        lr: likewise; None for 3e-4.
        batch_size: likewise, texts per step; None for 32.
        lora_r: likewise, its rank; None for 16.
    """

    held_out: float = 0.2
    half: Half | None = None
    heads: int = 5
    seed: int = 0
    max_length: int | None = None
    curve: bool = True
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    lora_r: int | None = None

    def trained(self) -> list[str]:
        """The options for training that are set, as a user writes them."""
        names = ("epochs", "lr", "batch_size", "lora_r")
        return ["--" + name.replace("_", "-") for name in names if getattr(self, name) is not None]


class Listener(Protocol):
    """Who is told how a fit goes on."""

    def on_start(self, tokens: int) -> None:
        """About so many tokens will be read or trained on, all fits together."""

    def on_advance(self, tokens: int) -> None:
        """So many more are done."""

    def on_fit(self, number: int, count: int, samples: int) -> None:
        """One of the fits begins."""

    def on_fitted(self, history: Sequence[Epoch | Tried], seconds: float) -> None:
        """One of the fits is done, with the best of what was tried."""


class Method:
    """What the fits of one command share, by either way."""

    def __init__(self, base: Base, parts: Parts, options: FitOptions, listener: Listener) -> None:
        self.base, self.parts, self.options, self.listener = base, parts, options, listener
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.max_length = options.max_length or MAX_LENGTH[base.kind]
        self.notes: list[str] = []

    def settings(self, samples: int) -> dict[str, Any]:
        """How a fit to so many samples is done."""
        return {
            "heads": self.options.heads,
            "seed": self.options.seed,
            "max_length": self.max_length,
            "half": self.options.half,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
        }

    def note_truncated(self, sizes: Sequence[int], limit: int) -> None:
        """Tell of texts that may have lost their beginning. sizes: tokens of each"""
        full = sum(size >= limit for size in sizes)
        if full:
            self.notes.append(
                f"{full:,} of {len(sizes):,} texts fill all {limit} tokens of --max-length: what stands "
                "before is not read"
            )

    def measure(self, folder: Path) -> Quality:
        """Quality on the test part of the model in a folder."""
        scorer = folders.Scorer(folder, heads=True, device=self.device)
        test = self.parts.test
        prompts = [sample.prompt for sample in test]
        scores = [scorer.score(prompts, texts) for texts in responses_of(test)]
        return quality_of(test, scores[0], scores[1] if len(scores) > 1 else None, self.options.seed)


class Solving(Method):
    """Heads on a frozen encoder."""

    def prepare(self, sets: Sequence[Sequence[Any]]) -> None:
        """Read every text, once for all fits."""
        o = self.options
        self.fitted = Probe(self.base, heads=o.heads, max_length=self.max_length, device=self.device)
        encoded = self.fitted.encode([*self.parts.fit, *self.parts.validation, *self.parts.test])
        sizes = lengths(list(encoded.values()))
        self.note_truncated(sizes, self.fitted.texts.max_length)
        self.listener.on_start(sum(sizes))
        self.fitted.read(encoded, self.listener.on_advance)

    def fit(self, samples: Sequence[Any]) -> list[Tried]:
        return self.fitted.solve(samples, self.parts.validation, self.options.seed)

    def test(self) -> tuple[Floats, Floats | None]:
        """Scores of each head on the test part, see `quality_of`."""
        return self.fitted.scores(self.parts.test)


class Training(Method):
    """A LoRA adapter and heads on a causal LM."""

    untrained: Fitted | None = None

    def settings(self, samples: int) -> dict[str, Any]:
        plan = self.plan(samples)
        return {
            **super().settings(samples),
            "epochs": plan.epochs,
            "lr": plan.lr,
            "batch_size": plan.batch_size,
            "lora_r": self.options.lora_r or LORA_R,
        }

    def plan(self, samples: int) -> Plan:
        o = self.options
        batch_size = o.batch_size or BATCH_SIZE
        if self.parts.pairs:
            batch_size = max(1, batch_size // 2)
        steps = math.ceil(samples / batch_size)
        epochs = o.epochs or min(max(math.ceil(STEPS / steps), FEWEST_EPOCHS), MOST_EPOCHS)
        return Plan(epochs, o.lr or RATE, batch_size, o.seed)

    def prepare(self, sets: Sequence[Sequence[Any]]) -> None:
        """Tell the listener how much there is to do."""
        self.fitted = self.untrained = self.fresh()
        self.validation = encode(self.fitted, self.parts.validation)
        total = 0.0
        for samples in sets:
            whole = encode(self.fitted, samples)  # the last set is all of them
            epoch = whole.tokens + self.validation.tokens * EVALUATION_COST
            total += epoch * self.plan(len(samples)).epochs
        sizes = lengths(whole.first) + lengths(whole.second or [])
        self.note_truncated(sizes, self.fitted.texts.max_length)
        self.listener.on_start(round(total))

    def fresh(self) -> Fitted:
        torch.manual_seed(self.options.seed)
        o = self.options
        return Fitted(
            self.base,
            heads=o.heads,
            max_length=self.max_length,
            lora_r=o.lora_r or LORA_R,
            device=self.device,
        )

    def fit(self, samples: Sequence[Any]) -> list[Epoch]:
        self.fitted = self.untrained or self.fresh()  # a base is loaded once per fit
        self.untrained = None
        encodings = encode(self.fitted, samples)
        plan = self.plan(len(samples))
        done = 0

        def advance(tokens: int) -> None:
            nonlocal done
            done += tokens
            self.listener.on_advance(tokens)

        history = train(self.fitted, encodings, self.validation, plan, advance=advance)
        planned = (encodings.tokens + self.validation.tokens * EVALUATION_COST) * plan.epochs
        self.listener.on_advance(round(planned) - done)  # what stopping early has saved
        return history

    def test(self) -> tuple[Floats, Floats | None]:
        """Scores of each head on the test part, see `quality_of`."""
        encodings = encode(self.fitted, self.parts.test)
        second = None if encodings.second is None else predict(self.fitted, encodings.second).double().numpy()
        return predict(self.fitted, encodings.first).double().numpy(), second
