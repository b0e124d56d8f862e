"""The peers' side of a benchmark runs in an environment that has no ppokit."""

from __future__ import annotations

import ast
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def imported(script: Path) -> set[str]:
    """Top-level packages that a script imports, also by the modules beside it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    beside = [BENCHMARKS / f"{name}.py" for name in names]
    return names.union(*(imported(path) for path in beside if path.exists()))


def test_the_peers_side_needs_no_ppokit() -> None:
    assert "trl" in imported(BENCHMARKS / "trl_side.py")
    assert "ppokit" not in imported(BENCHMARKS / "trl_side.py")
    assert "ppokit" in imported(BENCHMARKS / "compare_trl.py")


def test_no_script_hides_a_package_that_transformers_looks_for() -> None:
    """A script's folder comes first on its path."""
    optional = {
        "kernels",
        "flash_attn",
        "deepspeed",
        "bitsandbytes",
        "accelerate",
        "peft",
        "datasets",
        "evaluate",
    }
    assert optional.isdisjoint(path.stem for path in BENCHMARKS.glob("*.py"))
