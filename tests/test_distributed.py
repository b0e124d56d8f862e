"""What several processes share, and which launch configurations are refused."""

from __future__ import annotations

import pytest

from ppokit.distributed import check_launch
from ppokit.errors import TrainingError

PLAIN = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_USE_FSDP": "false",
    "ACCELERATE_USE_CPU": "True",
}


@pytest.mark.parametrize("environment", [{}, PLAIN])
def test_a_plain_launch_is_accepted(environment: dict[str, str]) -> None:
    check_launch(environment)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("USE_FSDP", "true", "asks for FSDP, .*choose plain MULTI_GPU"),
        ("USE_DEEPSPEED", "true", "asks for DeepSpeed"),
        ("USE_MEGATRON_LM", "true", "asks for Megatron-LM"),
        ("USE_PARALLELISM_CONFIG", "true", "asks for a parallelism configuration"),
        ("MIXED_PRECISION", "bf16", r"asks for mixed precision, .*--mixed_precision no.*model\.dtype"),
        ("DYNAMO_BACKEND", "INDUCTOR", "asks for torch.compile"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "tokens_per_microbatch"),
    ],
)
def test_what_would_be_ignored_is_refused(name: str, value: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        check_launch({**PLAIN, f"ACCELERATE_{name}": value})
