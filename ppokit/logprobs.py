"""Log-probabilities and entropies of chosen tokens without a [B,T,V] tensor.

The language-model head runs on the hidden states of response positions only, a chunk of them at a
time, and each chunk is computed again in the backward pass, so neither memory nor autograd ever holds
more than one chunk of logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Of float32 logits. Above 32 MiB glibc maps each tensor anew, and its page faults cost more than the maths.
CHUNK_BYTES = 16 * 2**20


def token_logprobs(
    hidden: Tensor, head: nn.Module, targets: Tensor, *, temperature: float, entropy_grad: bool
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of the distribution it came from, in nats.

        log p(y) = z_y - logsumexp(z),   H = logsumexp(z) - sum_v p_v z_v,   z = head(hidden) / temperature

    Args:
        hidden: [N,H] final hidden states at the positions that predict the targets.
        head: the output embeddings, a linear map [N,H] -> [N,V].
        targets: [N] token ids.
        temperature: the temperature at which tokens were sampled, > 0.
        entropy_grad: whether the entropy carries a gradient.

    Returns: logprobs [N] and entropy [N], both float32 whatever the dtype of the model.
    """
    bias = getattr(head, "bias", None)
    both: tuple[Tensor, Tensor] = _ChunkedHead.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, bias, targets, temperature
    )
    logprobs, entropy = both
    return logprobs, entropy if entropy_grad else entropy.detach()


class _ChunkedHead(torch.autograd.Function):
    """(hidden, weight, bias) -> (log p of the targets, entropy), with

    d log p(y) / dz_v = [v = y] - p_v,      d H / dz_v = -p_v (log p_v + H).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        entropy = torch.empty_like(logprobs)
        totals = torch.empty_like(logprobs)
        for part in _chunks(len(targets), weight):
            logits = _logits(hidden[part], weight, bias, temperature)
            total = logits.logsumexp(dim=-1, keepdim=True)
            logprobs[part] = (logits.gather(-1, targets[part, None]) - total).squeeze(-1)
            totals[part] = total.squeeze(-1)
            probabilities = logits.sub(total).exp_()
            # A token ruled out by a logit of -inf has p = 0 and adds nothing.
            entropy[part] = totals[part] - probabilities.mul_(logits).nan_to_num_(nan=0.0).sum(dim=-1)
        ctx.save_for_backward(hidden, weight, bias, targets, totals, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, totals, entropy = ctx.saved_tensors
        grad_logprobs, grad_entropy = grads
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        into_hidden = torch.zeros_like(hidden) if need_hidden else None
        # fp32, since many small chunks add up.
        into_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        into_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias else None
        for part in _chunks(len(targets), weight):
            log_p = _logits(hidden[part], weight, bias, ctx.temperature).sub_(totals[part, None])
            p = log_p.exp()
            grad = torch.zeros_like(p) if grad_logprobs is None else p * -grad_logprobs[part, None]
            if grad_logprobs is not None:
                grad.scatter_add_(-1, targets[part, None], grad_logprobs[part, None])
            if grad_entropy is not None:
                slope = log_p.add_(entropy[part, None]).mul_(p).nan_to_num_(nan=0.0)
                grad.sub_(slope.mul_(grad_entropy[part, None]))
            grad = (grad / ctx.temperature if ctx.temperature != 1.0 else grad).to(hidden.dtype)
            if into_hidden is not None:
                into_hidden[part] = grad @ weight
            if into_weight is not None:
                into_weight += grad.T @ hidden[part]
            if into_bias is not None:
                into_bias += grad.sum(dim=0)
        return (
            into_hidden,
            None if into_weight is None else into_weight.to(weight.dtype),
            None if into_bias is None else into_bias.to(bias.dtype),
            None,
            None,
        )


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """[n,V] float32; memory of its own, so that callers may write into it."""
    logits = functional.linear(hidden, weight, bias).float()
    return logits.div_(temperature) if temperature != 1.0 else logits


def _chunks(count: int, weight: Tensor) -> list[slice]:
    size = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    return [slice(start, start + size) for start in range(0, count, size)]
