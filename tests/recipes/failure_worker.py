"""Runs in which one of two processes fails, one after the other. Started by test_two_processes.py.

Writes what each process raised into `<run>.<rank>`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from ppokit import PPOTrainer, Recipe


def outcome(path: Path) -> str:
    """What a recipe's run raised on this process; the loop is its own where the file's name begins so."""
    recipe = Recipe.load(path)
    try:
        trainer = PPOTrainer(recipe)
        if not path.stem.startswith("own_loop"):
            trainer.train()
            return "done"
        with trainer:
            rollout = trainer.collect(next(trainer.prompts))
            rewards = trainer.score(rollout)
            trainer.update(rollout, trainer.estimate(rollout, rewards))
            return "done"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        text = outcome(Path(name))
        Path(name).with_suffix("." + os.environ["RANK"]).write_text(text)
