"""The numbers of small float32 runs, to hold a change of the code to: a refactoring changes no bit of them.

    python benchmarks/same_numbers.py record before.json          before the change
    python benchmarks/same_numbers.py record after.json           after it
    python benchmarks/same_numbers.py compare before.json after.json

Every preset, a recipe like the quickstart's, and variants (an adapter of its own with mini-batches, all
weights, scaled and recorded rewards), four steps each: metrics but those of time and memory, scores, and
hashes of samples, advantages and the trained policy. They hold for one machine and one version of torch.
Renamed metrics are listed as missing and new. The exit status of `compare` is 1 where something differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from algorithms import PROMPTS

SEEDS = (0, 1, 2)
COLUMNS = ("response_ids", "sampler_logprobs", "advantages", "token_rewards", "response")


def recipes(model: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Each recipe by its name and seed."""
    from ppokit.config.presets import names

    prompts, ratings = folder / "prompts.jsonl", folder / "ratings.csv"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    rows = [
        f'"{prompt}"," {word} the {k} day.",{(7 * i + 3 * k) % 5 + 1}'
        for i, prompt in enumerate(PROMPTS)
        for k, word in enumerate(("happy", "sad", "big"))
    ]
    ratings.write_text("\n".join(["prompt,response,rating", *rows]) + "\n")

    def recipe(seed: int, **sections: Any) -> dict[str, Any]:
        return {
            "model": {"name": model, "dtype": "float32"},
            "lora": {"r": 4},
            "prompts": {"path": str(prompts)},
            "rollout": {"max_new_tokens": 10, "prompts_per_step": 4, "responses_per_prompt": 2},
            "rewards": [
                {"use": "pattern", "pattern": "happy|love|[aeiou]", "mode": "count"},
                {"use": "kl_penalty", "weight": 0.05},
            ],
            "losses": [{"use": "ppo_clip"}, {"use": "value_clip", "weight": 0.1}],
            "update": {"learning_rate": 3e-3, "epochs": 2},
            "run": {"steps": 4, "seed": seed, "sample_every": 0},
            **sections,
        }

    count = [{"use": "pattern", "pattern": "a", "mode": "count", "clip": [0, 3]}]
    by_name: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        by_name[f"quickstart/{seed}"] = recipe(
            seed,
            lora={"r": 16, "alpha": 32},
            value="policy_trunk",
            rollout={"max_new_tokens": 20, "prompts_per_step": 6, "responses_per_prompt": 4},
            rewards=[{"use": "sentiment"}, {"use": "kl_penalty", "weight": 0.02}],
            advantages={"use": "gae", "whiten": "batch"},
            update={"epochs": 2, "learning_rate": 5e-4, "tokens_per_microbatch": 256},
        )
        for preset in names():
            preset_recipe = recipe(
                seed,
                preset=preset,
                rollout={"max_new_tokens": 12, "stop": [".", ","], "prompts_per_step": 6},
                rewards=count,
                update={"learning_rate": 5e-3},
            )
            del preset_recipe["losses"]
            by_name[f"{preset}/{seed}"] = preset_recipe
    return {
        **by_name,
        "own_adapter/0": recipe(
            0, update={"learning_rate": 3e-3, "minibatches": 2, "tokens_per_microbatch": 64}
        ),
        "full/0": recipe(0, lora=None),
        "scaled/0": recipe(
            0,
            rewards=[{**count[0], "scale": "running"}, {"use": "length", "target": 5, "scale": "reference"}],
            advantages={"whiten": "minibatch"},
        ),
        "recorded/0": recipe(
            0,
            rollout={
                **{"use": "recorded", "path": str(ratings), "recorded": 0.5, "max_new_tokens": 10},
                **{"prompts_per_step": 4, "responses_per_prompt": 2},
            },
            rewards=[{"use": "human_csv", "path": str(ratings)}, {"use": "kl_penalty", "weight": 0.05}],
            losses=[
                {"use": "ppo_clip"},
                {"use": "value_clip", "weight": 0.1},
                {"use": "off_policy_correction"},
                {"use": "kl", "weight": 0.01},
                {"use": "entropy", "weight": 0.01},
            ],
        ),
    }


def numbers_of(run: Path) -> dict[str, Any]:
    """What a run's folder holds of its numbers."""
    import pyarrow.parquet as pq

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lasting = [
        {k: v for k, v in line.items() if not k.startswith(("time/", "memory/")) and k != "tokens_per_s"}
        for line in lines
    ]
    steps = [pq.read_table(path).to_pydict() for path in sorted((run / "rollouts").glob("*.parquet"))]
    (policy,) = (run / "policy").glob("*.safetensors")
    return {
        "metrics": lasting,
        "scores": [step["score"] for step in steps],
        "policy": hashlib.sha256(policy.read_bytes()).hexdigest(),
        **{
            column: hashlib.sha256(json.dumps([step.get(column) for step in steps]).encode()).hexdigest()
            for column in COLUMNS
        },
    }


def record(out: Path, selected: list[str]) -> int:
    """Train every recipe and write its numbers."""
    import torch

    from ppokit import PPOTrainer, Recipe

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from tiny_model import tiny_model_folder

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in recipes(str(tiny_model_folder()), Path(folder)).items():
            if selected and not name.startswith(tuple(selected)):
                continue
            run = Path(folder) / name.replace("/", "-")
            recipe["run"]["out"] = str(run)
            PPOTrainer(Recipe.from_dict(recipe)).train()
            numbers[name] = numbers_of(run)
            print(name, f"{numbers[name]['metrics'][-1]['reward/mean']:.4f}", flush=True)
    out.write_text(json.dumps(numbers))
    return 0


def compare(before: Path, after: Path) -> int:
    """Print what differs; returns the exit status."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    differ = 0
    for name in sorted(old.keys() & new.keys()):
        changes = [key for key in old[name] if key != "metrics" and old[name][key] != new[name].get(key)]
        for step, (a, b) in enumerate(zip(old[name]["metrics"], new[name]["metrics"], strict=True), 1):
            changes += [
                f"{key}, step {step}: {a[key]} -> {b[key]}" for key in a if key in b and a[key] != b[key]
            ]
            if step == 1:
                changes += [f"missing {key}" for key in a.keys() - b.keys()]
                changes += [f"new {key}" for key in b.keys() - a.keys()]
        differ += bool(changes)
        print(f"{name}: {'; '.join(changes) or 'same'}")
    return int(differ > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("recipes", nargs="*", help="names, or how they begin; all without")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "record":
        sys.exit(record(arguments.out, arguments.recipes))
    sys.exit(compare(arguments.before, arguments.after))
