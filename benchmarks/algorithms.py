"""How fast each algorithm is, and how each preset learns.

    python benchmarks/algorithms.py             both
    python benchmarks/algorithms.py speed       milliseconds of each estimator and loss
    python benchmarks/algorithms.py curves      learning curves of all presets on one task

Speed: [512, 1024] tensors, two threads, the fastest of several; a loss with its gradient. The exit status is
1 where one is slower than its bound. Curves: the model says `a` three times in a clause, a task that a very
small model learns in seconds; mean over seeds with its standard error, as a table and as a plot.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def speed(repeats: int) -> bool:
    """Prints a table; False where a bound is exceeded."""
    import torch

    from ppokit.cli.allocator import keep_freed_memory
    from ppokit.config.registry import PluginRegistry
    from ppokit.plugin.protocols import AdvantageWeighting, BuildContext
    from ppokit.plugin.types import LossInputs, Rewards, Rollout

    torch.set_num_threads(2)
    keep_freed_memory()  # as a training run does
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
        loss_mask=mask,
        outcomes=["truncated"] * ROWS,
        policy_version=torch.zeros(ROWS, dtype=torch.long),
        sampler_logprobs=old + normal(0.01),
        values=normal(),
    )
    rewards = Rewards(
        token_rewards=normal(),
        scores=torch.zeros(ROWS),
        breakdown={},
        outcomes={},
        scored=torch.ones(ROWS, dtype=torch.bool),
        trained=torch.ones(ROWS, dtype=torch.bool),
        greedy_returns=normal()[:, 0],
    )
    leaf = {"new_logprobs": old + normal(0.1), "values": normal(), "entropy": normal().abs()}
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
    registry = PluginRegistry()
    fast = True
    print(f"[{ROWS}, {COLUMNS}] tensors, two threads, fastest of {repeats}\n")
    print(f"{'kind':<12}{'name':<24}{'ms':>8}{'bound':>8}")
    for kind in ("advantages", "losses"):
        for name in registry.names(kind):
            component, _ = registry.component(kind, name)
            part: Any = component.build(component.options(), context)

            def work(part: Any = part, kind: str = kind) -> None:
                if kind == "advantages":
                    part.estimate(rollout, rewards)
                elif isinstance(part, AdvantageWeighting):
                    part.advantage_weights(inputs)
                else:
                    part.token_losses(inputs).token_losses.where(mask, torch.zeros(())).sum().backward()

            bound = GAE_BOUND_MS if name == "gae" else BOUND_MS
            took = fastest_ms(work, repeats)
            fast = fast and took < bound
            print(
                f"{kind:<12}{name:<24}{took:>8.1f}{bound:>8}{'' if took < bound else '  too slow'}",
                flush=True,
            )
    return fast


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
        "run": {"steps": steps, "seed": seed, "out": str(work / f"run{seed}"), "sample_every": 0},
    }
    trainer = PPOTrainer(Recipe.from_dict(recipe))
    trainer.train()
    return [line["reward/mean"] for line in trainer.run_dir.read_metrics()]


def curves(model: str, seeds: int, steps: int, out: Path) -> None:
    """Prints the learning curves' table and draws them."""
    import torch

    from ppokit.config.presets import names

    torch.set_num_threads(1)
    shown = sorted({1, *range(5, steps + 1, 5), steps})
    print(f"mean reward (standard error) over {seeds} seeds, of 3 at most\n")
    print(f"{'preset':<22}" + "".join(f"{f'step {step}':>14}" for step in shown))
    curves: dict[str, list[list[float]]] = {}
    for preset in names():
        with tempfile.TemporaryDirectory() as folder:
            curves[preset] = [train(preset, model, seed, steps, Path(folder)) for seed in range(seeds)]
        cells = []
        for step in shown:
            numbers = [run[step - 1] for run in curves[preset]]
            error = statistics.stdev(numbers) / math.sqrt(seeds) if seeds > 1 else 0.0
            cells.append(f"{statistics.mean(numbers):.2f} ({error:.2f})")
        print(f"{preset:<22}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    draw(curves, out)
    print(f"\n{out}")


def draw(curves: dict[str, list[list[float]]], out: Path) -> None:
    """One panel a preset, with every seed faint behind the mean, and the others' means in grey."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    means = {
        preset: [statistics.mean(at) for at in zip(*runs, strict=True)] for preset, runs in curves.items()
    }
    columns = 3
    lines = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(9, 2.4 * lines + 0.7), layout="constrained", dpi=150)
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axis, (preset, runs) in zip(axes, curves.items(), strict=False):
        steps = range(1, len(runs[0]) + 1)
        for other in means.values():
            axis.plot(steps, other, color="#d5d5d5", linewidth=0.8, label="the other presets' means")
        for run in runs:
            axis.plot(steps, run, color="#1f6f8b", alpha=0.25, linewidth=0.8, label="one seed")
        axis.plot(steps, means[preset], color="#1f6f8b", linewidth=2, label=f"mean of {len(runs)} seeds")
        axis.set_title(preset, loc="left", fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel("mean reward")
    for axis in axes[-columns:]:
        axis.set_xlabel("step")
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def tests_model() -> Path:
    """The folder of the tests' own model, trained now if need be."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from tiny_model import tiny_model_folder

    return tiny_model_folder()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["speed", "curves"], help="both, if left out")
    parser.add_argument(
        "--model", type=Path, help="for the curves: folder of a very small LM; else the tests' own"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument(
        "--out", type=Path, default=Path("bench_out/curves.png"), help="the plot of the curves"
    )
    arguments = parser.parse_args()
    fast = True
    if arguments.what != "curves":
        fast = speed(arguments.repeats)
    if arguments.what is None:
        print()
    if arguments.what != "speed":
        curves(str(arguments.model or tests_model()), arguments.seeds, arguments.steps, arguments.out)
    return 0 if fast else 1


if __name__ == "__main__":
    sys.exit(main())
