"""An updater on a small model whose gradients are recorded, losses to give it, and samples to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from components import built
from ppokit.config.components import BuiltComponent
from ppokit.config.settings import LoraSettings, Settings
from ppokit.data.batches import TokenBatch
from ppokit.models.roles import ModelRoles
from ppokit.plugin.types import Advantages, LossInputs, LossOutput, Rollout
from ppokit.training.backend import ReplicatedBackend
from ppokit.training.microbatches import MicroBatcher
from ppokit.training.parity import ParityCheck
from ppokit.training.update import Updater
from rollouts import make_rollout, single_process

UPDATE = {"epochs": 1, "learning_rate": 1e-2, "max_grad_norm": 1e9, "tokens_per_microbatch": 10_000}


def settings_of(*, steps: int = 10, whiten: Any = None, **update: Any) -> Settings:
    """A recipe's settings; `whiten` is the variance by which mini-batches are whitened."""
    advantages = {} if whiten is None else {"whiten": "minibatch", "whiten_variance": whiten}
    return Settings.model_validate(
        {
            "model": {"name": "any"},
            "prompts": {"path": "any"},
            "rewards": [{"use": "any"}],
            "losses": [{"use": "any"}],
            "rollout": {"temperature": 0.9, "max_new_tokens": 12},
            "advantages": advantages,
            "update": {**UPDATE, **update},
            "run": {"steps": steps, "out": "any"},
        }
    )


class PolicyLoss:
    """The unclipped surrogate, with a metric to check means by."""

    def __init__(self) -> None:
        self.seen: list[LossInputs] = []

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        self.seen.append(inputs)
        assert inputs.new_logprobs is not None
        assert inputs.old_logprobs is not None
        ratio = (inputs.new_logprobs - inputs.old_logprobs).exp()
        return LossOutput(-ratio * inputs.advantages, {"test/ratio": ratio.detach()})


class ValueLoss:
    def __init__(self) -> None:
        self.seen: list[LossInputs] = []

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        self.seen.append(inputs)
        assert inputs.values is not None
        assert inputs.returns is not None
        return LossOutput((inputs.values - inputs.returns).square())


class EntropyLoss:
    def token_losses(self, inputs: LossInputs) -> LossOutput:
        assert inputs.entropy is not None
        return LossOutput(-inputs.entropy)


class BothLoss:
    """Needs policy and value in one pass."""

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        assert inputs.values is not None
        assert inputs.new_logprobs is not None
        return LossOutput(-inputs.new_logprobs * inputs.values)


class Given:
    """Returns what a function makes of its inputs."""

    def __init__(self, make: Callable[[LossInputs], Any]) -> None:
        self.make = make

    def token_losses(self, inputs: LossInputs) -> Any:
        return self.make(inputs)


class Weighing:
    """Weighs advantages by what a function makes of its inputs."""

    def __init__(self, make: Callable[[LossInputs], Any]) -> None:
        self.advantage_weights = make


def weighted(loss: Any, *needs: Any, weight: float = 1.0, name: str = "loss") -> BuiltComponent:
    where = f"loss {name!r} (plugin acme 1.0; recipe: losses[0].use, r.yaml line 3)"
    return built("losses", loss, name, needs, where=where, weight=weight)


def both_losses() -> list[BuiltComponent]:
    return [
        weighted(PolicyLoss(), "new_logprobs", "old_logprobs", name="policy"),
        weighted(ValueLoss(), "values", weight=0.3, name="value"),
        weighted(EntropyLoss(), "entropy", weight=0.1, name="entropy"),
    ]


class Bench:
    """An updater whose applied gradients are kept."""

    def __init__(
        self, folder: Path, losses: Sequence[BuiltComponent], value: Any = "own_adapter", **changes: Any
    ) -> None:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        lora = LoraSettings(r=4, alpha=8, target_modules="all-linear")
        self.roles = ModelRoles(model, lora=lora, value=value, reference=False)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, param in self.roles.trainable.items():
                # B is 0 at first, which would hide half of the gradient.
                if "lora_B" in name or "head" in name:
                    param.copy_(torch.randn(param.shape, generator=generator) * 0.05)
        processes, settings = single_process(), settings_of(**changes)
        self.backend = ReplicatedBackend(self.roles, processes, weight_decay=0.0)
        self.master_weights = self.backend
        self.microbatches = MicroBatcher(
            settings.update, seed=0, processes=processes, device=self.roles.device
        )
        self.updater = Updater(
            self.roles,
            self.backend,
            losses,
            self.microbatches,
            settings,
            processes,
            ParityCheck(self.roles, processes, temperature=0.9, engine="rollout engine", limit=None),
        )
        self.gradients: list[dict[str, Tensor]] = []
        self.rates: list[float] = []
        step = self.master_weights.step

        def watched(learning_rate: float) -> None:
            actual = self.master_weights.gradients()
            self.gradients.append(
                {n: g.clone() for n, g in zip(self.master_weights.weights, actual, strict=True)}
            )
            self.rates.append(learning_rate)
            step(learning_rate)

        self.master_weights.step = watched  # type: ignore[method-assign]

    def logprobs(self, rollout: Rollout) -> Tensor:
        """Each sample alone."""
        rows = []
        for i in range(len(rollout)):
            batch = TokenBatch.build(
                [rollout.prompt_ids[i]],
                rollout.response_ids[i : i + 1],
                rollout.response_mask[i : i + 1],
                torch.device("cpu"),
            )
            with torch.no_grad():
                rows.append(self.roles.logprobs(batch, "policy", temperature=0.9)[0])
        return torch.cat(rows)


def samples(count: int = 7) -> tuple[Rollout, Advantages]:
    generator = torch.Generator().manual_seed(5)

    def ids(n: int) -> list[int]:
        return torch.randint(3, 512, (n,), generator=generator).tolist()

    lengths = [3, 12, 1, 7, 5, 12, 2][:count]
    rollout = make_rollout([[1, *ids(2 + i)] for i in range(count)], [ids(n) for n in lengths])
    shape = rollout.response_ids.shape
    numbers = [torch.randn(shape, generator=generator) for _ in range(2)]
    return rollout, Advantages(numbers[0], numbers[1])


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], relative: float = 1e-5) -> None:
    scale = torch.stack([g.norm() for g in theirs.values()]).norm().item()
    assert scale > 0
    gaps = torch.stack([(ours[name] - g).norm() for name, g in theirs.items()]).norm().item()
    assert gaps < relative * scale
