"""`ppokit reward fit`: from ratings to a folder with a reward model and what is known of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ppokit.errors import DataError
from ppokit.messages import listed
from ppokit.ratings.records import RatingTable
from ppokit.reward_models import saved as folders
from ppokit.reward_models.base import find_base
from ppokit.reward_models.curve_plot import draw
from ppokit.reward_models.methods import FitOptions, Listener, Solving, Training
from ppokit.reward_models.probe import Tried
from ppokit.reward_models.report import (
    CurvePoint,
    Report,
    agreement_of,
    gain_of,
    quality_of,
    size_of,
)
from ppokit.reward_models.samples import half_of, parts_of, subset
from ppokit.reward_models.training import Epoch

if TYPE_CHECKING:
    from ppokit.ratings.arrays import Floats


CURVE = (0.25, 0.5, 1.0)
LEAST_CURVE = 32  # samples; below, a part of them says nothing


def reward_fit(table: RatingTable, model: str, out: Path, options: FitOptions, listener: Listener) -> Report:
    """Fit a reward model to ratings or choices, and write its folder.

    Args:
        table: people's ratings.
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
    base = find_base(model)
    if base.kind == "encoder" and options.trained():
        raise DataError(
            f"{listed(options.trained())}: of training, and {model} is an encoder, whose heads are solved "
            "without; leave that out, or name a causal LM."
        )
    method: Solving | Training = (Solving if base.kind == "encoder" else Training)(
        base, parts, options, listener
    )
    shares = [share for share in CURVE if share == 1 or (options.curve and len(parts.fit) >= LEAST_CURVE)]
    sets = [subset(parts.fit, share, options.seed) for share in shares]
    method.prepare(sets)
    points: list[CurvePoint] = []
    margins: list[Floats] = []
    for number, (share, samples) in enumerate(zip(shares, sets, strict=True), 1):
        listener.on_fit(number, len(shares), len(samples))
        begun = time.perf_counter()
        history: Sequence[Epoch | Tried] = method.fit(samples)
        listener.on_fitted(history, time.perf_counter() - begun)
        scores, others = method.test()
        margins.append((scores if others is None else scores - others).mean(axis=1))
        main = quality_of(parts.test, scores, others, options.seed).main
        points.append(CurvePoint(share, len(samples), main.value, main.low, main.high))
    objective = "bradley_terry" if parts.pairs else "regression"
    score = SCORES[objective]
    with folders.writing(out) as folder:
        folders.save(method.fitted, folder, score)
        # From the files, as training will score: what is reported is what was saved.
        quality = method.measure(folder)
        gain = gain_of(parts.test, margins[-1], margins[-2], options.seed) if len(margins) > 1 else None
        report = Report(
            source=table.source,
            model=model,
            kind=base.kind,
            objective=objective,
            score=score,
            sizes={name: size_of(getattr(parts, name)) for name in ("fit", "validation", "test")},
            quality=quality,
            agreement=agreement_of(parts.table, options.seed, pairs=parts.pairs),
            curve=points,
            gain=gain,
            history=list(history),
            settings=method.settings(len(parts.fit)),
            notes=[*table.notes, *parts.notes, *method.notes],
            seconds=round(time.perf_counter() - started, 1),
            cpu_seconds=round(time.process_time() - cpu, 1),
        )
        report.write(folder / "report.json")
        draw(report, folder / "learning_curve.png")
    return report


SCORES = {
    "regression": "mean z-score of the raters: 0 is an average response, 1 is one standard deviation above",
    "bradley_terry": "log-odds: the difference of two scores is that of preferring the first response",
}
