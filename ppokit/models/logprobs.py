"""Log-probabilities and entropies of chosen tokens without a [B,T,V] tensor.

The language-model head runs on the hidden states of response positions only, a chunk of them at a
time, so neither memory nor autograd ever holds more than one chunk of logits. A token's numbers depend on
its own hidden state alone, so their slopes are computed while the chunk is there, and the backward pass only
scales them; a head that trains has its logits computed again for its own gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ppokit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Entropy = Literal["none", "value", "gradient"]
CHUNK_BYTES = 32 * 2**20  # of float32 logits


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
        hidden,
        head.weight,
        getattr(head, "bias", None),
        targets,
        temperature,
        entropy,
        torch.is_grad_enabled() and hidden.requires_grad,
    )
    logprobs, entropies = both
    return logprobs, entropies if entropy == "gradient" else entropies.detach()


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Some architectures scale or cap their logits after the head; the chunked head would not.

    Raises:
        ModelError: this is one of them.
    """
    head = model.get_output_embeddings()
    probe = torch.arange(4, device=model.device).unsqueeze(0)
    if head is not None:
        hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
        if torch.allclose(head(hidden).float(), model(input_ids=probe).logits.float(), atol=1e-3, rtol=1e-3):
            return
    raise ModelError(
        f"model.name: {type(model).__name__} changes its logits after the language-model head (by scaling "
        "or capping), which is not supported; choose a model whose logits are the head's output."
    )


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
        entropy: Entropy,
        slopes: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        totals, entropies = torch.empty_like(logprobs), torch.zeros_like(logprobs)
        of_logprob = torch.empty_like(hidden) if slopes else None
        of_entropy = torch.empty_like(hidden) if slopes and entropy == "gradient" else None
        for part, low, logits, other in _chunks(hidden, weight, bias, temperature):
            largest = logits.amax(dim=-1, keepdim=True)
            p = torch.softmax(logits, dim=-1, out=other)
            # The largest p is 1 / sum_v exp(z_v - max z), never too small for its logarithm.
            totals[part] = (largest - p.amax(dim=-1, keepdim=True).log()).squeeze(-1)
            logprobs[part] = logits.gather(-1, targets[part, None]).squeeze(-1) - totals[part]
            if entropy != "none":
                # A token ruled out by a logit of -inf has p = 0 and adds nothing.
                mean = logits.mul_(p).nan_to_num_(nan=0.0).sum(dim=-1)  # logits now hold p z
                entropies[part] = totals[part] - mean
            if of_entropy is not None:
                # -p (log p + H) = -p z + p (total - H)
                slope = torch.addcmul(logits.neg_(), p, (totals[part] - entropies[part])[:, None], out=logits)
                torch.mm(_into(low, slope), weight, out=of_entropy[part])
            if of_logprob is not None:
                slope = p.neg_()
                slope.scatter_add_(-1, targets[part, None], slope.new_ones(len(slope), 1))
                torch.mm(_into(low, slope), weight, out=of_logprob[part])
        ctx.save_for_backward(hidden, weight, bias, targets, totals, entropies, of_logprob, of_entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, totals, entropies, of_logprob, of_entropy = ctx.saved_tensors
        scaled = [None if g is None else (g / ctx.temperature).unsqueeze(-1) for g in grads]
        into_hidden: Tensor | None = None
        for grad, slope in zip(scaled, (of_logprob, of_entropy), strict=True):
            if grad is not None and slope is not None:
                part = grad * slope
                into_hidden = part if into_hidden is None else into_hidden + part
        if into_hidden is not None:
            into_hidden = into_hidden.to(hidden.dtype)
        into_weight = into_bias = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            into_weight, into_bias = _into_head(
                hidden, weight, bias, targets, totals, entropies, ctx.temperature, scaled
            )
        return into_hidden, into_weight, into_bias, None, None, None, None


def _into_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    totals: Tensor,
    entropies: Tensor,
    temperature: float,
    grads: list[Tensor | None],
) -> tuple[Tensor, Tensor | None]:
    """The head's own gradient, from its logits computed again.

    Args:
        grads: of log-probabilities and entropies, [N,1] each, divided by the temperature.
    """
    of_logprob, of_entropy = grads
    into_weight = torch.zeros_like(weight, dtype=torch.float32)  # since many small chunks add up
    into_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
    for part, low, logits, other in _chunks(hidden, weight, bias, temperature):
        log_p = logits.sub_(totals[part, None])
        p = torch.exp(log_p, out=other)
        if of_entropy is None:
            slope = torch.zeros_like(p)
        else:
            slope = log_p.add_(entropies[part, None]).mul_(p).nan_to_num_(nan=0.0).mul_(-of_entropy[part])
        if of_logprob is not None:
            slope.addcmul_(p, of_logprob[part], value=-1)
            slope.scatter_add_(-1, targets[part, None], of_logprob[part])
        into_weight += _into(low, slope).T @ hidden[part]
        if into_bias is not None:
            into_bias += slope.sum(dim=0)
    return into_weight.to(weight.dtype), None if into_bias is None else into_bias.to(weight.dtype)


def _into(low: Tensor, numbers: Tensor) -> Tensor:
    """The numbers in the model's dtype, for the next matmul."""
    return numbers if low.dtype == numbers.dtype else low.copy_(numbers)


def _chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Chunk by chunk: its slice, scratch memory [n,V] in the model's dtype, its float32 logits [n,V] to
    write into, and float32 scratch memory as large. In float32, the first two are one.

    The memory is the same for every chunk: fresh pages would cost more than the mathematics.
    """
    size = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    shape = (min(size, len(hidden)), weight.shape[0])
    low = hidden.new_empty(shape)
    other = torch.empty_like(low, dtype=torch.float32)
    logits = low if low.dtype == torch.float32 else torch.empty_like(other)
    for start in range(0, len(hidden), size):
        part = slice(start, start + size)
        count = len(hidden[part])
        product = low[:count]
        if bias is None:
            torch.mm(hidden[part], weight.T, out=product)
        else:
            torch.addmm(bias, hidden[part], weight.T, out=product)
        if logits is not low:
            logits[:count].copy_(product)
        if temperature != 1.0:
            logits[:count].div_(temperature)
        yield part, product, logits[:count], other[:count]
