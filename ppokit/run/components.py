"""A component's object within a run: its name in errors and checkpoints, its state, its end."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from ppokit.errors import PluginError, PpokitError, PpokitWarning, in_one_paragraph, plugin_call
from ppokit.rewards.attempts import attempt_async
from ppokit.rewards.event_loop import EventLoop

_CLOSE_S = 10.0  # that a coroutine may take to close its component


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
    """Call `close()` of every component that has one, the last first; one that fails is warned of.

    A coroutine is awaited on the run's event loop, where that is one of them: the first, which ends last.
    """
    loops = [component.instance for component in components if isinstance(component.instance, EventLoop)]
    loop = loops[0] if loops else EventLoop()
    for component in reversed(components):
        close = getattr(component.instance, "close", None)
        if not callable(close):
            continue
        try:
            with plugin_call(component.where, "close"):
                closing = close()
                if inspect.iscoroutine(closing):
                    _await(closing, component.where, loop)
        except PpokitError as error:
            warnings.warn(str(error), PpokitWarning, stacklevel=2)
    if not loops:
        loop.close()


def _await(closing: Coroutine[Any, Any, Any], where: str, loop: EventLoop) -> None:
    """Let a coroutine end.

    Raises:
        Exception: what it failed of, or that it takes too long.
    """
    waiting = loop.start(attempt_async(where, lambda: closing, _CLOSE_S))
    _, failure = loop.wait(waiting, 2 * _CLOSE_S)
    if isinstance(failure, Exception | SystemExit):
        raise failure
    if failure is not None:  # it would end more than the coroutine
        raise PluginError(f"{where}: close failed: {in_one_paragraph(failure)}")
