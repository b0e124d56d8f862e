"""Rotary positions whose factors depend on the length of a text: one factor for all texts of a run.

`longrope` takes its long factors where a text goes beyond the context that the model was first trained with,
and `dynamic` stretches with the longest text in hand. One response is then computed otherwise beside a longer
one, and its first tokens otherwise than once others follow them: what was sampled is not what is trained. So
every text gets the factors of the longest possible one of the run. Where that lies within the first context,
these are the ordinary ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppokit.data.context import rotary_parameters
from ppokit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

_TYPES = ("dynamic", "longrope")


def depends_on_length(config: Any) -> bool:
    """Whether some of a model's rotary factors change with the length of the text."""
    return bool(_parameters(config))


def same_factors(config: Any, one: int, other: int) -> bool:
    """Whether models that are fixed to these lengths read texts with the same factors."""
    parameters = _parameters(config)
    return not parameters or _most(config, parameters, one) == _most(config, parameters, other)


def fix_rotary(model: PreTrainedModel, longest: int, key: str = "model.name") -> None:
    """Let a model read every text as one of `longest` tokens; for others than such models, nothing changes.

    Copies of the model that are made later are fixed too. A text so long that its own factors would be
    others is a ModelError then.

    Args:
        key: what names the model, for errors.
    """
    parameters = _parameters(model.config)
    if not parameters:
        return
    modules = [
        module
        for module in model.modules()
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
    ]
    if not modules:
        raise ModelError(
            f"{key}: the rotary factors of {type(model).__name__} change with the length of a text, and "
            "its code has no such module as transformers' models have; choose a model whose rope_parameters "
            "are of another type than dynamic or longrope."
        )
    fixed = _Longest(longest, _most(model.config, parameters, longest), key)
    for module in modules:
        module.register_forward_pre_hook(fixed.extend, with_kwargs=True)
        module.register_forward_hook(_shortened)


def _parameters(config: Any) -> list[dict[str, Any]]:
    """Those that depend on the length."""
    return [own for own in rotary_parameters(config) if own.get("rope_type") in _TYPES]


def _most(config: Any, parameters: list[dict[str, Any]], longest: int) -> int | None:
    """The tokens up to which a text has the factors of the longest one; None for any number."""
    text = config.get_text_config(decoder=True)
    known = [own.get("original_max_position_embeddings") for own in parameters]
    first = min(int(length or text.max_position_embeddings) for length in known)
    if longest <= first:
        return first
    return longest if any(own["rope_type"] == "dynamic" for own in parameters) else None


class _Longest:
    """Appends the last position of the longest text to those that a rotary module is given."""

    def __init__(self, longest: int, most: int | None, key: str) -> None:
        self.longest, self.most, self.key = longest, most, key

    def extend(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Its factors go by the largest position of all."""
        import torch

        by_name = "position_ids" in kwargs
        positions: Tensor = kwargs["position_ids"] if by_name else args[1]
        if self.most is not None:
            self._check(positions, self.most)
        last = positions.new_full((*positions.shape[:-1], 1), self.longest - 1)
        extended = torch.cat([positions, last], dim=-1)
        if by_name:
            return args, kwargs | {"position_ids": extended}
        return (args[0], extended, *args[2:]), kwargs

    def _check(self, positions: Tensor, most: int) -> None:
        length = int(positions.max()) + 1
        if length > most:
            policy = self.key == "model.name"
            raise ModelError(
                f"{self.key}: a text of {length} tokens came, and the model's rotary factors are those of "
                f"{self.longest} tokens{' (the longest prompt, rollout.max_new_tokens)' if policy else ''}; "
                f"beyond {most} tokens they would be others. Shorten the text"
                f"{', or raise rollout.max_new_tokens' if policy else ''}."
            )


def _shortened(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Without the position that was appended."""
    if isinstance(output, tuple):
        return tuple(part[..., :-1, :] for part in output)
    return output[..., :-1, :]
