"""What an update keeps of each token."""

from __future__ import annotations

import torch

from ppokit.training.readings import Readings
from ppokit.training.token_record import TokenRecord
from rollouts import single_process


def test_a_response_without_a_pass_has_no_numbers() -> None:
    """The passes stopped before the second response, of which the KL alone is known."""
    record, readings = TokenRecord(["a", "b"], 2), Readings()
    record.keep("entropy", [0], torch.full((1, 2), 1.5), readings)
    assert readings.read() is None
    record.put("kl/k1", [0, 1], torch.full((2, 2), 0.5))
    record.gather(single_process())
    assert record.columns["entropy"][0].tolist() == [1.5, 1.5]
    assert record.columns["kl/k1"][0].tolist() == [0.5, 0.5]
    assert all(column[1].isnan().all() for column in record.columns.values())
