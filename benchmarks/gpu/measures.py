"""The sections of benchmarks/gpu/prove.py: what each measures, in ppokit's own ways. See docs/gpu.md."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from work import SHAPES, TINY, Shape, Work, made_on_the_card, make_model, recipe_of, texts

if TYPE_CHECKING:
    from prove import Bench, Section

PUBLISHED = {"Qwen3-0.6B": (13_340.0, 5.1), "Qwen3-4B": (6_230.0, 23.3)}
"""prime-rl's for one H100: tokens/s and GiB of an update with LoRA r=16, 16,384 tokens a sequence."""


def sync(bench: Bench) -> None:
    if not bench.dry:
        torch.cuda.synchronize()


def seconds(bench: Bench, work: Callable[[], object], times: int = 10) -> float:
    """Median of some runs, after one that does not count."""
    work()
    taken = []
    for _ in range(times):
        sync(bench)
        began = time.perf_counter()
        work()
        sync(bench)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def ceilings(bench: Bench) -> dict[str, Any]:
    """The card's bf16 matrix rate and copy bandwidth, on random numbers: what all shares are of."""
    size, length = (256, 2**20) if bench.dry else (8192, 2**31)
    a, b = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    rate = 2 * size**3 / seconds(bench, lambda: torch.mm(a, b, out=out))
    source = torch.randint(0, 255, (length,), device=bench.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    bandwidth = 2 * length / seconds(bench, lambda: target.copy_(source))
    return {"matrix_tflops": rate / 1e12, "copy_gb_s": bandwidth / 1e9}


def gpu_tests(bench: Bench) -> dict[str, Any]:
    """`pytest -m gpu`: passed, failed and skipped, and what they measured."""
    figures = bench.out / "gpu_tests.jsonl"
    figures.unlink(missing_ok=True)
    repository = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "-p", "no:cacheprovider"]
    log = (bench.out / "gpu_tests.log").open("w")
    code = subprocess.run(
        command,
        cwd=repository,
        env={**os.environ, "PPOKIT_GPU_FIGURES": str(figures), "PYTHONUNBUFFERED": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
        check=False,
    ).returncode
    last = (bench.out / "gpu_tests.log").read_text().strip().splitlines()[-1]
    result: dict[str, Any] = {"summary": last.strip("= ")}
    if figures.exists():
        for line in figures.read_text().splitlines():
            result |= json.loads(line)
    return {**result, **({"error": f"pytest ended with {code}"} if code else {})}


def update_flops(shape: Shape, work: Work, epochs: int, *, value: bool) -> float:
    """Multiplications and additions of an update with LoRA, the head and attention counted, adapters not.

    A frozen matrix costs 2 per weight and token forward and 2 for the gradient into its input. The value
    function passes the upper third of the layers, whose input is kept. Attention sees half of all pairs.
    """
    tokens, new = work.prompts * work.text, work.prompts * work.new_tokens
    attention = 2 * work.text * shape.layers * shape.heads * (shape.head_size or shape.hidden // shape.heads)
    body = tokens * (2 * shape.linear + attention)
    passes = 2 * body * (1 + (1 / 3 if value else 0))
    return epochs * (passes + new * 4 * shape.hidden * shape.vocabulary)


def trained(recipe: dict[str, Any], shape: Shape) -> tuple[dict[str, float], Any]:
    """The fastest step's metrics, the first one aside, and the trainer."""
    from ppokit import PPOTrainer, Recipe

    with made_on_the_card(shape):
        trainer = PPOTrainer(Recipe.from_dict(recipe))
        trainer.train()
    lines = (trainer.run_dir.folder / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    return min(steps[1:] or steps, key=lambda step: step["time/step_s"]), trainer


def step_figures(bench: Bench, shape: Shape, work: Work, **sections: Any) -> dict[str, Any]:
    """A step by phase, against the card's ceilings."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_of(shape, work, Path(folder), **sections)
        best, trainer = trained(recipe, shape)
    epochs = recipe["update"]["epochs"]
    flops = update_flops(shape, work, epochs, value=trainer.roles.value_mode == "own_adapter")
    update = best["time/update_s"]
    phases = [k for k in best if k.startswith(("time/", "memory/")) and not k.startswith("time/reward/")]
    figures: dict[str, Any] = {name: best[name] for name in phases}
    figures |= {
        "tokens_per_s": best["tokens_per_s"],
        "update_tokens_per_s": epochs * work.prompts * work.text / update,
        "update_tflops": flops / update / 1e12,
        "logprob_gap": best.get("rollout/logprob_gap"),
        "audit_gb": sum(trainer.components.audit.values()) / 1e9,
        **shares(bench, shape, work, flops / update, best["time/sampling_s"]),
    }
    return figures


def shares(bench: Bench, shape: Shape, work: Work, rate: float, sampling_s: float) -> dict[str, Any]:
    """Of the measured matrix rate, and of the bandwidth floor: the weights read once per token."""
    ceiling = bench.figures.get("ceilings", {})
    if "matrix_tflops" not in ceiling:
        return {}
    weights = 2 * (shape.linear + shape.hidden * shape.vocabulary)
    floor = work.new_tokens * weights / (ceiling["copy_gb_s"] * 1e9)
    return {
        "update_share_of_matrix_rate": rate / (ceiling["matrix_tflops"] * 1e12),
        "sampling_share_of_bandwidth_floor": floor / sampling_s,
    }


def step_of(name: str) -> Callable[[Bench], dict[str, Any]]:
    def measure(bench: Bench) -> dict[str, Any]:
        if bench.dry:
            return step_figures(bench, SHAPES["tiny"], TINY)
        return step_figures(bench, SHAPES[name], Work())

    return measure


def largest_batch(bench: Bench) -> dict[str, Any]:
    """How many prompts of 256 + 256 tokens a PPO step takes before memory runs out, for 7B, by doubling."""
    shape, work = (SHAPES["tiny"], TINY) if bench.dry else (SHAPES["7B"], Work(new_tokens=256))
    fits, figures = 0, {}
    count = work.prompts if bench.dry else 128
    while count <= (2 * work.prompts if bench.dry else 1024):
        try:
            own = Work(count, work.prompt_tokens, work.new_tokens, 1, work.tokens_per_microbatch)
            figures = step_figures(bench, shape, own)
        except torch.OutOfMemoryError:
            break
        fits, count = count, 2 * count
        # Kept where the section's time ends the search.
        partial = {
            "largest_batch": fits,
            "peak_gb": figures["memory/peak_gb"],
            "step_s": figures["time/step_s"],
        }
        (bench.out / ".largest_batch.json").write_text(json.dumps(partial))
    return {"largest_batch": fits, "peak_gb": figures.get("memory/peak_gb"), "next_that_failed": count}


GROUP = 8


def grpo_work(bench: Bench) -> tuple[Shape, Work]:
    return (SHAPES["tiny"], TINY) if bench.dry else (SHAPES["1.5B"], Work(tokens_per_microbatch=8192))


def grpo(bench: Bench) -> dict[str, Any]:
    """ppokit's preset `grpo` on the work that TRL gets: groups of 8, one epoch, KL from the reference."""
    shape, work = grpo_work(bench)
    group = 2 if bench.dry else GROUP
    sections: dict[str, Any] = {
        "preset": "grpo",
        "value": None,
        "advantages": None,
        "losses": None,
        "rewards": [{"use": "pattern", "pattern": "7", "mode": "count"}],
        "rollout": {"prompts_per_step": work.prompts // group, "responses_per_prompt": group},
        "update": {"epochs": 1},
    }
    return step_figures(bench, shape, work, **sections)


def trl_grpo(bench: Bench) -> dict[str, Any]:
    """TRL 1.16's GRPO on the same work; what ppokit's step and memory are of it."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from work import save_folder

    shape, work = grpo_work(bench)
    group = 2 if bench.dry else GROUP
    micro = max(1, work.tokens_per_microbatch // work.text)
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            sync(bench)
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            sync(bench)
            times.append(time.perf_counter() - self.began)

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(
            save_folder(shape, Path(folder) / "model"), padding_side="left"
        )
        prompts = texts(work.prompts, work.prompt_tokens, shape)
        dtype = torch.float32 if bench.dry else torch.bfloat16
        model = make_model(shape, bench.device, dtype)
        model.warnings_issued = {}
        steps = work.steps
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [float(text.count("7")) for text in completions],
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=min(micro, work.prompts),
                gradient_accumulation_steps=max(1, work.prompts // micro),
                num_generations=group,
                max_completion_length=work.new_tokens,
                beta=0.04,
                learning_rate=1e-5,
                max_steps=steps,
                bf16=not bench.dry,
                use_cpu=bench.dry,
                gradient_checkpointing=False,
                report_to=[],
                save_strategy="no",
                logging_steps=1,
                disable_tqdm=True,
                temperature=1.0,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts * (2 * steps)}),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Clock()],
        )
        trainer.train()
    step = min(times[1:] or times)
    peak = 0.0 if bench.dry else torch.cuda.max_memory_allocated() / 1e9
    figures: dict[str, Any] = {"trl": trl.__version__, "step_s": step, "peak_gb": peak, "steps_s": str(times)}
    own = bench.figures.get("grpo", {})
    if "time/step_s" in own:
        figures["ppokit_time_of_trl"] = own["time/step_s"] / step
        figures["ppokit_memory_of_trl"] = own["memory/peak_gb"] / peak if peak else None
    return figures


def sampling(bench: Bench) -> dict[str, Any]:
    """Tokens per second of the engine alone, at batches of 1, 64 and 256, for 1.5B."""
    from ppokit import PPOTrainer, Recipe

    shape = SHAPES["tiny"] if bench.dry else SHAPES["1.5B"]
    figures: dict[str, Any] = {}
    for batch in (1, 4) if bench.dry else (64, 256, 1):
        work = Work(batch, 8 if bench.dry else 256, 6 if bench.dry else 256, 1)
        with tempfile.TemporaryDirectory() as folder, made_on_the_card(shape):
            recipe = recipe_of(shape, work, Path(folder))
            with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
                prompts = next(iter(trainer.prompts))
                taken = []
                for step in (1, 2):  # the first one compiles
                    sync(bench)
                    began = time.perf_counter()
                    rollout = trainer.collector.generator.generate(
                        trainer.collector.policy(step), prompts, n=1, seed=0, step=step
                    )
                    sync(bench)
                    taken.append(time.perf_counter() - began)
        tokens = float(rollout.loss_mask.sum())
        figures[f"batch_{batch}_tokens_per_s"] = tokens / taken[-1]
        figures[f"batch_{batch}_first_s"] = taken[0]
        share = shares(bench, shape, work, 0.0, taken[-1]).get("sampling_share_of_bandwidth_floor")
        figures[f"batch_{batch}_share_of_bandwidth_floor"] = share
    return figures


def published(name: str) -> Callable[[Bench], dict[str, Any]]:
    """The update alone, on sequences of 16,384 tokens of which all but 8 are trained on."""

    def measure(bench: Bench) -> dict[str, Any]:
        from ppokit import PPOTrainer, Recipe
        from ppokit.plugin import Advantages

        shape = SHAPES["tiny qwen3" if bench.dry else name]
        length, count = (64, 2) if bench.dry else (16_384, 2)
        work = Work(count, 8, length - 8, 1, length)
        sections = {
            "value": None,
            "rewards": [{"use": "pattern", "pattern": "7"}],
            "advantages": {"use": "monte_carlo"},
            "losses": [{"use": "ppo_clip"}],
            "update": {"epochs": 1, "activation_checkpointing": True},
        }
        taken = []
        with tempfile.TemporaryDirectory() as folder, made_on_the_card(shape):
            recipe = recipe_of(shape, work, Path(folder), **sections)
            recipe["rollout"]["max_new_tokens"] = length - 8
            with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
                answers = [" " + text for text in texts(count, length - 9, shape, seed=1)]
                for _ in range(2):
                    rollout = trainer.recorded(texts(count, 8, shape), answers)
                    numbers = torch.randn(rollout.response_ids.shape) * rollout.loss_mask
                    if not bench.dry:
                        torch.cuda.reset_peak_memory_stats()
                    sync(bench)
                    began = time.perf_counter()
                    trainer.update(rollout, Advantages(numbers, trained=torch.ones(count, dtype=torch.bool)))
                    sync(bench)
                    taken.append(time.perf_counter() - began)
        peak = 0.0 if bench.dry else torch.cuda.max_memory_allocated() / 2**30
        rate, (theirs, their_peak) = count * length / min(taken), PUBLISHED[name]
        return {
            "tokens_per_s": rate,
            "peak_gib": peak,
            "of_published_rate": rate / theirs,
            "of_published_memory": peak / their_peak,
        }

    return measure


def memory(bench: Bench) -> dict[str, Any]:
    """The peak against the byte audit: within 10 % of the larger of its two phases, sampling and update."""
    shape, work = (SHAPES["tiny"], TINY) if bench.dry else (SHAPES["0.5B"], Work(steps=1))
    with tempfile.TemporaryDirectory() as folder:
        best, trainer = trained(recipe_of(shape, work, Path(folder)), shape)
    audit = trainer.components.audit
    shared = sum(audit.values()) - audit["key-value cache"] - audit["activations"]
    expected = (shared + max(audit["key-value cache"], audit["activations"])) / 1e9
    figures = {f"audit of {name}, GB": number / 1e9 for name, number in audit.items()}
    figures |= {"expected_gb": expected, "peak_gb": best["memory/peak_gb"]}
    ratio = figures["peak_gb"] / expected
    if not bench.dry and not 0.9 <= ratio <= 1.1:
        return {**figures, "peak_of_expected": ratio, "error": "the peak is not within 10 % of the audit"}
    return {**figures, "peak_of_expected": ratio}


PARTS: dict[int, list[Section]] = {
    1: [("ceilings", 30.0, ceilings), ("memory", 60.0, memory), ("gpu_tests", 240.0, gpu_tests)],
    2: [
        ("ceilings", 20.0, ceilings),
        ("step 1.5B", 60.0, step_of("1.5B")),
        ("step 7B", 90.0, step_of("7B")),
        ("grpo", 50.0, grpo),
        ("trl_grpo", 70.0, trl_grpo),
        ("sampling", 60.0, sampling),
        ("update Qwen3-0.6B", 40.0, published("Qwen3-0.6B")),
        ("update Qwen3-4B", 50.0, published("Qwen3-4B")),
        ("step 0.5B", 40.0, step_of("0.5B")),
        ("largest_batch", 90.0, largest_batch),
    ],
}
"""In the order of what matters most, should the part's time not be enough for all."""
