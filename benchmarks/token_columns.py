"""What `run.token_columns` costs a step: its share of the seconds, and the bytes of its columns.

    python benchmarks/token_columns.py                    the packaged SmolLM2-135M-Instruct
    python benchmarks/token_columns.py --model CHECKPOINT --steps 2

The step is that of step.py with 64 responses of 48 tokens. Within it a stopwatch runs while numbers of tokens
are put aside, and while their columns are gathered; writing a step's samples is timed with them and without
them. Steps with and without the key differ by more than the key costs, so that they are not compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from step import SMOLLM2, recipe_of, save_reward_model

RESPONSES, REPEATS = 64, 5


class Stopwatch:
    """Seconds of what runs under it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with self.running():
                return function(*arguments)

        return call


def watch_record(watch: Stopwatch) -> None:
    """Run the stopwatch in `TokenRecord`: also in what it does later, with numbers that have arrived."""
    from ppokit.training.token_record import TokenRecord

    keep = TokenRecord.keep

    def timed_keep(self: Any, name: str, indices: Any, numbers: Any, readings: Any) -> None:
        fetch = SimpleNamespace(fetch=lambda tensor, then: readings.fetch(tensor, watch.timed(then)))
        watch.timed(keep)(self, name, indices, numbers, fetch)

    TokenRecord.keep, TokenRecord.gather = timed_keep, watch.timed(TokenRecord.gather)  # type: ignore[assignment,method-assign]


def writing(path: Path, *samples: Any) -> tuple[float, int]:
    """Fastest seconds, and bytes, of a step's samples."""
    import pyarrow.parquet as pq

    from ppokit.run.sample_columns import sample_table

    watches = []
    for _ in range(REPEATS):
        watches.append(Stopwatch())
        with watches[-1].running():
            pq.write_table(sample_table(*samples), path)
    return min(watch.seconds for watch in watches), path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=SMOLLM2, help="a checkpoint's folder, a hub id or package:...")
    parser.add_argument("--steps", type=int, default=1, help="steps to run; each is reported")
    arguments = parser.parse_args()

    from ppokit import PPOTrainer, Recipe
    from ppokit.models.loading import find_model

    checkpoint = find_model(arguments.model).where
    watch = Stopwatch()
    watch_record(watch)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if os.fork() == 0:  # a process of its own, whose memory is not the trainer's
            save_reward_model(checkpoint, work / "reward_model")
            os._exit(0)
        if os.wait()[1] != 0:
            sys.exit("the reward model could not be saved")
        recipe: Any = recipe_of(checkpoint, arguments.steps, work)
        recipe["rollout"]["prompts_per_step"] = RESPONSES
        with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
            for prompts in trainer.prompts:
                watch.seconds, step = 0.0, Stopwatch()
                with step.running():
                    rollout = trainer.collect(prompts)
                    rewards = trainer.score(rollout)
                    advantages = trainer.estimate(rollout, rewards)
                    stats = trainer.update(rollout, advantages)
                samples, record = (rollout, rewards, advantages), trainer.components.updater.record
                plain_s, plain = writing(work / "plain.parquet", *samples, None)
                whole_s, whole = writing(work / "whole.parquet", *samples, record)
                with step.running():
                    trainer.report(*samples, stats)
                share = (watch.seconds + max(0.0, whole_s - plain_s)) / step.seconds
                print(
                    f"step {trainer.step}: token columns are {100 * share:.3f} % of {step.seconds:.2f} s, "
                    f"{1000 * watch.seconds:.1f} ms of the update and {1000 * (whole_s - plain_s):.1f} ms of "
                    f"writing; and {whole - plain:,} bytes beside {plain:,}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
