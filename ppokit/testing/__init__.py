"""The conformance kit: what every component must do, as one pytest item per check.

    from ppokit.testing import conformance

    test_conformance = conformance(Path(__file__).parent)  # all that this folder's pyproject.toml announces

Each check says in a sentence what is wrong and what to do. `ppokit plugins check` runs the same ones.
Nothing here imports torch until a check runs.
"""

from ppokit.plugin.examples import Example
from ppokit.testing.checks import Check, Fault, checks_of
from ppokit.testing.report import Report, Result, run_checks
from ppokit.testing.samples import rewards_of, rollout_of
from ppokit.testing.subject import Subject
from ppokit.testing.suite import conformance
from ppokit.testing.targets import find

__all__ = [
    "Check",
    "Example",
    "Fault",
    "Report",
    "Result",
    "Subject",
    "checks_of",
    "conformance",
    "find",
    "rewards_of",
    "rollout_of",
    "run_checks",
]
