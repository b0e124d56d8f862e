"""The tests of the algorithms notice every wrong variant of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutants import variants
from mutants_advantages import MUTANTS as ADVANTAGES
from mutants_losses import MUTANTS as LOSSES
from ppokit.config.registry import PluginRegistry


def test_every_algorithm_has_five() -> None:
    counts = {module: len(changes) for module, (_, changes) in {**ADVANTAGES, **LOSSES}.items()}
    algorithms = [e for e in PluginRegistry().entries() if e.kind in ("advantages", "losses")]
    expected = {e.module for e in algorithms if e.module.startswith("ppokit_")}
    assert {module for module in expected if counts.get(module, 0) < 5} == set()


def test_every_variant_applies_to_the_source_of_today() -> None:
    """A text that no longer occurs, or a test file that is gone, would make a variant say nothing."""
    for module, tests, name, source in variants(None):
        compile(source, f"{module}, {name}", "exec")
        for test in tests.split():
            assert Path(__file__).parent.joinpath(test.split("::")[0]).exists(), (module, test)


@pytest.mark.slow
def test_each_is_noticed() -> None:
    """One variant per module; `make mutants` runs all."""
    completed = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("mutants.py")), "--each", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
