"""How far rounding alone moves a model's numbers: the same pass, with each module's result a little off.

    result * (1 + eps u),  u uniform in -1/2..1/2

which is how much another kernel, another order of sums or merged weights may round it differently. Most
tokens hardly move; on some, a deep model in 16 bits turns a layer's last bit into half of its final state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def jittered(model: nn.Module) -> Iterator[None]:
    """Let results of every module of the model be off by up to half of their dtype's last bit.

    The draws are the same each time, and no other generator moves.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def off(_module: nn.Module, _inputs: Any, result: Any) -> Tensor | None:
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return None
        if result.device not in generators:
            generators[result.device] = torch.Generator(result.device).manual_seed(0)
        draws = torch.rand(result.shape, generator=generators[result.device], device=result.device) - 0.5
        moved: Tensor = (result.float() * (1 + torch.finfo(result.dtype).eps * draws)).to(result.dtype)
        return moved

    hooks = [module.register_forward_hook(off) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
