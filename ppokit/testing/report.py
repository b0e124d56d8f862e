"""Checks that were run, and how each ended."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from ppokit.errors import PluginError
from ppokit.messages import suggest
from ppokit.testing.checks import Fault, checks_of, hung
from ppokit.testing.subject import Subject


@dataclass(frozen=True)
class Result:
    """How one check ended: `passed`, `failed` with what is wrong, or `waived` with the author's reason."""

    check: str
    what: str
    outcome: Literal["passed", "failed", "waived"]
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """All checks of one component."""

    subject: Subject
    results: tuple[Result, ...]

    def having(self, outcome: str) -> list[Result]:
        return [result for result in self.results if result.outcome == outcome]

    @property
    def passed(self) -> bool:
        return not self.having("failed")


def check_waivers(subject: Subject) -> None:
    """That each of its waivers names a check of its kind and says why.

    Raises:
        PluginError: one does not.
    """
    known = [check.name for check in checks_of(subject.kind)]
    for name, reason in subject.component.waivers.items():
        if name not in known:
            raise PluginError(
                f"{subject.where}: the waiver {name!r} names no check of {subject.kind}{suggest(name, known)}"
            )
        if not isinstance(reason, str) or not reason.strip():
            raise PluginError(f"{subject.where}: the waiver {name!r} gives no reason; expected a sentence")


def run_checks(subject: Subject) -> Report:
    """Run every check of a component's kind; one that is waived is not run.

    Raises:
        PluginError: a waiver names no check, or gives no reason.
    """
    check_waivers(subject)
    results = []
    for check in checks_of(subject.kind):
        if reason := subject.component.waivers.get(check.name):
            results.append(Result(check.name, check.what, "waived", reason))
            continue
        began = time.perf_counter()
        fault = ""
        try:
            check.run(subject)
        except Fault as error:
            fault = str(error)
        took = time.perf_counter() - began
        results.append(Result(check.name, check.what, "failed" if fault else "passed", fault, took))
        if fault and (check.name in ("builds", "answers") or hung(subject)):  # nothing else can be checked
            break
    return Report(subject, tuple(results))
