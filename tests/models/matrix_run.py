"""One architecture in one short run, and what plain transformers and peft make of the same texts.

The checks of `test_matrix.py` share a run: it is made at the first of them.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from architectures import Architecture
from ppokit import PPOTrainer, Recipe
from ppokit.data.batches import TokenBatch, token_batch
from ppokit.errors import PpokitWarning
from ppokit.models.pretrained import peft_warnings
from ppokit.plugin.types import PromptBatch, Rollout
from small_models import CACHE

PROMPTS = ("Once upon a time", "Lily went to the park and saw a big red ball near the tree.", "Hi")
STEPS = 2
KINDS: Mapping[str, Mapping[str, Any]] = {
    "LoRA": {"value": "own_adapter", "checkpoint_every": 1},
    "all weights": {"lora": None, "value": "policy_trunk", "chat": True, "temperature": 0.8, "top_p": 0.9},
    "bfloat16": {"value": "own_adapter", "dtype": "bfloat16", "steps": 1},
    "4 bits": {"value": "own_adapter", "load_in_4bit": True, "steps": 1, "responses": 1},
}


def recipe_of(architecture: Architecture, kind: str, base: Path, folder: Path) -> dict[str, Any]:
    """A recipe of this kind, whose run and prompts are in the folder."""
    options = KINDS[kind]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    sampling = {key: options[key] for key in ("temperature", "top_p") if key in options}
    steps, responses = options.get("steps", STEPS), options.get("responses", 2)
    return {
        "model": {
            "name": str(base),
            "dtype": options.get("dtype", "float32"),
            "load_in_4bit": options.get("load_in_4bit", False),
        },
        "lora": None if "lora" in options else {"r": 4, "target_modules": "all-linear"},
        "value": options["value"],
        "prompts": {"path": str(prompts), "chat": options.get("chat", False)},
        "rollout": {
            "max_new_tokens": 6,
            "prompts_per_step": len(PROMPTS),
            "responses_per_prompt": responses,
            **sampling,
        },
        "rewards": [
            {"use": "length", "target": 20, "unit": "characters"},
            {"use": "kl_penalty", "weight": 0.05},
        ],
        "losses": [{"use": "ppo_clip"}, {"use": "value_clip", "weight": 0.1}],
        "update": {"learning_rate": 0.01, "minibatches": 1, "epochs": 1},
        "run": {
            "steps": steps,
            "out": str(folder / "run"),
            "sample_every": 0,
            "checkpoint_every": options.get("checkpoint_every", STEPS),
        },
    }


class MatrixRun:
    """Two steps of PPO; one on a base in 4 bits.

    Attributes:
        base: folder of the untrained model.
        out: the run's folder.
        stopped: the same as it was after the first step.
        first: the rollout of the first step, before any weight has moved.
        later: a rollout of the trained policy.
        warned: what ppokit warned of.
        at_start: [B,R,V] float64 logits of plain transformers on `first`, one text at a time.
    """

    def __init__(self, architecture: Architecture, kind: str, base: Path, folder: Path) -> None:
        self.architecture, self.kind, self.base = architecture, kind, base
        self.out, self.stopped = folder / "run", folder / "stopped"
        self.options = KINDS[kind]
        self.steps = int(self.options.get("steps", STEPS))
        self.recipe = Recipe.from_dict(recipe_of(architecture, kind, base, folder))
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", category=PpokitWarning)
            self._train()
        self.warned = [str(warning.message) for warning in caught]

    def _train(self) -> None:
        self.trainer = PPOTrainer(self.recipe)
        self.roles = self.trainer.roles
        rollouts = []
        for batch in self.trainer.prompts:
            rollout = self.trainer.collect(batch)
            rollouts.append(rollout)
            rewards = self.trainer.score(rollout)
            advantages = self.trainer.estimate(rollout, rewards)
            stats = self.trainer.update(rollout, advantages)
            self.trainer.report(rollout, rewards, advantages, stats)
            if self.trainer.step == 1 < self.steps:
                shutil.copytree(self.out, self.stopped)
        self.trainer.end()
        self.first = rollouts[0]
        self.later: Rollout = self.trainer.collector.collect(self.prompts, self.steps + 1)

    @property
    def prompts(self) -> PromptBatch:
        return next(iter(self.trainer.components.prompts.steps(1, 1)))

    @property
    def temperature(self) -> float:
        return float(self.options.get("temperature", 1.0))

    def batch(self, rollout: Rollout, rows: Sequence[int] | None = None) -> TokenBatch:
        chosen = range(len(rollout)) if rows is None else rows
        return token_batch(rollout, chosen, self.roles.device)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    # By transformers and peft alone

    def _plain(self, folder: Path) -> Any:
        kwargs: dict[str, Any] = {}
        if self.options.get("load_in_4bit"):
            from ppokit.models.quantization import quantization_config

            kwargs["quantization_config"] = quantization_config(torch.float32)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config_of(folder), dtype=torch.float32, **kwargs
        ).eval()
        for module in model.modules():  # AVX512-BF16's packing refuses layers of fewer than 64 columns
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        model(torch.tensor([[1, 2]]))  # RWKV then scales its weights, which it cannot do beneath peft
        return model

    @cached_property
    def plain_base(self) -> Any:
        return self._plain(self.base)

    @cached_property
    def plain_policy(self) -> Any:
        """The saved policy."""
        if self.recipe.settings.lora is None:
            return self._plain(self.out / "policy")
        with peft_warnings():
            wrapped = PeftModel.from_pretrained(
                self._plain(self.base), self.out / "policy", is_trainable=True
            )
        return wrapped.eval()

    @cached_property
    def at_start(self) -> Tensor:
        return plain_logits(self.plain_base, self.first)

    @cached_property
    def at_end(self) -> Tensor:
        """Of the saved policy on `later`."""
        return plain_logits(self.plain_policy, self.later)

    @cached_property
    def base_at_end(self) -> Tensor:
        """Of the untrained model on `later`."""
        return plain_logits(self.plain_base, self.later)


def config_of(folder: Path) -> Any:
    """A saved configuration; of longrope with the factors of the run's longest text for every text."""
    config = AutoConfig.from_pretrained(folder)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        rope["short_factor"] = rope["long_factor"]
    return config


