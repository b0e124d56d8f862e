"""The sampler's log-probabilities against the trainer's: what is compared, and what is allowed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ppokit.config.settings import LoraSettings
from ppokit.data.batches import TokenBatch, token_batch
from ppokit.distributed import Processes
from ppokit.errors import TrainingError
from ppokit.models.roles import ModelRoles
from ppokit.plugin.types import Rollout
from ppokit.training.parity import ParityCheck
from small_models import tiny_llama


def rollout_of(logprobs: list[list[float]], loss_mask: list[list[bool]], prompts: list[int]) -> Rollout:
    mask = torch.tensor(loss_mask)
    count = len(prompts)
    return Rollout(
        ids=[f"sample-{k}" for k in range(count)],
        group_ids=torch.arange(count),
        prompts=["p"] * count,
        responses=["r"] * count,
        rows=[{}] * count,
        prompt_ids=[[5] * length for length in prompts],
        response_ids=torch.full(mask.shape, 7),
        response_mask=mask,
        loss_mask=mask,
        outcomes=["finished"] * count,
        policy_version=torch.zeros(count, dtype=torch.long),
        sampler_logprobs=torch.tensor(logprobs),
        policy_logprobs=torch.tensor(logprobs),
    )


@pytest.fixture(scope="module")
def roles(tiny_model: Path) -> ModelRoles:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    lora = LoraSettings(r=4, alpha=8, target_modules="all-linear")
    return ModelRoles(model, lora=lora, value=None, reference=False)


@pytest.fixture
def check_of(roles: ModelRoles) -> Callable[..., ParityCheck]:
    from accelerate import Accelerator

    def check_of(limit: float | None = None, temperature: float = 1.0) -> ParityCheck:
        return ParityCheck(
            roles,
            Processes(Accelerator()),
            temperature=temperature,
            engine="rollout engine 'x'",
            limit=limit,
        )

    return check_of


ROLLOUT = rollout_of([[-1.0, -2.0], [-3.0, 0.0]], [[True, True], [True, False]], [4, 2])
TRAINER = torch.tensor([[-1.0, -2.3], [-2.6, 0.0]])


def test_by_hand(check_of: Callable[..., ParityCheck]) -> None:
    """Gaps 0, .3 and -.4: the root of (.09 + .16) / 3; padding does not count."""
    assert check_of(0.3).check(ROLLOUT, TRAINER, 0) == pytest.approx(math.sqrt(0.25 / 3))


def test_what_is_not_compared(check_of: Callable[..., ParityCheck]) -> None:
    check = check_of(0.5)
    assert check.check(replace(ROLLOUT, policy_logprobs=None), TRAINER, 0) is None
    assert check.check(ROLLOUT, torch.full((2, 2), math.nan), 0) is None, "another process trains on it"
    assert check.check(ROLLOUT, TRAINER, 1) is None, "an earlier policy wrote it"
    recorded = replace(ROLLOUT, policy_logprobs=torch.tensor([[-1.0, -2.0], [math.nan, 0.0]]))
    assert check.check(recorded, TRAINER, 0) == pytest.approx(math.sqrt(0.09 / 2)), "somebody else wrote it"


def test_more_than_the_recipe_allows(check_of: Callable[..., ParityCheck]) -> None:
    with pytest.raises(TrainingError) as caught:
        check_of(0.28).check(ROLLOUT, TRAINER, 0)
    message = str(caught.value)
    assert message.startswith("rollout engine 'x' answers with another policy than the one that is trained")
    assert "0.289 nats per token" in message
    assert "0.4 for sample sample-1" in message
    assert "rollout.max_logprob_gap allows 0.28" in message


def test_one_response_alone_is_enough(check_of: Callable[..., ParityCheck], roles: ModelRoles) -> None:
    """A hundred right responses do not hide a wrong one."""
    count = 101
    rollout = rollout_of([[-1.0]] * count, [[True]] * count, [3] * count)
    trainer = torch.full((count, 1), -1.0)
    trainer[17] = -1.009
    with pytest.raises(TrainingError, match="sample-17"):
        check_of().check(rollout, trainer, 0)
    trainer[17] = -1.001
    assert check_of().check(rollout, trainer, 0) == pytest.approx(0.001 / math.sqrt(count), rel=1e-3)


def test_float32_explains_a_thousandth(check_of: Callable[..., ParityCheck]) -> None:
    gap = torch.tensor([[0.0009, -0.0009], [0.0009, 0.0]])
    assert ROLLOUT.policy_logprobs is not None
    assert check_of().check(ROLLOUT, ROLLOUT.policy_logprobs - gap, 0) == pytest.approx(9e-4, rel=1e-2)
    with pytest.raises(TrainingError, match=r"float32 explains 0\.001"):
        check_of().check(ROLLOUT, ROLLOUT.policy_logprobs - 2 * gap, 0)


def test_the_temperature_divides_what_float32_explains(check_of: Callable[..., ParityCheck]) -> None:
    """Logits that are rounded by .0009 are .009 apart at temperature .1, and .0003 at 3."""
    assert ROLLOUT.policy_logprobs is not None
    cool, warm = ROLLOUT.policy_logprobs - 0.009, ROLLOUT.policy_logprobs - 0.0009
    assert check_of(temperature=0.1).check(ROLLOUT, cool, 0) == pytest.approx(9e-3, rel=1e-2)
    with pytest.raises(TrainingError, match=r"float32 explains 0\.00033"):
        check_of(temperature=3.0).check(ROLLOUT, warm, 0)


def test_what_bfloat16_turns_into_much_is_explained_and_another_policy_is_not() -> None:
    """Twelve layers of large weights: by exact numbers the trainer's are off by more than its last bits."""
    from accelerate import Accelerator

    model = tiny_llama(num_hidden_layers=12, initializer_range=0.4).to(torch.bfloat16)
    exact = copy.deepcopy(model).float()
    roles = ModelRoles(model, lora=LoraSettings(r=4, alpha=8), value=None, reference=False)
    responses = torch.arange(3, 63).view(5, 12)
    rollout = replace(
        rollout_of([[0.0] * 12] * 5, [[True] * 12] * 5, [3, 1, 4, 1, 5]), response_ids=responses
    )
    batch = token_batch(rollout, range(5), torch.device("cpu"))
    with torch.no_grad():
        trainer = roles.logprobs(batch, "policy", temperature=1.0)[0]
        logits = exact(input_ids=batch.input_ids).logits  # padding is on the right
    truth = batch.scatter(
        logits[batch.rows, batch.positions].log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
    )
    check = ParityCheck(roles, Processes(Accelerator()), temperature=1.0, engine="x", limit=None)
    gap = check.check(replace(rollout, policy_logprobs=truth), trainer, 0)
    assert gap is not None
    assert gap > 16 * torch.finfo(torch.bfloat16).eps
    with pytest.raises(TrainingError, match="answers with another policy"):
        check.check(replace(rollout, policy_logprobs=truth - 1), trainer, 0)


def test_noise_that_is_no_rounding_explains_nothing(
    check_of: Callable[..., ParityCheck], roles: ModelRoles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose numbers are random would else be allowed any sampler."""
    assert ROLLOUT.policy_logprobs is not None
    generator = torch.Generator().manual_seed(0)

    def logprobs(batch: TokenBatch, *_: object, **__: object) -> tuple[torch.Tensor, None]:
        return torch.randn(batch.mask.shape, generator=generator), None

    monkeypatch.setattr(roles, "logprobs", logprobs)
    with pytest.raises(
        TrainingError, match=r"^model\.name: the log-probabilities of one text differ by .*random"
    ):
        check_of().check(ROLLOUT, ROLLOUT.policy_logprobs - 0.1, 0)
