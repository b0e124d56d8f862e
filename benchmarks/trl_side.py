"""The same step as step.py's, by TRL 1.12.0, the last TRL with PPO. Run it in an environment of its own.

    python benchmarks/trl_side.py CHECKPOINT STEPS [DTYPE]

prints as its last line a JSON object with `step_s` (the fastest step), `sampling_s` of it, and `peak_gb`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import trl.experimental.ppo.ppo_trainer as ppo_trainer
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from word_salad import random_prompts


def main() -> None:
    checkpoint, steps = sys.argv[1], int(sys.argv[2])
    dtype = getattr(torch, sys.argv[3] if len(sys.argv) > 3 else "bfloat16")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    if "<|endoftext|>" in tokenizer.get_vocab():
        tokenizer.pad_token = "<|endoftext|>"
    data = Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in random_prompts(256)]})
    policy = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    heads = [
        AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=dtype, num_labels=1)
        for _ in ("value", "reward")
    ]
    for model in heads:
        model.config.pad_token_id = tokenizer.pad_token_id
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    with tempfile.TemporaryDirectory() as out:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=out,
                per_device_train_batch_size=8,
                gradient_accumulation_steps=4,
                num_ppo_epochs=2,
                num_mini_batches=1,
                total_episodes=32 * steps,
                response_length=48,
                local_rollout_forward_batch_size=32,
                use_cpu=not torch.cuda.is_available(),
                bf16=False,
                report_to=[],
                num_sample_generations=0,
                save_strategy="no",
                learning_rate=1e-5,
                stop_token=None,
                missing_eos_penalty=None,
                disable_tqdm=True,
                logging_steps=1,
            ),
            processing_class=tokenizer,
            model=policy,
            ref_model=None,
            reward_model=heads[1],
            value_model=heads[0],
            train_dataset=data,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=linear, task_type="CAUSAL_LM"),
        )
        sampling: list[float] = []
        step_times: list[float] = []
        sample = ppo_trainer.batch_generation

        def timed(*arguments: object, **keywords: object) -> object:
            started = time.perf_counter()
            result = sample(*arguments, **keywords)
            sampling.append(time.perf_counter() - started)
            return result

        ppo_trainer.batch_generation = timed
        last = time.perf_counter()

        def log(*_: object, **__: object) -> None:
            nonlocal last
            now = time.perf_counter()
            step_times.append(now - last)
            last = now
            print(
                f"step {len(step_times)}: {step_times[-1]:.2f} s  (sampling {sampling[-1]:.2f})", flush=True
            )

        trainer.log = log
        last = time.perf_counter()
        trainer.train()
    fastest = min(range(len(step_times)), key=step_times.__getitem__)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 1e9
    print(
        json.dumps(
            {
                "step_s": round(step_times[fastest], 3),
                "sampling_s": round(sampling[fastest], 3),
                "peak_gb": round(peak, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
