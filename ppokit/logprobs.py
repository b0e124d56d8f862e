"""Log-probabilities and entropies of chosen tokens without a [B,T,V] tensor.

The language-model head runs on the hidden states of response positions only, a chunk of them at a
time, and each chunk is computed again in the backward pass, so neither memory nor autograd ever holds
more than one chunk of logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

Entropy = Literal["none", "value", "gradient"]
CHUNK_BYTES = 16 * 2**20  # of float32 logits


def token_logprobs(
    hidden: Tensor, head: nn.Module, targets: Tensor, *, temperature: float, entropy: Entropy
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of the distribution it came from, in nats.

        log p(y) = z_y - logsumexp(z),   H = logsumexp(z) - sum_v p_v z_v,   z = head(hidden) / temperature

    Args:
        hidden: [N,H] final hidden states at the positions that predict the targets.
        head: the output embeddings, a linear map [N,H] -> [N,V].
        targets: [N] token ids.
        temperature: the temperature at which tokens were sampled, > 0.
        entropy: whether it is computed, and whether it carries a gradient; zeros for `none`.

    Returns: logprobs [N] and entropy [N], both float32 whatever the dtype of the model.
    """
    both: tuple[Tensor, Tensor] = _ChunkedHead.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, getattr(head, "bias", None), targets, temperature, entropy != "none"
    )
    logprobs, entropies = both
    return logprobs, entropies if entropy == "gradient" else entropies.detach()


class _ChunkedHead(torch.autograd.Function):
    """(hidden, weight, bias) -> (log p of the targets, entropy), with

    d log p(y) / dz_v = [v = y] - p_v,      d H / dz_v = -p_v (log p_v + H).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        totals, entropy = torch.empty_like(logprobs), torch.zeros_like(logprobs)
        for part, _, logits, other in _chunks(hidden, weight, bias, temperature):
            largest = logits.amax(dim=-1, keepdim=True)
            p = torch.sub(logits, largest, out=other).exp_()
            scale = p.sum(dim=-1)
            totals[part] = largest.squeeze(-1) + scale.log()
            logprobs[part] = logits.gather(-1, targets[part, None]).squeeze(-1) - totals[part]
            if with_entropy:
                # A token ruled out by a logit of -inf has p = 0 and adds nothing.
                mean = p.mul_(logits).nan_to_num_(nan=0.0).sum(dim=-1) / scale
                entropy[part] = totals[part] - mean
        ctx.save_for_backward(hidden, weight, bias, targets, totals, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, totals, entropy = ctx.saved_tensors
        grad_logprobs, grad_entropy = (None if g is None else g / ctx.temperature for g in grads)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        into_hidden = torch.empty_like(hidden) if need_hidden else None
        # fp32, since many small chunks add up.
        into_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        into_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias else None
        for part, low, logits, other in _chunks(hidden, weight, bias, ctx.temperature):
            log_p = logits.sub_(totals[part, None])
            p = torch.exp(log_p, out=other)
            if grad_entropy is not None:
                slope = log_p.add_(entropy[part, None]).mul_(p).nan_to_num_(nan=0.0)
                slope.mul_(-grad_entropy[part, None])
            if grad_logprobs is None:
                grad = slope
            else:
                grad = p.mul_(-grad_logprobs[part, None])
                grad.scatter_add_(-1, targets[part, None], grad_logprobs[part, None])
                if grad_entropy is not None:
                    grad.add_(slope)
            grad = low.copy_(grad)
            if into_hidden is not None:
                torch.mm(grad, weight, out=into_hidden[part])
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
            None,
        )


def _chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Chunk by chunk: its place, scratch memory [n,V] in the model's dtype, its float32 logits [n,V] to
    write into, and float32 scratch memory as large.

    The memory is the same for every chunk: fresh pages would cost more than the mathematics.
    """
    size = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    shape = (min(size, len(hidden)), weight.shape[0])
    low = hidden.new_empty(shape)
    logits, other = (hidden.new_empty(shape, dtype=torch.float32) for _ in range(2))
    for start in range(0, len(hidden), size):
        part = slice(start, start + size)
        count = len(hidden[part])
        found = low[:count]
        if bias is None:
            torch.mm(hidden[part], weight.T, out=found)
        else:
            torch.addmm(bias, hidden[part], weight.T, out=found)
        logits[:count].copy_(found)
        if temperature != 1.0:
            logits[:count].div_(temperature)
        yield part, found, logits[:count], other[:count]
