"""Tokenizers, classifiers and encoders that read whole texts, as rewards do; no code of a model's own is run.

`subject` is how an error begins: `--model NAME` or `reward model 'NAME'`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ppokit.data.context import first_context
from ppokit.errors import ModelError
from ppokit.models.pretrained import explained, pretrained_adapter, pretrained_model, pretrained_tokenizer
from ppokit.models.rotary import depends_on_length, fix_rotary, same_factors

SAFE = {"use_safetensors": True, "trust_remote_code": False}
_NO_LIMIT = 1_000_000  # a tokenizer without a limit says 1e30


def load_text_tokenizer(where: str, subject: str) -> Any:
    """A tokenizer with a pad token, which pads on the right and truncates on the left.

    Raises:
        ModelError: it cannot be loaded, or has no token to pad with.
    """
    return pretrained_tokenizer(
        where,
        f"{subject}: its tokenizer",
        trust_remote_code=False,
        padding_side="right",
        truncation_side="left",
    )


def load_classifier(where: str, subject: str, dtype: str, **options: Any) -> tuple[Any, list[str]]:
    """A sequence classifier in safetensors, and which of its weights the files lack.

    Args:
        dtype: as in transformers; `auto` is as stored.
        options: for transformers' `from_pretrained`.

    Raises:
        ModelError: it cannot be loaded.
    """
    from transformers import AutoModelForSequenceClassification

    kind = " as a sequence classifier in safetensors"
    return pretrained_model(
        AutoModelForSequenceClassification, where, subject, kind, **SAFE, dtype=dtype, **options
    )


def load_encoder(where: str, subject: str) -> tuple[Any, list[str]]:
    """A model without a head in safetensors, and which of its weights the files lack; float32.

    Raises:
        ModelError: it cannot be loaded.
    """
    from transformers import AutoModel

    kind = " as an encoder in safetensors"
    return pretrained_model(AutoModel, where, subject, kind, **SAFE, dtype=torch.float32)


def with_fitted_adapter(model: Any, folder: str | Path, subject: str) -> Any:
    """A classifier of one label with the adapter of a fitted reward model, and its head in float32.

    Raises:
        ModelError: the adapter cannot be loaded, or has no trained head.
    """
    from safetensors import safe_open

    # Scores would tie in bfloat16, whatever the precision of the base.
    head = head_of(model, subject)[1].float()
    head.register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))
    weights = str(Path(folder) / "adapter_model.safetensors")
    with explained(f"{subject}: its adapter"), safe_open(weights, "pt") as file:
        if all("lora_" in key for key in file.keys()):  # noqa: SIM118
            raise ValueError("the adapter has no trained head")
    return pretrained_adapter(model, folder, subject)


def one_rotary_factor(model: Any, fitted: int | None, wanted: int | None, subject: str) -> None:
    """Let a model read every text with the same rotary factors, whatever stands beside it.

    Args:
        fitted: tokens of a text at most that it was fitted on; None for another model.
        wanted: those that a recipe's max_length says.

    Raises:
        ModelError: its factors change with the length of a text, and which are meant is not known, or they
            are not those that it was fitted with.
    """
    longest = fitted or wanted
    if not depends_on_length(model.config):
        return
    if longest is None:
        raise ModelError(
            f"max_length: not set, and the rotary factors of {subject} change with the length of a text, so "
            "that a score would depend on the texts beside it; expected a number of tokens, by which all "
            "texts get the same factors."
        )
    if wanted is not None and not same_factors(model.config, longest, wanted):
        raise ModelError(
            f"max_length: {wanted}, where {subject} was fitted on {longest} tokens of a text and its rotary "
            "factors change with that length; leave max_length out, or fit with that --max-length."
        )
    fix_rotary(model, longest, subject)


def head_of(model: Any, subject: str) -> tuple[str, nn.Linear]:
    """Name and layer of a classifier's last linear layer, which has one output.

    Raises:
        ModelError: there is none.
    """
    heads = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m.out_features == 1]
    if not heads:
        raise ModelError(
            f"{subject}: {type(model).__name__} has no linear head of one output, so no reward model can be "
            "made of it; choose another model."
        )
    return heads[-1]


def token_limit(model: Any, tokenizer: Any) -> int | None:
    """The most tokens of a text; None where neither the model nor its tokenizer knows a limit."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < _NO_LIMIT else []
    positions = first_context(model.config)
    if positions is not None:
        used = 0  # RoBERTa's table of positions starts behind its padding index
        for name, module in model.named_modules():
            is_table = isinstance(module, nn.Embedding) and module.num_embeddings == positions
            if is_table and "position" in name and module.padding_idx is not None:
                used = module.padding_idx + 1
        limits.append(positions - used)
    return min(limits, default=None)
