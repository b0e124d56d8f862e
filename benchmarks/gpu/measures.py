"""Is it right: sections of part 1 of benchmarks/gpu/prove.py, and what part 2 measures by: docs/gpu.md."""

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
from work import SHAPES, TINY, WORK, Shape, Work, made_on_the_card, recipe_of

if TYPE_CHECKING:
    from prove import Bench


def sync(bench: Bench) -> None:
    if not bench.dry:
        torch.cuda.synchronize()


def peak_bytes(bench: Bench) -> float:
    """Of the card's memory, since the process began or it was reset; nan without a card."""
    return float("nan") if bench.dry else float(torch.cuda.max_memory_allocated())


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


def run_steps(
    bench: Bench,
    shape: Shape,
    work: Work,
    figures_of: Callable[[Any, dict[str, float]], dict[str, Any]],
    **own: Any,
) -> dict[str, Any]:
    """The figures of a run's last step; the first one compiles. Each step's are kept as it ends.

    Args:
        figures_of: given the trainer and a step's metrics.
        own: sections of the recipe.
    """
    from ppokit import PPOTrainer, Recipe

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        with made_on_the_card(shape):
            trainer = PPOTrainer(Recipe.from_dict(recipe_of(shape, work, Path(folder), **own)))
        with trainer:
            for prompts in trainer.prompts:
                rollout = trainer.collect(prompts)
                rewards = trainer.score(rollout)
                advantages = trainer.estimate(rollout, rewards)
                stats = trainer.update(rollout, advantages)
                metrics = trainer.report(rollout, rewards, advantages, stats)
                figures = figures_of(trainer, metrics)
                bench.keep(**figures, step=trainer.step)
    return figures


def memory(bench: Bench) -> dict[str, Any]:
    """The peak of a run against the byte audit: within 10 % of its sum, activations among it."""
    shape, work = (SHAPES["tiny"], TINY) if bench.dry else (SHAPES["0.5B"], WORK["0.5B"])

    def figures_of(trainer: Any, metrics: dict[str, float]) -> dict[str, Any]:
        audit = trainer.components.audit
        expected, peak = sum(audit.values()) / 1e9, metrics["memory/peak_gb"]
        parts = {f"audit of {name}, GB": number / 1e9 for name, number in audit.items()}
        return {**parts, "audit_gb": expected, "peak_gb": peak, "peak_of_audit": peak / expected}

    figures = run_steps(bench, shape, work, figures_of)
    if not bench.dry and not 0.9 <= figures["peak_of_audit"] <= 1.1:
        return {**figures, "error": "the peak is not within 10 % of the audit"}
    return figures


def gpu_tests(bench: Bench) -> dict[str, Any]:
    """`pytest -m gpu`: passed, failed and skipped, and what they measured, so far as its time went.

    The dry run leaves out those that are `thorough` on a CPU: variants of the others.
    """
    file, log = bench.out / "gpu_tests.jsonl", bench.out / "gpu_tests.log"
    file.unlink(missing_ok=True)
    repository = Path(__file__).resolve().parents[2]
    # A warning of this machine's libraries is no error, as it is in the tests otherwise.
    marked = "gpu and not thorough" if bench.dry else "gpu"
    command = [sys.executable, "-m", "pytest", "-m", marked, "tests/gpu", "-v", "-p", "no:cacheprovider"]
    paths = [str(repository), str(repository / "plugins"), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PPOKIT_GPU_FIGURES": str(file),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    error = ""
    with log.open("w") as out:
        try:
            ended = subprocess.run(
                [*command, "-W", "default"],
                cwd=repository,
                env={**os.environ, **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=max(1.0, bench.left_s - 5),
            )
            error = f"pytest ended with {ended.returncode}" if ended.returncode else ""
        except subprocess.TimeoutExpired:
            error = "stopped: its time was up"
    lines = log.read_text().strip().splitlines()
    result: dict[str, Any] = {"summary": lines[-1].strip("= ") if lines else ""}
    for line in file.read_text().splitlines() if file.exists() else []:
        result |= json.loads(line)
    return {**result, **({"error": error} if error else {})}
