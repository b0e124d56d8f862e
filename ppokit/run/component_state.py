"""The state of components as JSON and tensors, and back.

JSON knows only texts as keys and no tuples; what it would change stands in an object with one of these keys:

    {"__tensor__": NAME}   a tensor, in the safetensors file
    {"__tuple__": [...]}   a tuple
    {"__items__": [[key, value], ...]}   a mapping whose keys are not all texts
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ppokit.errors import PluginError

_TAGS = ("__tensor__", "__tuple__", "__items__")
_HOLDS = "numbers, texts, True, False, None, lists, tuples, mappings and dense tensors"


def encode(state: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A copy of a state that JSON can hold.

    Args:
        name: of the state, such as `rewards/kl_penalty`; tensors are named by it and their path.
        tensors: filled with copies of the tensors, on the CPU.

    Raises:
        PluginError: something in it cannot be stored; the message says where.
    """
    if state is None or isinstance(state, bool):
        return state
    for kind in (int, float, str):
        if isinstance(state, kind):
            return kind(state)
    if isinstance(state, Tensor):
        if state.layout != torch.strided or state.is_quantized or state.is_complex() or state.is_meta:
            raise _refused(state, name)
        while name in tensors:  # of the keys 1 and "1", or "a/b" and "b" within "a"
            name += "'"
        tensors[name] = state.detach().to("cpu", copy=True).contiguous()
        return {"__tensor__": name}
    if type(state) is tuple:
        return {"__tuple__": [encode(item, f"{name}/{i}", tensors) for i, item in enumerate(state)]}
    if isinstance(state, list):
        return [encode(item, f"{name}/{i}", tensors) for i, item in enumerate(state)]
    if isinstance(state, Mapping):
        if all(isinstance(key, str) and key not in _TAGS for key in state):
            return {str(key): encode(value, f"{name}/{key}", tensors) for key, value in state.items()}
        items = []
        for i, (key, value) in enumerate(state.items()):
            if isinstance(key, Tensor):
                raise _refused(key, f"{name}, key {i}")
            items.append([encode(key, f"{name}/{i}", tensors), encode(value, f"{name}/{key}", tensors)])
        return {"__items__": items}
    raise _refused(state, name)


def decode(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `encode` was given.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(state, list):
        return [decode(item, tensors) for item in state]
    if not isinstance(state, dict):
        return state
    if "__tensor__" in state:
        return tensors[state["__tensor__"]].clone()
    if "__tuple__" in state:
        return tuple(decode(item, tensors) for item in state["__tuple__"])
    if "__items__" in state:
        return {decode(key, tensors): decode(value, tensors) for key, value in state["__items__"]}
    return {key: decode(value, tensors) for key, value in state.items()}


def _refused(value: Any, name: str) -> PluginError:
    kind = type(value)
    return PluginError(
        f"state_dict() has a {kind.__module__}.{kind.__qualname__} at {name}; checkpoints hold {_HOLDS}."
    )
