"""Texts as vectors, by any encoder of the hub, a folder or an installed package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ppokit.plugin import ModelError, length_batches

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
        from ppokit.reward_models.loading import load_encoder, load_text_tokenizer, token_limit
        from ppokit.reward_models.packaged import located

        subject = f"encoder {name!r}"
        where = located(name, subject)
        model, _ = load_encoder(where, subject)
        self.model = model.to(device).eval()
        self.tokenizer = load_text_tokenizer(where, subject)
        self.tokenizer.truncation_side = "right"
        self.limit = token_limit(self.model, self.tokenizer)

    def __call__(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """[n,H] float32 on the CPU; longer texts are truncated at the encoder's limit, from the end."""
        import torch

        out = torch.zeros(len(texts), self.model.config.hidden_size)
        for indices in length_batches(list(map(len, texts)), batch_size):
            batch = self.tokenizer(
                [texts[i] for i in indices],
                padding=True,
                truncation=self.limit is not None,
                max_length=self.limit,
                return_tensors="pt",
            ).to(self.model.device)
            with torch.inference_mode():
                hidden = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
            out[indices] = torch.nn.functional.normalize(mean, dim=1).cpu()
        return out


def encoder_problems(name: str) -> Iterator[str]:
    """What keeps an encoder from being loaded, as far as the installed packages tell."""
    from ppokit.reward_models.packaged import located

    try:
        located(name, f"encoder {name!r}")
    except ModelError as error:
        yield str(error)
