"""Log-probabilities and entropies of chosen tokens without a [B,T,V] tensor.

The language-model head runs on the hidden states of response positions only, a chunk of them at a
time, and each chunk is computed again in the backward pass, so neither memory nor autograd ever holds
more than one chunk of logits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 64 * 2**20  # of float32 logits


def token_logprobs(
    hidden: Tensor, head: torch.nn.Module, targets: Tensor, *, temperature: float, entropy_grad: bool
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of the distribution it came from, in nats.

        log p(y) = z_y - logsumexp(z),   H = logsumexp(z) - sum_v p_v z_v,   z = head(hidden) / temperature

    Args:
        hidden: [N,H] final hidden states at the positions that predict the targets.
        head: the output embeddings, [N,H] -> [N,V].
        targets: [N] token ids.
        temperature: the temperature at which tokens were sampled, > 0.
        entropy_grad: whether the entropy carries a gradient.

    Returns: logprobs [N] and entropy [N], both float32 whatever the dtype of the model.
    """

    def chunk_logprobs(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden).float()
        if temperature != 1.0:
            logits = logits / temperature
        total = logits.logsumexp(dim=-1)
        chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and entropy_grad):
            entropy = total - torch.linalg.vecdot((logits - total.unsqueeze(-1)).exp(), logits)
        return chosen - total, entropy

    size = max(1, CHUNK_BYTES // (4 * int(head.weight.shape[0])))
    parts = []
    for h, t in zip(hidden.split(size), targets.split(size), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(chunk_logprobs, h, t, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(chunk_logprobs(h, t))
    if not parts:
        empty = hidden.new_zeros(0, dtype=torch.float32)
        return empty, empty
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)
