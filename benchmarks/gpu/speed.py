"""How fast: sections of part 2 of benchmarks/gpu/prove.py. See docs/gpu.md."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from measures import peak_bytes, run_steps, sync
from work import (
    SHAPES,
    TINY,
    WORK,
    Shape,
    Work,
    made_on_the_card,
    recipe_of,
    texts,
)

if TYPE_CHECKING:
    from prove import Bench

PUBLISHED = {"Qwen3-0.6B": (13_340.0, 5.1), "Qwen3-4B": (6_230.0, 23.3)}
"""prime-rl's for one H100: tokens/s and GiB of an update with LoRA r=16, 16,384 tokens a sequence."""


def update_flops(shape: Shape, work: Work, epochs: int, *, value: bool) -> float:
    """Multiplications and additions of an update with LoRA, the head and attention counted, adapters not.

    A frozen matrix costs 2 per weight and token forward and 2 for the gradient into its input. Attention sees
    half of all pairs, in two products forward and four backward. The value function passes the upper third
    of the layers, whose input is kept.
    """
    tokens, new = work.prompts * work.text, work.prompts * work.new_tokens
    attention = 2 * work.text * shape.layers * shape.heads * (shape.head_size or shape.hidden // shape.heads)
    passes = tokens * (4 * shape.linear + 3 * attention) * (1 + (1 / 3 if value else 0))
    return epochs * (passes + new * 4 * shape.hidden * shape.vocabulary)


def share_of_rate(bench: Bench, rate: float) -> float | None:
    """Of the card's measured matrix rate."""
    ceiling = bench.figures.get("ceilings", {}).get("matrix_tflops")
    return None if ceiling is None else rate / (ceiling * 1e12)


def share_of_floor(bench: Bench, shape: Shape, tokens: int, sampling_s: float) -> float | None:
    """The time in which the weights could be read once per token, by what sampling took."""
    ceiling = bench.figures.get("ceilings", {}).get("copy_gb_s")
    weights = 2 * (shape.linear + shape.hidden * shape.vocabulary)
    return None if ceiling is None else tokens * weights / (ceiling * 1e9) / sampling_s


def step_figures(bench: Bench, shape: Shape, work: Work, **sections: Any) -> dict[str, Any]:
    """A step by phase, against the card's ceilings."""

    def figures_of(trainer: Any, metrics: dict[str, float]) -> dict[str, Any]:
        epochs, update = trainer.settings.update.epochs, metrics["time/update_s"]
        flops = update_flops(shape, work, epochs, value=trainer.roles.value_mode == "own_adapter")
        phases = [k for k in metrics if k.startswith(("time/", "memory/")) and "time/reward/" not in k]
        return {
            **{name: metrics[name] for name in phases},
            "tokens_per_s": metrics["tokens_per_s"],
            "update_tokens_per_s": epochs * work.prompts * work.text / update,
            "update_tflops": flops / update / 1e12,
            "update_share_of_matrix_rate": share_of_rate(bench, flops / update),
            "sampling_share_of_bandwidth_floor": share_of_floor(
                bench, shape, work.new_tokens, metrics["time/sampling_s"]
            ),
            "logprob_gap": metrics.get("rollout/logprob_gap"),
            "audit_gb": sum(trainer.components.audit.values()) / 1e9,
            "reserved_gb": None if bench.dry else torch.cuda.max_memory_reserved() / 1e9,
            "rows_of_texts": trainer.roles.packed,
        }

    return run_steps(bench, shape, work, figures_of, **sections)


def step_of(name: str) -> Callable[[Bench], dict[str, Any]]:
    def measure(bench: Bench) -> dict[str, Any]:
        shape, work = (SHAPES["tiny"], TINY) if bench.dry else (SHAPES[name], WORK[name])
        return step_figures(bench, shape, work)

    return measure


def sample(bench: Bench, trainer: Any, prompts: Any) -> tuple[float, int]:
    """Seconds, and tokens of the responses."""
    sync(bench)
    began = time.perf_counter()
    policy = trainer.collector.policy(1)
    rollout = trainer.collector.generator.generate(policy, prompts, n=1, seed=0, step=1)
    sync(bench)
    return time.perf_counter() - began, int(rollout.loss_mask.sum())


def sampling(bench: Bench) -> dict[str, Any]:
    """Tokens per second of the engine alone, at batches of 256, 64 and 1, for 1.5B."""
    from ppokit import PPOTrainer, Recipe

    shape, work = (
        (SHAPES["tiny"], TINY) if bench.dry else (SHAPES["1.5B"], replace(WORK["1.5B"], prompts=256))
    )
    with tempfile.TemporaryDirectory() as folder, made_on_the_card(shape):
        recipe = recipe_of(shape, work, Path(folder))
        with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
            prompts = next(iter(trainer.prompts))
            for batch in (work.prompts, work.prompts // 4, 1):
                some = prompts.select(range(batch))
                first, _ = sample(bench, trainer, some)  # compiles
                taken, tokens = sample(bench, trainer, some)
                figures = {
                    "first_s": first,
                    "tokens_per_s": tokens / taken,
                    "share_of_bandwidth_floor": share_of_floor(bench, shape, work.new_tokens, taken),
                }
                bench.keep(**{f"batch_{batch}_{name}": value for name, value in figures.items()})
    return {}


def numbers_of(rollout: Any) -> Any:
    """Advantages of a rollout, at random."""
    from ppokit.plugin import Advantages

    numbers = torch.randn(rollout.response_ids.shape) * rollout.loss_mask
    return Advantages(numbers, trained=torch.ones(len(rollout), dtype=torch.bool))


POLICY_ALONE: dict[str, Any] = {
    "value": None,
    "rewards": [{"use": "pattern", "pattern": "7"}],
    "advantages": {"use": "monte_carlo"},
    "losses": [{"use": "ppo_clip"}],
}


def update_s(bench: Bench, trainer: Any, shape: Shape, count: int, work: Work) -> float:
    """Seconds of an update on recorded texts of one length, and the card's peak is its own."""
    prompts, answers = (
        texts(count, tokens, shape, seed)
        for seed, tokens in enumerate((work.prompt_tokens, work.new_tokens - 1))
    )
    rollout = trainer.recorded(prompts, [" " + answer for answer in answers])
    if not bench.dry:
        torch.cuda.reset_peak_memory_stats()
    sync(bench)
    began = time.perf_counter()
    trainer.update(rollout, numbers_of(rollout))
    sync(bench)
    return time.perf_counter() - began


def published(name: str) -> Callable[[Bench], dict[str, Any]]:
    """The update alone, on sequences of 16,384 tokens of which all but 8 are trained on."""

    def measure(bench: Bench) -> dict[str, Any]:
        from ppokit import PPOTrainer, Recipe

        shape = SHAPES["tiny qwen3" if bench.dry else name]
        length, count = (64, 2) if bench.dry else (16_384, 2)
        work, (rate, gib) = Work(count, 8, length - 8, 1, length), PUBLISHED[name]
        own = {**POLICY_ALONE, "update": {"epochs": 1, "activation_checkpointing": True}}
        with tempfile.TemporaryDirectory() as folder, made_on_the_card(shape):
            recipe = recipe_of(shape, work, Path(folder), **own)
            with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
                for _ in range(2):  # the first one warms up
                    tokens_per_s = count * length / update_s(bench, trainer, shape, count, work)
                    peak_gib = peak_bytes(bench) / 2**30
                    bench.keep(
                        tokens_per_s=tokens_per_s,
                        peak_gib=peak_gib,
                        of_published_rate=tokens_per_s / rate,
                        of_published_memory=peak_gib / gib,
                    )
        return {}

    return measure


def attempt(bench: Bench, run: Callable[[int], dict[str, Any]], count: int) -> dict[str, Any] | None:
    """A run's figures; None where memory does not suffice."""
    gc.collect()  # the last error's frames hold that run's tensors
    if not bench.dry:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        return run(count)
    except Exception as error:
        cause: BaseException | None = error  # an engine's own is that of a plugin's error
        while cause is not None and not isinstance(cause, torch.OutOfMemoryError):
            cause = cause.__cause__
        if cause is None:
            raise
        return None


def largest(
    bench: Bench, name: str, count: int, most: int, run: Callable[[int], dict[str, Any]], limit_s: float
) -> None:
    """Search the largest count that fits: doubled until one does not, then halfway between the two.

    The figures of the largest that fitted are kept, and as `NAME_too_many` the smallest that did not, which
    is none where the search came to `most` or its next run would have gone beyond its seconds.
    """
    ends = time.perf_counter() + limit_s
    fitted, failed, each_s = 0, most + 1, 0.0
    while fitted < count < failed and time.perf_counter() + each_s * count <= ends:
        began = time.perf_counter()
        figures = attempt(bench, run, count)
        if figures is None:
            failed = count
            bench.keep(**{f"{name}_too_many": failed})
        else:
            fitted, each_s = count, (time.perf_counter() - began) / count
            bench.keep(**figures)
        count = min(2 * fitted, most) if failed > most else (fitted + failed) // 2


def largest_batch(bench: Bench) -> dict[str, Any]:
    """How much 7B takes at once, searched: texts of 512 tokens in an update, responses in sampling."""
    from ppokit import PPOTrainer, Recipe

    shape, most = (SHAPES["tiny"], 4) if bench.dry else (SHAPES["7B"], 2048)
    work = replace(TINY if bench.dry else WORK["7B"], prompts=most, steps=1)
    own = {
        **POLICY_ALONE,
        "rollout": {"batch_size": most, "decoding": "dynamic"},
        "update": {"epochs": 1, "tokens_per_microbatch": most * work.text},
    }
    with tempfile.TemporaryDirectory() as folder, made_on_the_card(shape):
        recipe = recipe_of(shape, work, Path(folder), **own)
        with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
            prompts = next(iter(trainer.prompts))

            def train(count: int) -> dict[str, Any]:
                update_s(bench, trainer, shape, count, work)
                return {"update_texts": count, "update_peak_gb": peak_bytes(bench) / 1e9}

            def answer(count: int) -> dict[str, Any]:
                taken, _ = sample(bench, trainer, prompts.select(range(count)))
                return {
                    "responses": count,
                    "responses_s": taken,
                    "responses_peak_gb": peak_bytes(bench) / 1e9,
                }

            largest(bench, "update_texts", 1, most, train, bench.left_s / 2)
            trainer.components.backend.zero()
            largest(bench, "responses", most // 4, most, answer, bench.left_s - 3)
    return {}
