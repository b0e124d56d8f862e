"""How fast each algorithm is, and how each preset learns.

    python benchmarks/algorithms.py                             milliseconds of each estimator and loss
    python benchmarks/algorithms.py --curves --model FOLDER     learning curves of all presets on one task

Speed: [512, 1024] tensors, two threads, the fastest of several; a loss with its gradient. Curves: the model
says `a` three times in a clause, a task that a very small model learns in seconds; mean over seeds with its
standard error, as a table and as curves.png.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Memory that is given back to the system between operations comes back page by page, which takes longer than
# the mathematics; the C library reads this when the process starts.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
ROWS, COLUMNS, GROUP = 512, 1024, 8
BOUND_MS, GAE_BOUND_MS = 50, 150
PROMPTS = (
    "Once upon a time",
    "Lily went to the",
    "One day, Tom",
    "The dog was",
    "There was a big",
    "Mom said",
)


def fastest_ms(work: Callable[[], object], repeats: int) -> float:
    best = math.inf
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best * 1e3


def speed(repeats: int) -> None:
    """Prints a table."""
    import torch

    from ppokit.catalog import Catalog
    from ppokit.protocols import BuildContext, Reweighing
    from ppokit.types import LossInputs, Rewards, Rollout

    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)

    def normal(scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(ROWS, COLUMNS, generator=generator)

    lengths = torch.randint(1, COLUMNS + 1, (ROWS,), generator=generator)
    mask = torch.arange(COLUMNS) < lengths[:, None]
    old = -normal().abs()
    rollout = Rollout(
        ids=[str(i) for i in range(ROWS)],
        group_ids=torch.arange(ROWS) // GROUP,
        prompts=[""] * ROWS,
        responses=[""] * ROWS,
        rows=[{}] * ROWS,
        prompt_ids=[[0]] * ROWS,
        response_ids=torch.zeros(ROWS, COLUMNS, dtype=torch.long),
        response_mask=mask,
        finished=torch.rand(ROWS, generator=generator) < 0.5,
        sampler_logprobs=old + normal(0.01),
        values=normal(),
    )
    rewards = Rewards(
        token_rewards=normal(),
        scores=torch.zeros(ROWS),
        breakdown={},
        outcomes={},
        valid=torch.ones(ROWS, dtype=torch.bool),
        greedy_returns=normal()[:, 0],
    )
    leaf = {"logprobs": old + normal(0.1), "values": normal(), "entropy": normal().abs()}
    for tensor in leaf.values():
        tensor.requires_grad_()
    inputs = LossInputs(
        mask=mask,
        advantages=normal(),
        returns=normal(),
        sampler_logprobs=rollout.sampler_logprobs,
        old_logprobs=old,
        old_values=normal(),
        ref_logprobs=old + normal(0.1),
        **leaf,
    )
    context = BuildContext(torch.device("cpu"), torch.float32, 0)
    catalog = Catalog()
    print(f"[{ROWS}, {COLUMNS}] tensors, two threads, fastest of {repeats}\n")
    print(f"{'kind':<12}{'name':<24}{'ms':>8}{'bound':>8}")
    for kind in ("advantages", "losses"):
        for name in catalog.names(kind):
            component, _ = catalog.component(kind, name)
            part: Any = component.build(component.options(), context)

            def work(part: Any = part, kind: str = kind) -> None:
                if kind == "advantages":
                    part.estimate(rollout, rewards)
                elif isinstance(part, Reweighing):
                    part.weigh(inputs)
                else:
                    part.token_losses(inputs).token_losses.where(mask, torch.zeros(())).sum().backward()

            bound = GAE_BOUND_MS if name == "gae" else BOUND_MS
            took = fastest_ms(work, repeats)
            print(
                f"{kind:<12}{name:<24}{took:>8.1f}{bound:>8}{'' if took < bound else '  too slow'}",
                flush=True,
            )


def train(preset: str, model: str, seed: int, steps: int, work: Path) -> list[float]:
    """Mean reward of each step."""
    from ppokit import PPOTrainer, Recipe

    (work / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    recipe = {
        "preset": preset,
        "model": {"name": model, "dtype": "float32"},
        "lora": {"r": 4},
        "prompts": {"path": str(work / "prompts.jsonl")},
        "rollout": {"max_new_tokens": 12, "stop": [".", ","], "prompts_per_step": len(PROMPTS)},
        "rewards": [{"use": "pattern", "pattern": "a", "mode": "count", "clip": [0, 3]}],
        "update": {"learning_rate": 3e-3},
        "run": {"steps": steps, "seed": seed, "out": str(work / "run")},
    }
    trainer = PPOTrainer(Recipe.from_dict(recipe))
    means = []
    for prompts in trainer.prompts:
        rollout = trainer.collect(prompts)
        rollout, rewards = trainer.refill(rollout, trainer.score(rollout))
        means.append(float(rewards.scores[rewards.valid].mean()))
        trainer.update(rollout, trainer.estimate(rollout, rewards))
    return means


def curves(model: str, seeds: int, steps: int, out: Path) -> None:
    """Prints the learning curves' table and draws them."""
    import torch

    from ppokit.presets import names

    torch.set_num_threads(1)
    shown = sorted({1, *range(5, steps + 1, 5), steps})
    print(f"mean reward (standard error) over {seeds} seeds, of 3 at most\n")
    print(f"{'preset':<22}" + "".join(f"{f'step {step}':>14}" for step in shown))
    found: dict[str, list[list[float]]] = {}
    for preset in names():
        with tempfile.TemporaryDirectory() as folder:
            found[preset] = [train(preset, model, seed, steps, Path(folder)) for seed in range(seeds)]
        cells = []
        for step in shown:
            numbers = [run[step - 1] for run in found[preset]]
            error = statistics.stdev(numbers) / math.sqrt(seeds) if seeds > 1 else 0.0
            cells.append(f"{statistics.mean(numbers):.2f} ({error:.2f})")
        print(f"{preset:<22}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    draw(found, out)
    print(f"\n{out}")


def draw(found: dict[str, list[list[float]]], out: Path) -> None:
    """One panel a preset, with every seed faint behind the mean, and the others' means in grey."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    means = {
        preset: [statistics.mean(at) for at in zip(*runs, strict=True)] for preset, runs in found.items()
    }
    columns = 3
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(9, 2.4 * lines + 0.4), layout="constrained", dpi=150)
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axis, (preset, runs) in zip(axes, found.items(), strict=False):
        steps = range(1, len(runs[0]) + 1)
        for other in means.values():
            axis.plot(steps, other, color="#d5d5d5", linewidth=0.8)
        for run in runs:
            axis.plot(steps, run, color="#1f6f8b", alpha=0.25, linewidth=0.8)
        axis.plot(steps, means[preset], color="#1f6f8b", linewidth=2)
        axis.set_title(preset, loc="left", fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel("mean reward")
    for axis in axes[-columns:]:
        axis.set_xlabel("step")
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curves", action="store_true", help="learning curves instead of speed")
    parser.add_argument("--model", help="for --curves: a very small causal LM's folder or hub id")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    if not arguments.curves:
        speed(arguments.repeats)
    elif arguments.model is None:
        parser.error("--curves needs --model")
    else:
        curves(arguments.model, arguments.seeds, arguments.steps, arguments.out)


if __name__ == "__main__":
    main()
