"""Runs of a small model on a pretended card; the last line it prints is JSON. See test_on_a_card.py.

In a process of its own, since a device's name holds for the whole process.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ppokit.build
from ppokit import PPOTrainer, Recipe
from ppokit.distributed import Processes
from pretended_card import PretendedCard, as_backend

CARD = as_backend()


class OnCard(Processes):
    """Where Accelerate would find a GPU."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.device = CARD


def run(recipe: dict[str, Any], out: str, card: PretendedCard | None = None) -> dict[str, Any]:
    """The last step's metrics, what waited for the card in its update, and that update's micro-batches."""
    trainer = PPOTrainer(Recipe.from_dict({**recipe, "run": {**recipe["run"], "out": out}}))
    before: Counter[tuple[str, str]] = Counter()
    update, waits, micros = trainer.update, Counter[tuple[str, str]](), 0
    for prompts in trainer.prompts:
        rollout = trainer.collect(prompts)
        rewards = trainer.score(rollout)
        advantages = trainer.estimate(rollout, rewards)
        before = Counter() if card is None else Counter(card.syncs)
        stats = update(rollout, advantages)
        waits = Counter() if card is None else card.syncs - before
        batches = trainer.components.updater.microbatches.divide(rollout, trainer.step)
        micros = sum(len(part) for part in batches.micros)
        trainer.report(rollout, rewards, advantages, stats)
    lines = (trainer.run_dir.folder / "metrics.jsonl").read_text().splitlines()
    return {
        "metrics": json.loads(lines[-1]),
        "waits": [[what, place, count] for (what, place), count in waits.items()],
        "microbatches": micros,
    }


def main() -> None:
    torch.set_num_threads(1)
    recipes: dict[str, Any] = json.loads(sys.stdin.read())
    on_cpu = {name: run(recipe, f"{name}-cpu") for name, recipe in recipes.items()}
    ppokit.build.Processes = OnCard  # type: ignore[misc]
    out = {}
    for name, recipe in recipes.items():
        with PretendedCard() as card:
            out[name] = {"cpu": on_cpu[name], "card": run(recipe, f"{name}-card", card)}
            recipe["run"] |= {"steps": recipe["run"]["steps"] + 1, "out": f"{name}-card"}
            trainer = PPOTrainer(Recipe.from_dict(recipe), resume=f"{name}-card")
            trainer.train()
            out[name]["resumed"] = trainer.step
    print(json.dumps(out))


if __name__ == "__main__":
    main()
