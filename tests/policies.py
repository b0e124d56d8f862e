"""Policies as rollout engines get them, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppokit.rollout.policy import Policy


def policy_of(model: Any, tokenizer: Any, **changes: Any) -> Policy:
    """A handle of this model; `model()` gives it as it is."""

    def nothing(*_: Any) -> Any:
        raise AssertionError("this policy is on no disk")

    fields = {
        "version": 0,
        "tokenizer": tokenizer,
        "end_ids": frozenset({tokenizer.eos_token_id}),
        "end_id": tokenizer.eos_token_id,
        "vocab_size": 512 if model is None else model.get_input_embeddings().num_embeddings,
        "context_length": 512,
        "get_model": lambda: model,
        "save": nothing,
        "get_hash": nothing,
    }
    return Policy(**{**fields, **changes})


def load(folder: Path, **changes: Any) -> Policy:
    """The handle of a model in a folder, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return policy_of(model, AutoTokenizer.from_pretrained(folder), **changes)
