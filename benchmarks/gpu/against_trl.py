"""GRPO on one work by ppokit's preset and by TRL, in time and memory; sections of benchmarks/gpu/prove.py."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from measures import peak_bytes, sync
from speed import step_figures
from work import LORA, SHAPES, TINY, WORK, Shape, Work, make_model, save_folder, texts

if TYPE_CHECKING:
    from prove import Bench

GROUP = 8


def grpo_work(bench: Bench) -> tuple[Shape, Work, int]:
    """And the size of a group."""
    return (SHAPES["tiny"], TINY, 2) if bench.dry else (SHAPES["1.5B"], WORK["1.5B"], GROUP)


def grpo(bench: Bench) -> dict[str, Any]:
    """ppokit's preset `grpo` on the work that TRL gets: groups of 8, one epoch, KL from the reference."""
    shape, work, group = grpo_work(bench)
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

    shape, work, group = grpo_work(bench)
    micro = max(1, work.tokens_per_microbatch // work.text)
    own = bench.figures.get("grpo", {})

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            sync(bench)
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            sync(bench)
            step_s, peak_gb = time.perf_counter() - self.began, peak_bytes(bench) / 1e9
            figures = {"trl": trl.__version__, "step_s": step_s, "peak_gb": peak_gb}
            if "time/step_s" in own:
                figures["ppokit_time_of_trl"] = own["time/step_s"] / step_s
                figures["ppokit_memory_of_trl"] = own["memory/peak_gb"] / peak_gb
            bench.keep(**figures)  # of the last step in the end

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(
            save_folder(shape, Path(folder) / "model"), padding_side="left"
        )
        model = make_model(shape, bench.device, torch.float32 if bench.dry else torch.bfloat16)
        model.warnings_issued = {}
        prompts = texts(work.prompts, work.prompt_tokens, shape)
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
                max_steps=work.steps,
                bf16=not bench.dry,
                use_cpu=bench.dry,
                gradient_checkpointing=False,
                report_to=[],
                save_strategy="no",
                logging_steps=1,
                disable_tqdm=True,
                temperature=1.0,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts * (2 * work.steps)}),
            processing_class=tokenizer,
            peft_config=LoraConfig(**LORA, task_type="CAUSAL_LM"),
            callbacks=[Clock()],
        )
        trainer.train()
    return {}
