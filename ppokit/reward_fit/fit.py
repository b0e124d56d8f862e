"""`ppokit reward fit`: from ratings to a folder with a reward model and what is known of it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from ppokit.errors import DataError
from ppokit.memory import keep_freed_memory
from ppokit.ratings.records import RatingTable
from ppokit.reward_fit import folder as folders
from ppokit.reward_fit.base import Base, Fitted, find_base
from ppokit.reward_fit.curve_plot import draw
from ppokit.reward_fit.report import (
    CurvePoint,
    Quality,
    Report,
    agreement_of,
    gain_of,
    quality_of,
    size_of,
)
from ppokit.reward_fit.samples import Choice, Half, Parts, half_of, parts_of, subset
from ppokit.reward_fit.training import EVALUATION_COST, Encodings, Epoch, Plan, encode, train
from ppokit.wording import listed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CURVE = (0.25, 0.5, 1.0)
LEAST_CURVE = 32  # samples; below, a part of them says nothing
RATES = {"encoder": 1e-4, "causal": 3e-4}
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 96, 2, 10


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    Attributes:
        held_out: share of the prompts that is held out, where the file has no split column.
        half: fit to half of the raters only.
        epochs: at most; None for about 96 steps, in 2 to 10 epochs.
        lr: of the trunk or adapter; None for 1e-4 (an encoder) or 3e-4 (LoRA).
        batch_size: samples a step.
        heads: how many, for the spread.
        max_length: tokens of a text that are read, counted from its end.
        lora_r: rank of the adapter of a causal base.
        curve: whether to fit to a quarter and a half of the samples too.
    """

    held_out: float = 0.2
    half: Half | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int = 32
    heads: int = 5
    seed: int = 0
    max_length: int = 256
    lora_r: int = 16
    curve: bool = True


class Listener(Protocol):
    """Who is told how a fit goes on."""

    def on_start(self, tokens: int) -> None:
        """About so many tokens will be trained on, all fits together."""

    def on_advance(self, tokens: int) -> None:
        """So many more are done."""

    def on_fit(self, number: int, count: int, samples: int) -> None:
        """One of the fits begins."""

    def on_epochs(self, epochs: Sequence[Epoch], seconds: float) -> None:
        """One of the fits is done."""


def reward_fit(table: RatingTable, model: str, out: Path, options: FitOptions, listener: Listener) -> Report:
    """Fit a reward model to ratings or choices, and write its folder.

    Args:
        table: what people said.
        model: what to start from; see `find_base`.
        out: a new folder.

    Raises:
        DataError: the ratings are too few, `out` is taken, or a library is missing.
        ModelError: the model cannot be used.
        TrainingError: a loss is not finite.
    """
    started, cpu = time.perf_counter(), time.process_time()
    missing = [name for name in ("scipy", "krippendorff") if find_spec(name) is None]
    if missing:
        raise DataError(f"reward fit needs {listed(missing)}: pip install 'ppokit[ratings]'.")
    folders.new_folder(out)
    if options.half is not None:
        table = half_of(table, options.half)
    parts = parts_of(table, share=options.held_out, seed=options.seed)
    run = _Run(find_base(model), parts, options, listener)
    shares = [share for share in CURVE if share == 1 or (options.curve and len(parts.fit) >= LEAST_CURVE)]
    run.announce(shares)
    points: list[CurvePoint] = []
    margins: list[Floats] = []
    for number, share in enumerate(shares, 1):
        samples = subset(parts.fit, share, options.seed)
        listener.on_fit(number, len(shares), len(samples))
        fitted, history = run.fit(samples)
        scores, others = run.test(fitted)
        margins.append((scores if others is None else scores - others).mean(axis=1))
        main = quality_of(parts.test, scores, others, options.seed).main
        points.append(CurvePoint(share, len(samples), main.value, main.low, main.high))
    score = SCORES["bradley_terry" if parts.pairs else "regression"]
    made: list[Report] = []

    def fill(folder: Path) -> None:
        folders.save(fitted, folder, score)
        # From the files, as training will score: what is reported is what was saved.
        quality = run.measure(folder)
        gain = gain_of(parts.test, margins[-1], margins[-2], options.seed) if len(margins) > 1 else None
        made.append(
            Report(
                source=table.source,
                model=model,
                kind=run.base.kind,
                objective="bradley_terry" if parts.pairs else "regression",
                score=score,
                sizes={name: size_of(getattr(parts, name)) for name in ("fit", "validation", "test")},
                quality=quality,
                agreement=agreement_of(parts.table, options.seed),
                curve=points,
                gain=gain,
                history=history,
                settings=run.settings(len(parts.fit)),
                notes=[*table.notes, *parts.notes],
                seconds=round(time.perf_counter() - started, 1),
                cpu_seconds=round(time.process_time() - cpu, 1),
            )
        )
        made[0].write(folder / "report.json")
        draw(made[0], folder / "learning_curve.png")

    folders.write(out, fill)
    return made[0]


