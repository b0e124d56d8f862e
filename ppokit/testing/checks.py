"""The checks: each a function of a subject that raises `Fault`, in a sentence with what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ppokit.errors import PpokitError, in_one_paragraph
from ppokit.kinds import HOOK_BY_KIND
from ppokit.testing.process_state import import_what_runs_do, watched
from ppokit.testing.progress import trying
from ppokit.testing.subject import Subject
from ppokit.testing.time_limit import Expired, time_limit

_LIMIT = 30
"""Of a whole check, in limits of a call."""
_hung: dict[str, str] = {}  # what has not returned, and in which check


class Fault(AssertionError):  # noqa: N818 - the word of the kit's reports
    """What is wrong with a component, and what to do."""


@dataclass(frozen=True)
class Check:
    """One thing that a component must do.

    Attributes:
        name: what a waiver names.
        what: what must hold, in a sentence.
        kinds: of components that it is for.
        test: raises where it does not hold.
        about: likewise, of what all checks so far have shown.
    """

    name: str
    what: str
    kinds: tuple[str, ...]
    test: Callable[[Subject], None]
    about: Callable[[Subject], None] | None = None

    def run(self, subject: Subject) -> None:
        """Check a component.

        Raises:
            Fault: it does not hold; the message names the component.
        """
        with trying(f"{subject.where}: {self.name}"):
            self._run(subject)

    def _run(self, subject: Subject) -> None:
        where, limit = subject.where, _LIMIT * subject.seconds
        if where in _hung:
            raise Fault(f"{where}: not tried, as it did not return in the check {_hung[where]}")
        import_what_runs_do()
        try:
            with time_limit(limit), watched([where]):
                self.test(subject)
            if self.about is not None:
                self.about(subject)
        except Expired:
            _hung[where] = self.name
            raise Fault(
                f"{where}: {self.name}: it did not return within {limit:g} s, {_LIMIT} times what a call may "
                "take; give what it waits for a time-out of its own, or allow more by --seconds (seconds= of "
                "conformance)"
            ) from None
        except (Fault, PpokitError) as error:
            text = str(error)
            raise Fault(text if where in text else f"{where}: {text}") from error
        except (Exception, SystemExit, GeneratorExit) as error:
            raise Fault(f"{where}: {self.name}: {in_one_paragraph(error)}; it must not raise here") from error


def hung(subject: Subject) -> bool:
    """Whether a call of it has not returned, so that nothing else can be tried."""
    return subject.where in _hung


_CHECKS: dict[str, Check] = {}
_MODULES = (
    *("option_checks", "call_checks", "state_checks", "process_checks", "leftover_checks"),
    *("kind_checks", "engine_checks", "example_checks"),
)


def check(
    name: str, *kinds: str, about: Callable[[Subject], None] | None = None
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Make a function a check, of all kinds where none is named; its docstring says what must hold."""

    def register(test: Callable[[Subject], None]) -> Callable[[Subject], None]:
        what = " ".join(str(test.__doc__).split())
        _CHECKS[name] = Check(name, what, kinds or tuple(HOOK_BY_KIND), test, about)
        return test

    return register


def checks_of(kind: str) -> list[Check]:
    """Every check of a kind, in the order in which they run."""
    names = [import_module(f"ppokit.testing.{module}").__name__ for module in _MODULES]
    # One of them may have been imported before the others.
    checks = sorted(_CHECKS.values(), key=lambda one: names.index(one.test.__module__))
    return [one for one in checks if kind in one.kinds]
