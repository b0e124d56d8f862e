"""Log-probabilities and entropies of chosen tokens without a [B,T,V] tensor.

The language-model head runs on the hidden states of response positions only, a chunk of them at a
time, so neither memory nor autograd ever holds more than one chunk of logits. A token's numbers depend on
its own hidden state alone, so their slopes are computed while the chunk is there, and the backward pass only
scales them; a head that trains has its logits computed again for its own gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ppokit.errors import ModelError
from ppokit.messages import READS_AHEAD
from ppokit.plugin.output_head import LogitRule, final_states, logit_rule, output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Entropy = Literal["none", "value", "gradient"]
CHUNK_BYTES = 32 * 2**20  # of float32 logits
_ON_GPU = 4  # times as many: for fewer tokens a GPU waits for the head's weights, read twice per chunk


def chunk_size(hidden: Tensor, weight: Tensor) -> int:
    """How many of the states [N,H] are multiplied with the output embeddings [V,H] at a time."""
    most = CHUNK_BYTES if hidden.device.type == "cpu" else _ON_GPU * CHUNK_BYTES
    return max(1, most // (4 * weight.shape[0]))


def token_logprobs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    temperature: float,
    entropy: Entropy,
    rule: LogitRule | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of the distribution it came from, in nats.

        log p(y) = z_y - logsumexp(z),   H = logsumexp(z) - sum_v p_v z_v,   z = rule(head(h)) / temperature

    Args:
        hidden: [N,H] final hidden states at the positions that predict the targets.
        head: the output embeddings, a linear map [N,H] -> [N,V].
        rule: what the model does to the head's numbers; None for nothing.
        targets: [N] token ids.
        temperature: the temperature at which tokens were sampled, > 0.
        entropy: whether it is computed, and whether it carries a gradient; zeros for `none`.

    Returns: logprobs [N] and entropy [N], both float32 whatever the dtype of the model.
    """
    weight: Any = head.weight
    bias: Any = getattr(head, "bias", None)
    rule = rule or LogitRule(len(weight))
    if rule.width < len(weight):
        weight, bias = weight[: rule.width], None if bias is None else bias[: rule.width]
    both: tuple[Tensor, Tensor] = _ChunkedHead.apply(  # type: ignore[no-untyped-call]
        hidden,
        weight,
        bias,
        targets,
        _Tail(temperature / rule.scale, temperature, rule.cap),
        entropy,
        torch.is_grad_enabled() and hidden.requires_grad,
    )
    logprobs, entropies = both
    return logprobs, entropies if entropy == "gradient" else entropies.detach()


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """That the chunked head gives a model's log-probabilities, and that no state knows what comes after it.

    Raises:
        ModelError: the chunked head gives others, or a position's states depend on what comes after it.
    """
    device, kind = model.device, type(model).__name__
    size = model.get_input_embeddings().weight.shape[0]
    one, other = (torch.arange(start, start + 8, device=device) % size for start in (size // 4, size // 2))
    other[:4] = one[:4]
    rule, head = logit_rule(model), output_head(model)
    states, after = (final_states(model, input_ids=ids[None], use_cache=False)[0][0] for ids in (one, other))
    logits = rule(head(states))
    logp = logits.log_softmax(dim=-1)
    targets = one % rule.width
    expected = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(dim=-1)
    result = token_logprobs(states, head, targets, temperature=1.0, entropy="value", rule=rule)
    near = 1e-3 if model.dtype == torch.float32 else 0.03  # a model rounds what it caps in its own dtype
    whole = model(input_ids=one[None], use_cache=False).logits[0].float()
    if (logits - whole).abs().max() > near * whole.abs().max() or not all(
        torch.allclose(ours, theirs, atol=near, rtol=near)
        for ours, theirs in zip(result, expected, strict=True)
    ):
        raise ModelError(
            f"model.name: the logits of {kind} are not those of its output layer's weight; expected a linear "
            "map of the hidden states, scaled or capped."
        )
    if not torch.allclose(after[:4].float(), states[:4].float(), atol=near, rtol=near):
        raise ModelError(f"model.name: {kind} {READS_AHEAD}")


class _Tail(NamedTuple):
    """From the head's numbers z to logits at a temperature: z / divisor, capped at cap / temperature."""

    divisor: float
    temperature: float
    cap: float | None


class _ChunkedHead(torch.autograd.Function):
    """(hidden, weight, bias) -> (log p of the targets, entropy), with

    d log p(y) / dz_v = [v = y] - p_v,      d H / dz_v = -p_v (log p_v + H),

    and with a cap, times dz / du = 1 - tanh(u / cap)^2 of what it caps.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        tail: _Tail,
        entropy: Entropy,
        slopes: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(targets), dtype=torch.float32)
        totals, entropies = torch.empty_like(logprobs), torch.zeros_like(logprobs)
        of_logprob = torch.empty_like(hidden) if slopes else None
        of_entropy = torch.empty_like(hidden) if slopes and entropy == "gradient" else None
        for part, low, logits, other, inner in _chunks(hidden, weight, bias, tail):
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
                torch.mm(_into(low, slope, inner), weight, out=of_entropy[part])
            if of_logprob is not None:
                slope = p.neg_()
                slope.scatter_add_(-1, targets[part, None], slope.new_ones(len(slope), 1))
                torch.mm(_into(low, slope, inner), weight, out=of_logprob[part])
        ctx.save_for_backward(hidden, weight, bias, targets, totals, entropies, of_logprob, of_entropy)
        ctx.tail = tail
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, totals, entropies, of_logprob, of_entropy = ctx.saved_tensors
        scaled = [None if g is None else (g / ctx.tail.divisor).unsqueeze(-1) for g in grads]
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
                hidden, weight, bias, targets, totals, entropies, ctx.tail, scaled
            )
        return into_hidden, into_weight, into_bias, None, None, None, None


def _into_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    totals: Tensor,
    entropies: Tensor,
    tail: _Tail,
    grads: list[Tensor | None],
) -> tuple[Tensor, Tensor | None]:
    """The head's own gradient, from its logits computed again.

    Args:
        grads: of log-probabilities and entropies, [N,1] each, by the tail's divisor.
    """
    of_logprob, of_entropy = grads
    into_weight = torch.zeros_like(weight, dtype=torch.float32)  # since many small chunks add up
    into_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
    for part, low, logits, other, inner in _chunks(hidden, weight, bias, tail):
        # Not exp(z - total): that total, of twenty or so, has lost the digits of a p that is nearly 1.
        p = torch.softmax(logits, dim=-1, out=other)
        if of_entropy is None:
            slope = torch.zeros_like(p)
        else:
            log_p = logits.sub_(totals[part, None])
            slope = log_p.add_(entropies[part, None]).mul_(p).nan_to_num_(nan=0.0).mul_(-of_entropy[part])
        if of_logprob is not None:
            slope.addcmul_(p, of_logprob[part], value=-1)
            slope.scatter_add_(-1, targets[part, None], of_logprob[part])
        into_weight += _into(low, slope, inner).T @ hidden[part]
        if into_bias is not None:
            into_bias += slope.sum(dim=0)
    return into_weight.to(weight.dtype), None if into_bias is None else into_bias.to(weight.dtype)


def _into(low: Tensor, slope: Tensor, inner: Tensor | None) -> Tensor:
    """Slopes of what the head gave, in the model's dtype, for the next matmul; `slope` becomes them."""
    if inner is not None:
        slope.mul_(inner)
    return slope if low.dtype == slope.dtype else low.copy_(slope)


def _chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, tail: _Tail
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor | None]]:
    """Chunk by chunk: its slice, scratch memory [n,V] in the model's dtype, its float32 logits [n,V] to
    write into, float32 scratch memory as large, and the cap's slopes, as large, or None. In float32, the
    first two are one.

    The memory is the same for every chunk: fresh pages would cost more than the mathematics.
    """
    size = chunk_size(hidden, weight)
    shape = (min(size, len(hidden)), weight.shape[0])
    low = hidden.new_empty(shape)
    other = torch.empty_like(low, dtype=torch.float32)
    logits = low if low.dtype == torch.float32 else torch.empty_like(other)
    slopes = None if tail.cap is None else torch.empty_like(other)
    for start in range(0, len(hidden), size):
        part = slice(start, start + size)
        count = len(hidden[part])
        product, numbers = low[:count], logits[:count]
        if bias is None:
            torch.mm(hidden[part], weight.T, out=product)
        else:
            torch.addmm(bias, hidden[part], weight.T, out=product)
        if logits is not low:
            numbers.copy_(product)
        if tail.cap is not None and slopes is not None:
            limit = tail.cap / tail.temperature
            numbers.div_(tail.divisor * limit).tanh_()
            torch.square(numbers, out=slopes[:count]).neg_().add_(1.0)
            numbers.mul_(limit)
        elif tail.divisor != 1.0:
            numbers.div_(tail.divisor)
        yield part, product, numbers, other[:count], None if slopes is None else slopes[:count]