SCORES = {
    "regression": "mean z-score of the raters: 0 is an average response, 1 is one standard deviation above",
    "bradley_terry": "log-odds: the difference of two scores is that of preferring the first response",
}


class _Run:
    """What the fits of one command share."""

    def __init__(self, base: Base, parts: Parts, options: FitOptions, listener: Listener) -> None:
        self.base, self.parts, self.options, self.listener = base, parts, options, listener
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            keep_freed_memory()
        self.batch_size = max(1, options.batch_size // 2) if parts.pairs else options.batch_size

    def settings(self, samples: int) -> dict[str, Any]:
        """How a fit to so many samples is done."""
        plan = self.plan(samples)
        o = self.options
        return {
            "epochs": plan.epochs,
            "lr": plan.lr,
            "batch_size": plan.batch_size,
            "heads": o.heads,
            "seed": o.seed,
            "max_length": o.max_length,
            "lora_r": o.lora_r if self.base.kind == "causal" else None,
            "half": o.half,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
        }

    def plan(self, samples: int) -> Plan:
        steps = math.ceil(samples / self.batch_size)
        epochs = self.options.epochs or min(max(math.ceil(STEPS / steps), FEWEST_EPOCHS), MOST_EPOCHS)
        lr = self.options.lr or RATES[self.base.kind]
        return Plan(epochs, lr, self.batch_size, self.options.seed)

    def announce(self, shares: Sequence[float]) -> None:
        """Tell the listener how much there is to do."""
        fitted = self.fresh()
        self.validation = encode(fitted, self.parts.validation)
        total = 0.0
        for share in shares:
            samples = subset(self.parts.fit, share, self.options.seed)
            epoch = encode(fitted, samples).tokens + self.validation.tokens * EVALUATION_COST
            total += epoch * self.plan(len(samples)).epochs
        self.listener.on_start(round(total))

    def fresh(self) -> Fitted:
        torch.manual_seed(self.options.seed)
        o = self.options
        return Fitted(self.base, heads=o.heads, max_length=o.max_length, lora_r=o.lora_r, device=self.device)

    def fit(self, samples: Sequence[Any]) -> tuple[Fitted, list[Epoch]]:
        started = time.perf_counter()
        fitted = self.fresh()
        encodings: Encodings = encode(fitted, samples)
        plan = self.plan(len(samples))
        done = 0

        def advance(tokens: int) -> None:
            nonlocal done
            done += tokens
            self.listener.on_advance(tokens)

        history = train(fitted, encodings, self.validation, plan, advance=advance)
        planned = (encodings.tokens + self.validation.tokens * EVALUATION_COST) * plan.epochs
        self.listener.on_advance(round(planned) - done)  # what stopping early has saved
        self.listener.on_epochs(history, time.perf_counter() - started)
        return fitted, history

    def test(self, fitted: Fitted) -> tuple[Floats, Floats | None]:
        """Scores of each head on the test part, see `quality_of`."""
        from ppokit.reward_fit.training import predict

        encodings = encode(fitted, self.parts.test)
        second = None if encodings.second is None else predict(fitted, encodings.second).double().numpy()
        return predict(fitted, encodings.first).double().numpy(), second

    def measure(self, folder: Path) -> Quality:
        """Quality on the test part of the model in a folder."""
        scorer = folders.Scorer(folder, heads=True, device=self.device)
        test: Sequence[Any] = self.parts.test
        prompts = [sample.prompt for sample in test]
        if isinstance(test[0], Choice):
            chosen = scorer.score(prompts, [choice.chosen for choice in test])
            rejected = scorer.score(prompts, [choice.rejected for choice in test])
            return quality_of(test, chosen, rejected, self.options.seed)
        return quality_of(
            test, scorer.score(prompts, [sample.response for sample in test]), None, self.options.seed
        )
