"""A component's object within a run: its name in errors and checkpoints, its state, its end."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from ppokit.errors import PluginError, PpokitError, PpokitWarning, plugin_call


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
        return self.key.startswith(("observers/", "evaluators/", "evaluation"))

    @property
    def has_state(self) -> bool:
        """Whether checkpoints hold its state.

        Raises:
            PluginError: it has only one of the two methods.
        """
        has = {
            name: callable(getattr(self.instance, name, None)) for name in ("state_dict", "load_state_dict")
        }
        if len(set(has.values())) > 1:
            present, missing = sorted(has, key=has.__getitem__, reverse=True)
            raise PluginError(
                f"{self.where} has {present} without {missing}; a component whose state checkpoints hold "
                "needs both."
            )
        return has["state_dict"]


@contextmanager
def closed_on_error(components: Sequence[RunComponent]) -> Iterator[None]:
    """Close components, also those that are added within, where an error ends what is inside."""
    try:
        yield
    except BaseException:
        close_components(components)
        raise


def close_components(components: Sequence[RunComponent]) -> None:
    """Call `close()` of every component that has one, the last first; one that fails is warned of."""
    for component in reversed(components):
        close = getattr(component.instance, "close", None)
        if not callable(close) or inspect.iscoroutinefunction(close):  # the scorer's, on its event loop
            continue
        try:
            with plugin_call(component.where, "close"):
                close()
        except PpokitError as error:
            warnings.warn(str(error), PpokitWarning, stacklevel=2)