def weights_of(folder: Path) -> dict[str, Tensor]:
    """What a run has trained, after its last step."""
    return load_file(folder / "checkpoints" / f"step-{STEPS:06d}" / "weights.safetensors")


def texts_of(rollout: Rollout) -> Iterator[tuple[list[int], list[int]]]:
    """Prompt and response of each row, as token ids."""
    for row, prompt in enumerate(rollout.prompt_ids):
        yield list(prompt), rollout.response_ids[row, rollout.response_mask[row]].tolist()


@torch.no_grad()
def plain_logits(model: Any, rollout: Rollout) -> Tensor:
    """[B,R,V] logits that each response token was drawn by: one text at a time, without padding or cache."""
    rows = []
    for prompt, response in texts_of(rollout):
        logits = model(torch.tensor([prompt + response]), use_cache=False).logits[0]
        rows.append(logits[len(prompt) - 1 : -1].double())
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@torch.no_grad()
def stepped_logits(model: Any, rollout: Rollout) -> Tensor:
    """The same, token by token with plain transformers' cache."""
    rows = []
    for prompt, response in texts_of(rollout):
        output = model(torch.tensor([prompt]), use_cache=True)
        steps = [output.logits[0, -1].double()]
        for token in response[:-1]:
            output = model(torch.tensor([[token]]), use_cache=True, **{CACHE: output[CACHE]})
            steps.append(output.logits[0, -1].double())
        rows.append(torch.stack(steps))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def chosen(logits: Tensor, rollout: Rollout) -> Tensor:
    """[B,R] log-probabilities of a rollout's tokens under logits [B,R,V]."""
    return logits.log_softmax(-1).gather(-1, rollout.response_ids[..., None]).squeeze(-1)


def gap(result: Tensor, expected: Tensor, rollout: Rollout) -> float:
    """The largest difference on real tokens."""
    return float((result.double() - expected.double()).abs()[rollout.loss_mask].max())


def last_distributions(run: MatrixRun, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """[B,V] the trainer's log-probabilities of any token in the place of each response's last; its index."""
    whole = run.batch(rollout)
    last = rollout.response_mask.sum(1) - 1
    count, size = len(rollout), run.roles.model.get_input_embeddings().weight.shape[0]
    starts = torch.tensor([len(prompt) for prompt in rollout.prompt_ids]) - 1 + last
    every = TokenBatch(
        whole.input_ids,
        torch.arange(count).repeat_interleave(size),
        starts.repeat_interleave(size),
        torch.arange(size).repeat(count),
        torch.ones(count, size, dtype=torch.bool),
        torch.arange(count * size),
    )
    with torch.no_grad():
        return run.roles.logprobs(every, "policy", temperature=run.temperature)[0], last
