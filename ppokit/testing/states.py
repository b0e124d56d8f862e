"""A component's state, as a checkpoint holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ppokit.config.components import BuiltComponent
from ppokit.errors import PluginError
from ppokit.testing.checks import Fault

Encoded = tuple[str, dict[str, Any]]
"""JSON, and the tensors that it names."""


def state_of(built: BuiltComponent) -> Encoded:
    """What an object's `state_dict` gives.

    Raises:
        Fault: no checkpoint can hold it.
    """
    from ppokit.run.component_state import encode

    state = built.instance.state_dict()
    if not isinstance(state, Mapping):
        raise Fault(f"state_dict gives a {type(state).__name__}; expected a mapping")
    tensors: dict[str, Any] = {}
    try:
        return json.dumps(encode(state, "state", tensors)), tensors
    except PluginError as error:
        raise Fault(f"{error}; give plain numbers and texts") from error


def decoded(state: Encoded) -> Any:
    """A state as it comes out of a checkpoint."""
    from ppokit.run.component_state import decode

    text, tensors = state
    return decode(json.loads(text), tensors)


def plain(state: Encoded) -> Any:
    """A state, to be compared with another."""
    text, tensors = state
    return text, {name: tensor.tolist() for name, tensor in tensors.items()}
