"""Texts as vectors, by any encoder of the hub or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ppokit.plugin import ModelError, first_line, length_batches
from ppokit_rewards.classifiers import without_bars

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Encoder:
    """Mean of the last hidden states over the real tokens, of length 1.

    Reimers and Gurevych 2019, arXiv:1908.10084.

    Raises:
        ModelError: it cannot be loaded.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            with without_bars():
                self.model = AutoModel.from_pretrained(name, use_safetensors=True).to(device).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"encoder {name!r} cannot be loaded in safetensors: {first_line(error)}"
            ) from error
        limit = getattr(self.model.config, "max_position_embeddings", None)
        self.limit = min(self.tokenizer.model_max_length, limit or self.tokenizer.model_max_length)

    def __call__(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """[n,H] float32 on the CPU; longer texts are truncated at the encoder's limit."""
        import torch

        out = torch.zeros(len(texts), self.model.config.hidden_size)
        for chosen in length_batches(list(map(len, texts)), batch_size):
            batch = self.tokenizer(
                [texts[i] for i in chosen],
                padding=True,
                truncation=True,
                max_length=self.limit,
                return_tensors="pt",
            ).to(self.model.device)
            with torch.inference_mode():
                hidden = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            out[chosen] = torch.nn.functional.normalize(mean, dim=1).cpu()
        return out
