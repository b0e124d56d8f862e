"""A thread that a plugin leaves behind is named, and a process ends as it should in spite of it."""

from __future__ import annotations

import subprocess
import sys
import time


def run(body: str) -> tuple[subprocess.CompletedProcess[str], float]:
    code = (
        "import sys, threading, time; from concurrent.futures import ThreadPoolExecutor\n"
        "import ppokit.cli.leaving as leaving; leaving._GRACE_S = 0.5; leave = leaving.Leaving()\n"
        f"{body}\nleave.with_code(3); sys.exit(3)"
    )
    began = time.monotonic()
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return completed, time.monotonic() - began


def test_it_is_named_and_the_process_ends() -> None:
    completed, seconds = run("threading.Thread(target=time.sleep, args=(60,), name='my-poller').start()")
    assert completed.returncode == 3
    assert completed.stderr.startswith("ppokit: warning: ended although threads still run")
    assert "my-poller" in completed.stderr
    assert seconds < 30


def test_an_idle_pool_ends_by_itself() -> None:
    completed, _ = run("pool = ThreadPoolExecutor(2); pool.submit(int).result()")
    assert (completed.returncode, completed.stderr) == (3, "")


def test_a_daemon_that_computes_does_not_abort_the_process() -> None:
    """As a reward may that was given up after its timeout. What is registered for the exit is done before."""
    completed, _ = run(
        "import atexit, torch; atexit.register(print, 'done')\n"
        "def compute():\n"
        "    numbers = torch.ones(2000, 2000)\n"
        "    while True: numbers @ numbers\n"
        "threading.Thread(target=compute, daemon=True).start(); time.sleep(0.5)"
    )
    assert (completed.returncode, completed.stdout, completed.stderr) == (3, "done\n", "")
