"""Whole runs on the card: the sampler is the trainer's policy, it learns, it resumes, and what it takes."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ppokit import PPOTrainer, Recipe
from ppokit.errors import PpokitWarning
from ppokit.kernels import registry
from ppokit.models.loading import find_model, load_model
from ppokit.models.roles import ModelRoles
from ppokit_rollouts.compiler import missing
from small_roles import LORA

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]

OPENERS = ("Once upon a time", "Lily went to the", "One day, Tom", "The dog was")
ON_CARD = torch.cuda.is_available()
STEPS = 30 if ON_CARD else 2
CPU_ONLY = ("short_attention", "linear")
Figure = Callable[[str, Any], None]


def recipe_of(tiny_model: Path, folder: Path, **sections: Any) -> dict[str, Any]:
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in OPENERS))
    recipe = {
        "model": {"name": str(tiny_model), "dtype": "bfloat16"},
        "lora": {"r": 8},
        "prompts": {"path": str(prompts)},
        "rewards": [{"use": "pattern", "pattern": "a", "mode": "count", "clip": [0, 3]}],
        "losses": [{"use": "ppo_clip"}, {"use": "value_clip", "weight": 0.1}],
        **sections,
    }
    recipe["rollout"] = {
        "decoding": "dynamic",  # compiling takes longer than these runs
        "max_new_tokens": 12 if ON_CARD else 4,
        "prompts_per_step": 4,
        "responses_per_prompt": 4 if ON_CARD else 2,
        **sections.get("rollout", {}),
    }
    recipe["update"] = {"learning_rate": 5e-3, "tokens_per_microbatch": 256, **sections.get("update", {})}
    out = str(folder / "run")
    recipe["run"] = {"steps": STEPS, "out": out, "sample_every": 0, **sections.get("run", {})}
    return {key: value for key, value in recipe.items() if value is not None}


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("preset", ["ppo", "grpo"])
def test_it_learns_and_the_sampler_is_the_trainer(
    tiny_model: Path, tmp_path: Path, figure: Figure, preset: str
) -> None:
    """The core itself stops a run whose sampler is further from the trainer than the dtype explains."""
    own = {"preset": preset, "losses": None}
    PPOTrainer(Recipe.from_dict(recipe_of(tiny_model, tmp_path, **own))).train()
    lines = metrics_of(tmp_path / "run")
    first, last = (sum(line["reward/mean"] for line in part) for part in (lines[:3], lines[-3:]))
    figure(f"reward of {preset}, first and last 3 steps", [first / 3, last / 3])
    figure(
        f"sampler's gap from the trainer, {preset}, bf16", max(line["rollout/logprob_gap"] for line in lines)
    )
    assert all(line["rollout/logprob_gap"] < 0.2 for line in lines)
    if ON_CARD:  # the dry run takes two steps
        assert last / 3 > first / 3 + 0.3


@pytest.mark.parametrize("decoding", ["static", *(["compiled"] if ON_CARD else [])])
def test_from_a_static_cache(tiny_model: Path, tmp_path: Path, figure: Figure, decoding: str) -> None:
    """In float32, where the gap is rounding alone; that it samples in another way would be a warning."""
    if decoding == "compiled" and (lacks := missing("cuda")):
        pytest.skip(f"torch.compile: this machine lacks {lacks}")
    model = {"name": str(tiny_model), "dtype": "float32"}
    recipe = recipe_of(tiny_model, tmp_path, model=model, rollout={"decoding": decoding}, run={"steps": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error", PpokitWarning)
        PPOTrainer(Recipe.from_dict(recipe)).train()
    gap = max(line["rollout/logprob_gap"] for line in metrics_of(tmp_path / "run"))
    figure(f"sampler's gap from the trainer, {decoding}, fp32", gap)
    assert gap < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_run_twice_and_resumed(tiny_model: Path, tmp_path: Path, figure: Figure, dtype: str) -> None:
    """Straight, again, and stopped in the middle: docs/gpu.md says which of these are one bit for bit."""
    hashes, steps = {}, 4 if ON_CARD else 2
    for name in ("straight", "again", "resumed"):
        folder = tmp_path / name
        folder.mkdir()
        recipe = recipe_of(
            tiny_model, folder, model={"name": str(tiny_model), "dtype": dtype}, run={"steps": steps}
        )
        if name == "resumed":
            recipe["run"]["steps"] = steps // 2
            PPOTrainer(Recipe.from_dict(recipe)).train()
            recipe["run"]["steps"] = steps
            trainer = PPOTrainer(Recipe.from_dict(recipe), resume=folder / "run")
        else:
            trainer = PPOTrainer(Recipe.from_dict(recipe))
        trainer.train()
        hashes[name] = trainer.components.policy_hash()
    figure(f"same run again is bit for bit the same, {dtype}", hashes["again"] == hashes["straight"])
    figure(f"resumed run is bit for bit the same, {dtype}", hashes["resumed"] == hashes["straight"])
    # Where the card itself is not deterministic, no resume can be.
    assert hashes["resumed"] == hashes["straight"] or hashes["again"] != hashes["straight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_kernels(tiny_model: Path, device: torch.device, figure: Figure, dtype: torch.dtype) -> None:
    """Which are installed; those for CPUs stay away from a card, and the numbers are those without any."""
    numbers = {}
    for fast_paths in ("off", "auto"):
        model = load_model(find_model(str(tiny_model)), dtype, device)
        roles = ModelRoles(model, lora=LORA, value="own_adapter", reference=True, fast_paths=fast_paths)
        installed = registry.install(model, registry.TRAINING) if fast_paths == "auto" else []
        sampling = registry.install(roles.sampler(), registry.SAMPLING) if fast_paths == "auto" else []
        ids = torch.arange(3, 40, device=device)[None]
        with torch.no_grad():
            numbers[fast_paths] = roles.sampler()(input_ids=ids).logits.float()
    figure(f"kernels in training and sampling, {dtype}", [installed, sampling])
    if device.type == "cuda":
        assert not {*installed, *sampling} & set(CPU_ONLY)
        assert {"lora_linear", "frozen_trunk"} <= {*installed}
    gap = float((numbers["auto"] - numbers["off"]).norm() / numbers["off"].norm())
    assert gap < (1e-5 if dtype == torch.float32 else 0.02)


WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def waits(events: Mapping[str, int]) -> int:
    """Calls by which the host waited for the card."""
    return sum(events.get(name, 0) for name in WAITS)


def test_the_update_waits_once_per_micro_batch(tiny_model: Path, tmp_path: Path, figure: Figure) -> None:
    """In the trace: updates on one rollout that differ in epochs; what differs are the inner loop's waits.

    So what an update does once, as its copy for a rollback, falls out.
    """
    counts = {}
    recipe = recipe_of(
        tiny_model, tmp_path, run={"steps": 9}, update={"minibatches": 1, "tokens_per_microbatch": 64}
    )
    trainer = PPOTrainer(Recipe.from_dict(recipe))
    rollout = trainer.collect(next(iter(trainer.prompts)))
    rewards = trainer.score(rollout)
    advantages = trainer.estimate(rollout, rewards)
    batches = trainer.components.updater.microbatches.divide(rollout, trainer.step + 1)
    micros = sum(len(part) for part in batches.micros)
    for epochs in (2, 2, 4):  # the first one warms up
        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        with profile(activities=activities) if ON_CARD else nullcontext() as trace:
            stats = trainer.update(rollout, advantages, epochs=epochs)
        trainer.report(rollout, rewards, advantages, stats)
        counts[epochs] = waits(Counter(event.name for event in (trace.events() if trace is not None else ())))
    trainer.end()
    per_pass = (counts[4] - counts[2]) / 2
    figure("waits of an epoch of the update, and its micro-batches", [per_pass, micros])
    # One more is the gradient's norm of the optimizer step. Without any, the trace does not show them.
    assert (1 if ON_CARD else 0) <= per_pass <= micros + 1
    assert micros > 1
