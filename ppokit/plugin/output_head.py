"""What the output layer of a causal language model reads, and what becomes of the logits that it gives.

    logits = scale z,   or   cap tanh(scale z / cap),     z = W h + b

h are the final hidden states as the model itself gives them to the layer. Scale and cap are among the
factors that its configuration has, as Gemma 2's `final_logit_softcapping` or Cohere's `logit_scale`; which of
them apply, and how, is measured: the model is run with known numbers in the place of z.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ppokit.errors import ModelError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
_LARGEST = 100.0  # of the known numbers: far beyond every cap


@dataclass(frozen=True)
class LogitRule:
    """What a model does to the output layer's numbers.

    Attributes:
        width: how many of them are logits; some layers are wider than the vocabulary.
    """

    width: int
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, numbers: Tensor) -> Tensor:
        """[...,V] float32 logits of the layer's [...,>=V]."""
        logits = numbers[..., : self.width].float()
        if self.cap is not None:
            return (logits * (self.scale / self.cap)).tanh() * self.cap
        return logits if self.scale == 1.0 else logits * self.scale


_rules: WeakKeyDictionary[Any, LogitRule] = WeakKeyDictionary()


def output_head(model: Any) -> Any:
    """The output layer, which has a weight [V,H].

    Raises:
        ModelError: the model has none that can be found.
    """
    head = model.get_output_embeddings()
    if getattr(head, "weight", None) is None:
        raise ModelError(
            f"model.name: {type(model).__name__} has no output layer that get_output_embeddings() finds; "
            "expected a linear layer from hidden states to logits."
        )
    return head


def final_states(model: Any, **inputs: Any) -> tuple[Tensor, Any]:
    """A forward pass without the output layer.

    Args:
        inputs: what the model's forward takes.

    Returns: what that layer would have read, [b,T,H], and the output, whose logits mean nothing.

    Raises:
        ModelError: the model computes its logits in another way than by one call of that layer.
    """
    states: list[Tensor] = []

    def capture(hidden: Tensor) -> Tensor:
        states.append(hidden)
        return hidden.new_zeros(*hidden.shape[:-1], 1)

    with _replaced(output_head(model), capture):
        output = model(**inputs)
    if len(states) != 1:
        raise ModelError(
            f"model.name: {type(model).__name__} calls its output layer {len(states)} times in a forward "
            "pass; expected once, for the logits of the next tokens."
        )
    return states[0], output


def next_token_logits(model: Any, last: Tensor | None = None, **inputs: Any) -> tuple[Tensor, Any]:
    """Logits of the token that comes after the last one of each row, and the output with the cache.

    Args:
        last: [b] the column of each row's last token; None for the last column.
        inputs: what the model's forward takes.

    Returns: [b,V] float32, and the output, whose own logits mean nothing.
    """
    states, output = final_states(model, **inputs)
    own = states[:, -1] if last is None else states[range(len(last)), last]
    # Contiguous: a batched matmul on a slice would copy the layer's weights for each row.
    return logit_rule(model)(output_head(model)(own.contiguous())), output


def logit_rule(model: Any) -> LogitRule:
    """What the model does to its logits; measured at the first call.

    Raises:
        ModelError: it is none of what its configuration's factors explain.
    """
    rule = _rules.get(model)
    if rule is None:
        rule = _rules[model] = _measured(model)
    return rule


def _measured(model: Any) -> LogitRule:
    import torch

    head = output_head(model)
    numbers = torch.linspace(-_LARGEST, _LARGEST, head.weight.shape[0], device=model.device)
    numbers = numbers.to(head.weight.dtype)
    probe = torch.arange(4, device=model.device) % model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        try:
            model(input_ids=probe[None], use_cache=False)
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelError(
                f"model.name: {type(model).__name__} does not run on the tokens of a text alone "
                f"({type(error).__name__}: {first_line(error)}); expected a causal language model."
            ) from error
        states, _ = final_states(model, input_ids=probe[None], use_cache=False)
        if states.shape[:-1] != (1, len(probe)):
            raise ModelError(
                f"model.name: the output layer of {type(model).__name__} reads states of the shape "
                f"{list(states.shape)} for one text of {len(probe)} tokens; expected one per token, for the "
                "next one."
            )
        with _replaced(head, lambda hidden: numbers.expand(*hidden.shape[:-1], -1).clone()):
            logits = model(input_ids=probe[None], use_cache=False).logits[0, -1].float()
    config = model.config.get_text_config()
    caps = [None, *_factors(config, _CAPS)]
    factors = _factors(config, _SCALES)
    scales = [1.0, *factors, *(1 / factor for factor in factors)]
    exact = 1e-5 if head.weight.dtype == torch.float32 else 0.03
    rules = [LogitRule(len(logits), scale, cap) for cap, scale in itertools.product(caps, scales)]
    # The nearest: in bfloat16 a scale of 1.02 is within the rounding of none.
    nearest = min(rules, key=lambda rule: float((logits - rule(numbers)).square().mean()))
    expected = nearest(numbers)
    if bool((logits - expected).abs().max() <= exact * expected.abs().max()):
        return nearest
    raise ModelError(
        f"model.name: {type(model).__name__} changes its logits after the output layer in a way that none of "
        f"its configuration's factors explains (known are {', '.join((*_CAPS, *_SCALES))}); choose a model "
        "whose logits are that layer's output, scaled or capped."
    )


def _factors(config: Any, names: tuple[str, ...]) -> list[float]:
    """Those that the configuration has."""
    values = (getattr(config, name, None) for name in names)
    return [float(value) for value in values if isinstance(value, int | float) and value not in (0, 1)]


@contextmanager
def _replaced(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a module compute something else within."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
