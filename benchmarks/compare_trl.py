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

    from ppokit.models.loading import find_model

    checkpoint, steps = find_model(arguments.model).where, str(arguments.steps)
    ours: list[dict[str, Any]] = []
    on_trunk: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for _ in range(arguments.rounds):
        step = [sys.executable, str(HERE / "step.py"), "--model", checkpoint, "--steps", steps, "--json"]
        ours.append(last_json(step))
        on_trunk.append(last_json([*step, "--value", "policy_trunk"]))
        side = [arguments.trl_python, str(HERE / "trl_side.py"), checkpoint, steps, ours[-1]["dtype"]]
        theirs.append(last_json(side))
    print(f"\n{ours[-1]['dtype']}, which is what this hardware multiplies fastest, on both sides")
    base = [min(run[key] for run in theirs) for key in ("step_s", "peak_gb")]
    print(f"{'':26}{'seconds per step':>16}{'ratio':>8}{'peak GB':>10}{'ratio':>8}")
    named = (("ppokit", ours), ("ppokit, value on trunk", on_trunk), ("TRL 1.12.0", theirs))
    for name, runs in named:
        seconds, peak = (min(run[key] for run in runs) for key in ("step_s", "peak_gb"))
        print(f"{name:26}{seconds:16.2f}{seconds / base[0]:8.2f}{peak:10.2f}{peak / base[1]:8.2f}")


if __name__ == "__main__":
    main()
