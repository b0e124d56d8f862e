"""A run from its first event to its last: who hears of it, how it is saved at its end, who is closed."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppokit.errors import (
    Interrupted,
    NonFiniteError,
    PluginError,
    PpokitError,
    PpokitWarning,
    RunFolderError,
    TrainingError,
    end_if_forked,
    in_one_paragraph,
)
from ppokit.run.components import RunComponent, close_components
from ppokit.run.events import EventHooks
from ppokit.run.signals import Signals


class Lifetime:
    """The components of a run: emits its events to them, and closes them once at its end.

    Args:
        instances: what the recipe's components have built on this process.
        observers: objects that the user gave to the trainer; called after the recipe's components, and
            stopping the run where they fail.
        write_end: is told how a run that had started ended: the step that was done last, the name of the
            signal that stopped it, and the error that ended it otherwise.

    Attributes:
        components: all of them.
        started, ended: whether `on_run_start` and `on_run_end` were emitted.
        keep_open: whether the components outlive `train()`, for the block that closes them.
    """

    def __init__(
        self,
        instances: Sequence[RunComponent],
        observers: Sequence[object],
        write_end: Callable[[int, str | None, str | None], None],
    ) -> None:
        self.components = list(instances)
        for i, observer in enumerate(observers):
            name = type(observer).__name__
            where = f"observer {name} (observers[{i}] of PPOTrainer)"
            self.components.append(RunComponent(f"observers/{name}-{i}", where, observer))
        self.events = EventHooks(self.components)
        self._write_end = write_end
        self.keep_open = False
        self.started = self.ended = self._closed = False
        self._pid = os.getpid()

    def start(self, step: int, steps: int, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Emit `on_run_start`."""
        self.started = True
        self.events.emit("on_run_start", step=step, steps=steps, folder=folder, recipe=recipe)

    def check_going(self, step: int, steps: int, folder: Path) -> None:
        """Refuse to go on with a run that has ended before its last step.

        Raises:
            TrainingError: its components have heard of its end.
        """
        if self.ended and step < steps:
            raise TrainingError(
                f"this run has ended after step {step} of {steps}, and its components heard so. To go on, "
                f"make another trainer: PPOTrainer(recipe, resume={str(folder)!r})."
            )

    def end(
        self, step: int, error: BaseException | None = None, save: Callable[[], None] | None = None
    ) -> None:
        """Emit `on_run_end` and close the components unless `keep_open`; each only once.

        Args:
            error: what ended it early, and is the one to raise whatever fails here.
            save: saves the last step, before anything else, where an error ended the run.
        """
        try:
            if error is not None and save is not None:
                with while_handling(error, "the last step is not saved"):
                    save()
            if not self.ended:
                self.ended = True
                with while_handling(error, "the end of the run is not written"):
                    self._record_end(step, error)
                with while_handling(error, "the end of the run"):
                    self.events.emit("on_run_end", step=step, error=_reason(error))
        finally:
            if not self.keep_open and not self._closed:
                self._closed = True
                close_components(self.components)

    def _record_end(self, step: int, error: BaseException | None) -> None:
        if not self.started:
            return
        if isinstance(error, Interrupted):
            self._write_end(step, signal.Signals(error.signum).name, None)
        else:
            self._write_end(step, None, _reason(error))

    @contextmanager
    def until_end(
        self, signals: Signals, save: Callable[[], None], step: Callable[[], int], begun: Callable[[], bool]
    ) -> Iterator[None]:
        """Run what is inside, save the last step whatever its end, and end the run.

        Args:
            save: saves the last step, unless it is saved.
            step: the step that was done last.
            begun: whether the run has written anything yet: an error before that leaves no folder.
        """
        ending: BaseException | None = None
        try:
            with signals.caught():
                try:
                    yield
                    with signals.deferred():
                        save()  # what a run that is done may have lost
                except BaseException as error:
                    end_if_forked(self._pid, "the run")
                    with signals.saving():
                        if begun() or isinstance(error, Interrupted | NonFiniteError):
                            with while_handling(error, "the last step is not saved"):
                                save()
                    if isinstance(error, SystemExit | GeneratorExit):
                        raise PluginError(
                            f"the run was ended from within: {in_one_paragraph(error)}"
                        ) from error
                    raise
        except BaseException as error:
            ending = error
            raise
        finally:
            self.end(step(), ending)


def _reason(error: BaseException | None) -> str | None:
    """What ended a run early, in one paragraph."""
    if isinstance(error, Interrupted):
        return f"stopped by {signal.Signals(error.signum).name}"
    return None if error is None else in_one_paragraph(error)


@contextmanager
def while_handling(error: BaseException | None, what: str) -> Iterator[None]:
    """Where what is done about an error fails too, that is a warning: the first error is the one to raise."""
    try:
        yield
    except PpokitError as second:
        if error is None:
            raise
        if not (isinstance(error, RunFolderError) and isinstance(second, RunFolderError)):
            warnings.warn(f"{what}: {second}", PpokitWarning, stacklevel=4)
