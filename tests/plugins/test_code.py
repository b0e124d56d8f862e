"""Programs against tests: limits of time, memory, output and network, and what is left of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from ppokit_rewards.code import CodeOptions, as_tests, last_block, passed, without_network

ADD = "def add(a, b): return a + b"
TESTS = ["assert add(1, 2) == 3", "assert add(1, 1) == 3"]


def run(program: str, tests: list[str] = TESTS, **options: object) -> int:
    return asyncio.run(passed(program, tests, CodeOptions(**options)))


def test_share_of_tests_that_pass() -> None:
    assert run(ADD) == 1
    assert run("def add(a, b): return 3") == 2
    assert run("syntax error (") == 0


@pytest.mark.parametrize(
    "program",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "print('x' * 300_000); " + ADD,
        "x = bytearray(2_000_000_000); " + ADD,
        "print('00 2')",
    ],
    ids=["exit", "exit at once", "output", "memory", "forged"],
)
def test_what_passes_nothing(program: str) -> None:
    assert run(program) == 0


def test_time_is_limited_also_of_children() -> None:
    began = time.monotonic()
    assert run("import os\nif os.fork(): os.wait()\nwhile True: pass", seconds=0.5) == 0
    assert time.monotonic() - began < 5


@pytest.mark.skipif(not without_network(), reason="the system lets nobody make a network of its own")
def test_there_is_no_network() -> None:
    body = "import socket; socket.create_connection(('1.1.1.1', 80), timeout=1)"
    assert run(f"def connect():\n    {body}\n", ["connect()"]) == 0
    listening = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0))"
    assert run(listening, ["assert True"]) == 1, "sockets as such are there"


def test_a_container_command_runs_it() -> None:
    assert run(ADD, container=(sys.executable, "-")) == 1


def test_blocks_and_tests_are_read() -> None:
    assert last_block("a\n```python\nx = 1\n```\nb\n```py\ny = 2\n```") == "y = 2\n"
    assert last_block("x = 1") == "x = 1"
    assert as_tests(TESTS) == as_tests("\n".join(TESTS)) == TESTS
    assert as_tests('["assert a", "assert b"]') == ["assert a", "assert b"]
    assert as_tests("x = 1\nassert x") == ["x = 1\nassert x"]
    assert as_tests(None) == as_tests("") == []


def test_no_process_is_left() -> None:
    marker = "ppokit-code-test-marker"
    run(f"import subprocess; subprocess.Popen(['sleep', '1234', ]) # {marker}", ["assert True"])
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    assert "sleep 1234" not in listed.splitlines()
