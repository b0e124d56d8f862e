"""Runs wrong variants of the algorithms against their tests, which must notice.

    python mutants.py                   all of them
    python mutants.py gae ppo_clip      those of some modules
    python mutants.py --each 1          the first of each module: what the tests have time for

torch is imported once; each variant then runs in a child that this process forks, in which an import hook
puts the variant's source in the place of the module's.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
SURVIVED, KILLED, BROKEN = 0, 1, 2
AT_ONCE = 2


class Variant(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from a source of its own."""

    def __init__(self, module: str, source: str) -> None:
        self.module, self.source = module, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name == self.module else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, f"<variant of {self.module}>", "exec"), vars(module))


def source_of(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None, module
    return Path(spec.origin).read_text(encoding="utf-8")


def variants(each: int | None) -> Iterator[tuple[str, str, str, str]]:
    """(module, its tests, name, source), up to `each` of a module; without it, the unchanged source first."""
    from mutants_advantages import MUTANTS as ADVANTAGES
    from mutants_core import MUTANTS as CORE
    from mutants_losses import MUTANTS as LOSSES

    for module, (tests, changes) in {**ADVANTAGES, **LOSSES, **CORE}.items():
        source = source_of(module)
        if each is None:  # the tests themselves run them on it
            yield module, tests, "", source
        for index, (name, old, new) in enumerate(changes):
            if source.count(old) != 1:
                raise SystemExit(f"{module}, {name!r}: {old!r} occurs {source.count(old)} times, expected 1")
            if each is None or index < each:
                yield module, tests, name, source.replace(old, new)


def noticed(module: str, tests: str, source: str) -> int:
    """In a child: whether the tests fail on this source."""
    import pytest
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "mutants",
        max_examples=25,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    # What the parent imported to find the sources is imported anew, with the variant among it.
    for name in [n for n in sys.modules if n.partition(".")[0].startswith("ppokit")]:
        del sys.modules[name]
    sys.meta_path.insert(0, Variant(module, source))
    # hypothesis is there before pytest could rewrite its assertions, which nobody looks at.
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
    quiet += ["--hypothesis-profile", "mutants"]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        code = pytest.main([*(str(HERE / test) for test in tests.split()), "-x", "-q", *quiet])
    return {pytest.ExitCode.OK: SURVIVED, pytest.ExitCode.TESTS_FAILED: KILLED}.get(code, BROKEN)


def main(modules: Sequence[str], each: int | None) -> int:
    """Prints each variant that survived; the exit status is 1 where there is one."""
    # Before the forks, so that no child pays for it.
    import accelerate  # noqa: F401
    import hypothesis  # noqa: F401
    import peft  # noqa: F401
    import pytest  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    torch.set_num_threads(1)
    waiting = [v for v in variants(each) if not modules or v[0].rpartition(".")[2] in modules]
    running: dict[int, tuple[str, str]] = {}
    counts, faults = {SURVIVED: 0, KILLED: 0}, []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            module, tests, name, source = waiting.pop(0)
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                code = BROKEN
                try:
                    code = noticed(module, tests, source)
                finally:
                    os._exit(code)
            running[child] = (module, name)
        child, status = os.wait()
        module, name = running.pop(child)
        exit_code = os.waitstatus_to_exitcode(status)
        if name:
            counts[exit_code] = counts.get(exit_code, 0) + 1
        if name and exit_code == SURVIVED:
            faults.append(f"{module}: no test notices {name!r}")
        elif (name and exit_code not in counts) or exit_code not in (SURVIVED, KILLED):
            faults.append(f"{module}, {name or 'unchanged'!r}: the tests could not be run ({exit_code})")
        elif not name and exit_code != SURVIVED:
            faults.append(f"{module}: its tests fail on the unchanged module")
    print(f"{counts[KILLED]} variants noticed")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--each", type=int)
    arguments = parser.parse_args()
    sys.exit(main(arguments.modules, arguments.each))
