"""Functions of Python, torch and ppokit that a component has put others in place of."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any

_MODULES = (
    *("builtins", "json", "logging", "math", "os", "random", "re", "signal", "socket", "ssl", "subprocess"),
    *("threading", "time", "urllib.request", "numpy", "numpy.random"),
    *("torch", "torch.autograd", "torch.distributed", "torch.linalg", "torch.nn", "torch.nn.functional"),
    *("torch.nn.init", "torch.optim", "accelerate.accelerator", "peft.peft_model"),
    *("transformers.generation.utils", "transformers.modeling_utils", "transformers.tokenization_utils_base"),
)
_MISSING = object()
_IMMUTABLE = 1 << 8  # CPython's Py_TPFLAGS_IMMUTABLETYPE: of classes written in C


Known = list[tuple[str, Any, dict[str, Any]]]


def functions() -> Known:
    """What stands in each module and class that is watched: its name, itself, and what it has."""
    return [(name, owner, dict(vars(owner))) for name, owner in _owners(len(sys.modules))]


def changed_functions(before: Known) -> list[str]:
    """Names of functions and classes that are others now; they are put back.

    A method that a class did not have, and its base does, is in place of the base's.
    """
    changed = []
    for name, owner, known in before:
        now = vars(owner)
        with suppress(Exception):  # values that are compared in ways of their own
            if now == known:
                continue
        for key, value in known.items():
            if now.get(key, _MISSING) is not value and _is_function(value) and not _own(now.get(key), name):
                changed.append(f"{name}.{key}")
                setattr(owner, key, value)
        bases = owner.__mro__[1:] if isinstance(owner, type) else ()
        for key in [key for key in now if key not in known and not key.startswith("__pydantic")]:
            if (
                _is_function(now[key])
                and any(key in vars(base) for base in bases)
                and not _own(now[key], name)
            ):
                changed.append(f"{name}.{key}")
                delattr(owner, key)
    return sorted(changed)


def _is_function(value: Any) -> bool:
    # By the type: torch has objects that warn when they are asked for their class.
    return callable(value) or issubclass(type(value), classmethod | staticmethod | property)


def _own(value: Any, owner: str) -> bool:
    """Whether a function was defined in its owner's own package, which may change itself."""
    module: str = getattr(value, "__globals__", {}).get("__name__", "")
    return module.partition(".")[0] == owner.partition(".")[0]


@lru_cache(maxsize=1)
def _owners(imported: int) -> list[tuple[str, Any]]:
    """Modules that are imported, and the classes that they define or show as their own.

    Args:
        imported: how many modules there are, so that those of later are looked at too.
    """
    names = [name for name in _MODULES if name in sys.modules]
    names += [name for name in sys.modules if name == "ppokit" or name.startswith("ppokit.")]
    owners: dict[int, tuple[str, Any]] = {}
    for name in names:
        module = sys.modules[name]
        owners[id(module)] = (name, module)
        for attribute, value in list(vars(module).items()):
            if not issubclass(type(value), type) or value.__flags__ & _IMMUTABLE:
                continue
            if value.__module__.split(".")[0] == name.split(".")[0]:
                owners.setdefault(id(value), (f"{name}.{attribute}", value))
    return list(owners.values())
