"""Folders of runs, written by hand: what they hold is known, since nothing trained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
Columns = Mapping[str, Sequence[Any]]


def write_samples(folder: Path, step: int, columns: Columns, *, kind: str = "rollouts") -> Path:
    """`rollouts/step-000001.parquet`."""
    (folder / kind).mkdir(parents=True, exist_ok=True)
    path = folder / kind / f"step-{step:06d}.parquet"
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return path


def write_metrics(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )


def write_recipe(folder: Path, steps: int, **sections: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"model": {"name": "a model"}, "run": {"steps": steps, "seed": 0}, **sections}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def samples(
    step: int,
    scores: Sequence[Sequence[float | None]],
    lengths: Sequence[Sequence[int]] | None = None,
    *,
    text: Callable[[int, int], str] = lambda group, i: f"response {i} to prompt {group}",
    **columns: Sequence[Any],
) -> dict[str, Sequence[Any]]:
    """Columns of a step: scores by group, one provider named `judge`; a token's text is its number."""
    flat = [(g, i, score) for g, own in enumerate(scores) for i, score in enumerate(own)]
    tokens = [5 if lengths is None else lengths[g][i] for g, i, _ in flat]
    out: dict[str, Sequence[Any]] = {
        "id": [f"{step:06d}-{g:04d}-{i:03d}" for g, i, _ in flat],
        "group": [g for g, _, _ in flat],
        "prompt": [f"prompt {g}" for g, _, _ in flat],
        "response": [text(g, i) for g, i, _ in flat],
        "outcome": ["finished"] * len(flat),
        "response_ids": [list(range(3, 3 + n)) for n in tokens],
        "loss_mask": [[True] * n for n in tokens],
        "sampler_logprobs": [[-1.0] * n for n in tokens],
        "advantages": [[0.1] * n for n in tokens],
        "score": [0.0 if score is None else score for _, _, score in flat],
        "scored": [score is not None for _, _, score in flat],
        "trained": [score is not None for _, _, score in flat],
        "token_rewards": [
            [0.0] * (n - 1) + [0.0 if score is None else score]
            for n, (_, _, score) in zip(tokens, flat, strict=True)
        ],
        "reward/judge": [score for _, _, score in flat],
        "outcome/judge": ["failed" if score is None else "scored" for _, _, score in flat],
        "seconds/judge": [0.25] * len(flat),
        "reason/judge": ["it said so" if score is None else "" for _, _, score in flat],
    }
    return {**out, **columns}


def data_of(page: str, run: int = 0) -> dict[str, Any]:
    """What a page's script gets of a run."""
    match = DATA.search(page)
    assert match is not None
    return dict(json.loads(match[1])["runs"][run])


def learning_run(
    folder: Path, *, steps: int = 10, groups: int = 8, size: int = 4, rise: float = 0.1, seed: int = 0
) -> Path:
    """A run whose scores rise by `rise` per step, with noise of a tenth, and nothing else to see."""
    random = np.random.default_rng(seed)
    lines = []
    for step in range(1, steps + 1):
        scores = rise * step + 0.1 * random.standard_normal((groups, size))
        write_samples(folder, step, samples(step, scores.tolist()))
        lines.append(
            {
                "step": step,
                "reward/mean": float(scores.mean()),
                "kl/k1": 0.01 * step,
                "response/length": 5.0,
                "response/finished": 1.0,
                "policy/entropy": 2.0,
                "policy/clip_fraction": 0.1,
                "update/passes": 4.0,
                "value/explained_variance": 0.3,
                "time/sampling_s": 1.0,
                "time/step_s": 2.0,
            }
        )
    write_metrics(folder, lines)
    write_recipe(folder, steps, rewards=[{"use": "judge", "weight": 1.0}])
    return folder
