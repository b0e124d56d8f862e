"""A component's object within a run: its name in errors and checkpoints, its events, its state, its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class RunComponent:
    """An object that a component has built, or an observer that was given to the trainer.

    Attributes:
        key: unique within the run, such as `rewards/kl_penalty`; checkpoints hold its state by this key.
        where: how errors name it: component, plugin, and where the recipe names it.
        instance: the object.
        on_error: `stop` ends the run where an event's method fails; `warn` says so once and goes on.
    """

    key: str
    where: str
    instance: Any
    on_error: Literal["warn", "stop"] = "stop"

    @property
    def is_observer(self) -> bool:
        """Whether it only watches: it may be new in a run that is resumed."""
        return self.key.startswith("observers/")
