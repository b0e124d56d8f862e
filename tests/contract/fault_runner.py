"""Runs `ppokit train` once per faulty plugin, each in a fork of one process that has imported everything.

    python fault_runner.py FOLDER MODEL CASES.json NAME ...

FOLDER gets the plugins and the runs; a line of JSON per case goes to stdout: name, exit code (None where it
had to be killed) and output. A fork costs no imports, and what a plugin does to its process stays there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

SECONDS = 60.0
INFO = "ppokit_faults-1.0.dist-info"
VOWELS = (
    "def vowels(rollout): return [sum(c in 'aeiou' for c in t) / max(1, len(t)) for t in rollout.responses]\n"
)
# What the contracts of the cases' month are called today.
TODAY = {
    "from ppokit.types import *": "from ppokit.plugin import *",
    "from ppokit.types import": "from ppokit.plugin import",
    "inputs.logprobs": "inputs.new_logprobs",
    '{"logprobs"} if "losses" == "losses"': '{"new_logprobs", "old_logprobs"} if "losses" == "losses"',
    "valid=": "trained=",
    "    def observe(self, rollout)": "    @hookimpl\n    def on_step(self, rollout)",
    "    def on_step(self, step": "    @hookimpl\n    def on_step(self, step",
    "    def on_step(self, *a)": "    @hookimpl\n    def on_step(self)",
    "    def on_end(self)": "    @hookimpl\n    def on_run_end(self)",
    "def generate(self, policy, batch, uniforms):\n": "def generate(self, policy, request):\n",
    "G = 1 if uniforms is None else uniforms.shape[1]; N = len(batch) * G": "N = len(request)",
    "int(0 if uniforms is None else uniforms.flatten()[0] * 1e6)": "len(request)",
    "fin = [False] * N": "fin = ['truncated'] * N",
    "[True] * N, txt": "['finished'] * N, txt",
    "torch.tensor(fin)": "fin",
    "assert uniforms is not None": "assert request.seeds is not None",
    "policy.model.": "policy.model().",
}


def recipe(folder: Path, model: str, name: str, case: dict[str, Any]) -> dict[str, Any]:
    """A small recipe that names the case's component."""
    chosen = {"use": name, **(yaml.safe_load("{" + case["options"] + "}") or {})}
    sections: dict[str, Any] = {
        "model": {"name": model, "dtype": "float32"},
        "lora": {"r": 2},
        "prompts": {"path": str(folder / "prompts.jsonl")},
        "rollout": {"max_new_tokens": 8, "prompts_per_step": 2, "responses_per_prompt": 2},
        "rewards": [{"use": "length", "target": 8}],
        "advantages": {"use": "mean_baseline"},
        "losses": [{"use": "ppo_clip"}],
        "run": {"steps": 2, "out": str(folder / f"run-{name}"), "sample_every": 0},
    }
    kind = case["kind"]
    if isinstance(sections.get(kind), dict):
        sections[kind] = {**(sections[kind] if kind == "rollout" else {}), **chosen}
    else:
        sections[kind] = [chosen]
    return sections


def run_case(folder: Path, model: str, name: str, case: dict[str, Any]) -> dict[str, Any]:
    """Fork, train, and tell how it ended."""
    source = case["source"]
    for before, now in TODAY.items():
        source = source.replace(before, now)
    (folder / "ppokit_faults" / f"{name}.py").write_text(source)
    path, output = folder / f"{name}.yaml", folder / f"{name}.txt"
    path.write_text(yaml.safe_dump(recipe(folder, model, name, case)))
    # Installed for this case alone, also for the process of a reward with a timeout.
    (folder / INFO / "entry_points.txt").write_text(f"[ppokit]\n{case['entry']} = ppokit_faults.{name}\n")
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        _train(path, output, name, case)
    deadline = time.monotonic() + SECONDS
    code: int | None = None
    while time.monotonic() < deadline:
        completed, status = os.waitpid(pid, os.WNOHANG)
        if completed:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.01)
    else:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return {"name": name, "code": code, "output": output.read_text(errors="replace")[-4000:]}


def _train(path: Path, output: Path, name: str, case: dict[str, Any]) -> None:
    """In the child: the command, with the plugin beside what is installed."""
    code = 1
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        from ppokit import cli

        sys.argv = ["ppokit", "train", str(path), *case["arguments"]]
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except KeyboardInterrupt:
            code = 130
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    folder, model, cases, *names = sys.argv[1:]
    root = Path(folder)
    (root / "ppokit_faults").mkdir(exist_ok=True)
    (root / INFO).mkdir(exist_ok=True)
    (root / INFO / "METADATA").write_text("Metadata-Version: 2.1\nName: ppokit-faults\nVersion: 1.0\n")
    (root / "ppokit_faults" / "__init__.py").write_text(VOWELS)
    lines = [{"prompt": f"Once upon a time {i}", "answer": "yes", "tests": [1, 2]} for i in range(8)]
    (root / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sys.path.insert(0, folder)
    # What a run imports, so that a fork need not.
    import accelerate  # noqa: F401
    import matplotlib.figure
    import matplotlib.ticker  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import ppokit.cli
    import ppokit.trainer  # noqa: F401

    torch.set_num_threads(1)
    AutoTokenizer.from_pretrained(model)
    AutoModelForCausalLM.from_pretrained(model)
    every = json.loads(Path(cases).read_text())
    for name in names or every:
        print(json.dumps(run_case(root, model, name, every[name])), flush=True)


if __name__ == "__main__":
    main()
