"""Some architectures of the matrix in bfloat16: as near to exact numbers as plain transformers is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from architectures import ARCHITECTURES
from matrix_run import MatrixRun, chosen, plain_logits
from ppokit.plugin.types import Rollout
from ppokit.run.run_dir import RunDir


def rms(result: Tensor, expected: Tensor, rollout: Rollout) -> float:
    return float((result.double() - expected.double())[rollout.loss_mask].square().mean().sqrt())


@pytest.mark.models
@pytest.mark.parametrize("name", ["Llama", "Mixtral", "Qwen3.5", "Gemma 2", "BART", "Mamba"])
def test_bfloat16(name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU two cuts of a batch agree to the bit, so the noise is how far plain bfloat16 is from exact."""
    monkeypatch.setattr(RunDir, "plot", lambda *_: None)
    (architecture,) = (one for one in ARCHITECTURES if one.name == name)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = tokenizer.unk_token
    architecture.save(tmp_path / "base", tokenizer)
    (tmp_path / "own").mkdir()
    run = MatrixRun(architecture, "bfloat16", tmp_path / "base", tmp_path / "own")
    first, later = run.first, run.later

    model = AutoModelForCausalLM.from_pretrained(run.base, dtype=torch.bfloat16).eval()
    plain = chosen(plain_logits(model, first), first)
    exact = chosen(plain_logits(model.float(), first), first)  # the same rounded weights
    noise = rms(plain, exact, first)
    assert 1e-3 < noise < 0.03
    assert rms(first.old_logprobs, exact, first) < 1.5 * noise, "trainer"
    assert rms(first.sampler_logprobs, exact, first) < 1.5 * noise, "sampler"
    assert rms(first.old_logprobs, plain, first) < 2 * noise, "trainer and plain"
    assert rms(first.sampler_logprobs, first.old_logprobs, first) < 2 * noise
    assert rms(later.sampler_logprobs, later.old_logprobs, later) < 2 * noise, "once trained"
