"""ppokit: fine-tune language models with PPO, from plugins and YAML recipes.

Public names are loaded on first use, so that `import ppokit` is quick and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppokit.config.recipe import Recipe
    from ppokit.plugin.hookspecs import hookimpl
    from ppokit.plugin.protocols import Component, Options
    from ppokit.trainer import PPOTrainer

__version__ = "0.1.0"

_HOME = {
    "Component": "ppokit.plugin.protocols",
    "Options": "ppokit.plugin.protocols",
    "PPOTrainer": "ppokit.trainer",
    "Recipe": "ppokit.config.recipe",
    "hookimpl": "ppokit.plugin.hookspecs",
}

__all__ = ["Component", "Options", "PPOTrainer", "Recipe", "__version__", "hookimpl"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ppokit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
