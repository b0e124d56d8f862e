"""ppokit beside TRL 1.12.0 on the same machine, in turns, and the ratios. `make bench-trl` runs this.

python benchmarks/compare_trl.py --trl-python .venv-trl/bin/python [--model NAME] [--steps 3] [--rounds 1]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from step import SMOLLM2

HERE = Path(__file__).parent


def last_json(command: list[str]) -> dict[str, Any]:
    """Run a benchmark, echo what it prints, and read its last line."""
    print("$", " ".join(command), flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = ""
    for line in process.stdout:
        print("  " + line.rstrip(), flush=True)
    if process.wait() != 0:
        sys.exit(f"this benchmark failed with exit code {process.returncode}")
    result: dict[str, Any] = json.loads(line)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl-python", required=True, help="the interpreter of TRL's environment")
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--steps", type=int, default=3, help="steps each; the fastest counts")
    parser.add_argument("--rounds", type=int, default=1, help="turns; the fastest of all counts")
    arguments = parser.parse_args()

    from ppokit.loading import find_model

    checkpoint, steps = find_model(arguments.model).where, str(arguments.steps)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for _ in range(arguments.rounds):
        step = [sys.executable, str(HERE / "step.py"), "--model", checkpoint, "--steps", steps, "--json"]
        ours.append(last_json(step))
        side = [arguments.trl_python, str(HERE / "trl_side.py"), checkpoint, steps, ours[-1]["dtype"]]
        theirs.append(last_json(side))
    print(f"\n{ours[-1]['dtype']}, which is what this hardware multiplies fastest, on both sides")
    print(f"{'':12}{'seconds a step':>16}{'peak GB':>10}")
    best = {}
    for name, runs in (("ppokit", ours), ("TRL 1.12.0", theirs)):
        best[name] = (min(run["step_s"] for run in runs), min(run["peak_gb"] for run in runs))
        print(f"{name:12}{best[name][0]:16.2f}{best[name][1]:10.2f}")
    ratios = [mine / other for mine, other in zip(best["ppokit"], best["TRL 1.12.0"], strict=True)]
    print(f"{'ratio':12}{ratios[0]:16.2f}{ratios[1]:10.2f}")


if __name__ == "__main__":
    main()
