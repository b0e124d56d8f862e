"""One line in an author's tests, one pytest item per check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppokit.plugin.protocols import Component
from ppokit.testing.checks import checks_of
from ppokit.testing.report import check_waivers
from ppokit.testing.targets import find


def conformance(
    target: str | Path | Component | Callable[..., Any],
    kind: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    row: Mapping[str, Any] | None = None,
    seconds: float = 1.0,
) -> Callable[..., None]:
    """A parametrized test of everything that a component must do.

        test_conformance = conformance("rewards.politeness")

    Args:
        target, kind: what is checked, see `ppokit.testing.find`.
        options: keys beside `use`; those of its first example, if not given.
        row: columns of the data set that it reads, the same for each response; likewise.
        seconds: that a call on twelve short responses may take; a check is given up after 30 times as long.

    A check that the component waives is reported as skipped, with the reason.

    Raises:
        PluginError: nothing of use is there, or a waiver names no check or gives no reason.
    """
    import pytest

    items = []
    subjects = find(target, kind, options=options, row=row, seconds=seconds)
    for subject in subjects:
        check_waivers(subject)
        for check in checks_of(subject.kind):
            reason = subject.component.waivers.get(check.name)
            marks = [pytest.mark.skip(reason=f"{check.name} is waived: {reason}")] if reason else []
            name = check.name if len(subjects) == 1 else f"{subject.name}-{check.name}"
            items.append(pytest.param(check, subject, id=name, marks=marks))

    @pytest.mark.parametrize(("check", "subject"), items)
    def test_conformance(check: Any, subject: Any) -> None:
        check.run(subject)

    test: Callable[..., None] = test_conformance
    return test
