"""What each fast path of ppokit/kernels is worth in a step, in float32 and bfloat16.

    python benchmarks/fast_paths.py                         the packaged SmolLM2-135M-Instruct
    python benchmarks/fast_paths.py --model CHECKPOINT --repeats 5 --dtypes float32

The work is that of benchmarks/step.py with fewer and shorter responses and one epoch. A row is the median
time of a step without one kernel, that of a step with all of them, and the share of the former that the
kernel saves. The steps are timed in turn; on a CPU by the process's CPU time, which others on the machine
disturb less than the clock on the wall. A kernel that saves under 3 % on both dtypes is not worth its code.

Not kernels.py: a script's folder comes first on its path, and transformers would take it for the package.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from step import SMOLLM2, recipe_of

WORTH = 0.03
ALL = "all"


def trainer_of(checkpoint: str, dtype: str, work: Path) -> Any:
    """A trainer of the work, at a learning rate that changes no text."""
    from ppokit import PPOTrainer, Recipe

    recipe: dict[str, Any] = recipe_of(checkpoint, 1, work)
    recipe["model"]["dtype"] = dtype
    recipe["rollout"].update(max_new_tokens=24, min_new_tokens=24, prompts_per_step=8)
    recipe["rewards"] = [{"use": "length", "target": 24}, {"use": "kl_penalty", "weight": 0.05}]
    recipe["update"].update(learning_rate=1e-12, epochs=1)
    return PPOTrainer(Recipe.from_dict(recipe))


def seconds_of(trainer: Any, prompts: Any) -> float:
    """One step."""
    clock = time.process_time if trainer.roles.device.type == "cpu" else time.perf_counter
    start = clock()
    rollout = trainer.collect(prompts)
    rewards = trainer.score(rollout)
    trainer.update(rollout, trainer.estimate(rollout, rewards))
    trainer.roles.clear_cache()
    return clock() - start


def times_of(trainer: Any, repeats: int) -> dict[str, list[float]]:
    """Seconds of steps with all kernels, and without each of them, by its name."""
    from ppokit.kernels import registry

    models = [(trainer.roles.model, registry.TRAINING), (trainer.roles.sampler(), registry.SAMPLING)]
    installed = [(model, kernel) for model, kernels in models for kernel in kernels if kernel.install(model)]
    names = sorted({kernel.name for _, kernel in installed})
    prompts = next(iter(trainer.prompts))
    seconds_of(trainer, prompts)  # the first one prepares
    times: dict[str, list[float]] = {name: [] for name in (ALL, *names)}
    for _ in range(repeats):
        for name in times:
            without = [(model, kernel) for model, kernel in installed if kernel.name == name]
            for model, kernel in without:
                kernel.remove(model)
            times[name].append(seconds_of(trainer, prompts))
            for model, kernel in without:
                kernel.install(model)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=SMOLLM2, help="a checkpoint's folder, a hub id or package:...")
    parser.add_argument("--repeats", type=int, default=5, help="steps with and without each kernel")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args()

    from ppokit.models.loading import find_model

    checkpoint = find_model(arguments.model).where
    shares: dict[str, list[float]] = {}
    for dtype in arguments.dtypes:
        print(f"{dtype:16}{'without':>10}{'with all':>10}{'saves':>9}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            times = times_of(trainer_of(checkpoint, dtype, Path(folder)), arguments.repeats)
        together = statistics.median(times.pop(ALL))
        for name, seconds in times.items():
            without = statistics.median(seconds)
            shares.setdefault(name, []).append(1 - together / without)
            print(f"{name:16}{without:9.3f}s{together:9.3f}s{shares[name][-1]:9.1%}", flush=True)
    for name in sorted(name for name, saved in shares.items() if max(saved) < WORTH):
        print(f"{name} saves under {WORTH:.0%} of a step throughout.")


if __name__ == "__main__":
    main()
