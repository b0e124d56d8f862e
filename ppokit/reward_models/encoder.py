"""A linear score on what a frozen encoder makes of a response.

    score = w f + b,   f = [m, log(1 + n) m],   m = the means of h_l over the response's n tokens,
                                                    for each layer l that is read

h_0 are the embeddings, h_L the last hidden states. The encoder reads prompt and response as a pair. Lower
layers tell how something is said, which an encoder that was trained for likeness of meaning has lost at its
end (Peters et al. 2018, arXiv:1802.05365, learn the weights of layers likewise). A mean alone does not see
how much of a thing is said.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppokit.errors import ModelError
from ppokit.reward_models.artifact import HEADS, read_settings
from ppokit.reward_models.base import load_heads
from ppokit.reward_models.loading import load_encoder


class ResponseEncoder(nn.Module):
    """An encoder and the heads on it.

    Args:
        encoder: gives hidden states.
        layers: which of them are read, from 0, the embeddings.
        heads: of 2 * len(layers) * H features; its outputs are the scores.
    """

    def __init__(self, encoder: Any, layers: Sequence[int], heads: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.layers, self.heads = encoder, tuple(layers), heads
        self.config = copy.deepcopy(encoder.config)
        self.config.num_labels = heads.out_features

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.heads.weight.device

    def features(self, *, response_mask: Tensor, **inputs: Tensor) -> Tensor:
        """What the heads read. [N, 2 * len(layers) * H] float32

        Args:
            response_mask: [N,T], 1 on the response's tokens; at least one per text.
            inputs: what the encoder takes.
        """
        states = self.encoder(**inputs, output_hidden_states=True).hidden_states
        count = response_mask.sum(dim=1, keepdim=True)
        share = response_mask.float() / count
        means = [torch.einsum("nt,nth->nh", share, states[layer].float()) for layer in self.layers]
        mean = torch.cat(means, dim=1)
        return torch.cat([mean, count.log1p() * mean], dim=1)

    def forward(self, **inputs: Tensor) -> Any:
        """`logits` [N, heads] float32, as classifiers of transformers give them."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        return SequenceClassifierOutput(logits=self.heads(self.features(**inputs)))


def load_response_encoder(folder: Path, *, each: bool = False) -> ResponseEncoder | None:
    """The encoder of a folder that `ppokit reward fit` made, with the mean of its heads.

    Args:
        each: with all heads instead.

    Returns: None where the folder holds another kind of reward model.

    Raises:
        ModelError: it cannot be loaded.
    """
    settings = read_settings(folder)
    layers = settings.layers if settings is not None else []
    if not layers:
        return None
    subject = f"reward model {str(folder)!r}"
    encoder, _ = load_encoder(str(folder), subject)
    heads, config = load_heads(folder), encoder.config.get_text_config()
    if heads.in_features != 2 * len(layers) * config.hidden_size or max(layers) > config.num_hidden_layers:
        raise ModelError(f"{subject} cannot be loaded: its {HEADS} and its encoder do not belong together")
    return ResponseEncoder(encoder, layers, heads if each else heads.mean()).eval().requires_grad_(False)
