"""Programs against tests: limits of time, memory, output and network, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from ppokit_rewards.code import CodeOptions, apart, as_tests, last_block, passed

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


@pytest.mark.parametrize(
    "last", ["while True: pass", "import os; os._exit(0)", "print('x', end='')\nwhile 1: 1"]
)
def test_what_has_passed_before_a_test_hangs_counts(last: str) -> None:
    tests = ["assert add(1, 2) == 3", "assert add(1, 1) == 3", "assert add(0, 2) == 2", last, "assert True"]
    assert run(ADD, tests, seconds=1.0) == 2


@pytest.mark.skipif(not apart() or os.geteuid() == 0, reason="the system limits no processes of this user")
def test_processes_are_few() -> None:
    """Each may have as much memory as the recipe says."""
    program = "import os, time\nfor _ in range({}):\n    if os.fork() == 0: time.sleep(5); os._exit(0)\n"
    assert run(program.format(4) + ADD) == 1
    assert run(program.format(20) + ADD) == 0


def test_time_is_limited_also_of_children() -> None:
    began = time.monotonic()
    assert run("import os\nif os.fork(): os.wait()\nwhile True: pass", seconds=0.5) == 0
    assert time.monotonic() - began < 5


@pytest.mark.skipif(not apart(), reason="the system lets nobody make a network of its own")
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
    several = "assert add(\n    1, 2) == 3\n\n# the second\nassert(add(1, 1) == 3)"
    assert as_tests(several) == ["assert add(\n    1, 2) == 3", "assert(add(1, 1) == 3)"]
    with pytest.raises(ValueError, match="tests of type dict"):
        as_tests({"inputs": []})


@pytest.mark.parametrize(
    "response",
    [
        "```bash\npip install x\n```\nthen\n```python\nx = 1\n```",
        "```python\nx = 1\n```\nIt prints\n```\n1\n```",
        "```text\n1\n```\n```\nx = 1\n```",
        "``` {.python title='a'}\r\nx = 1\n```",
        "~~~~py\nx = 1\n~~~~",
        "- so\n  ```python\n  x = 1\n  ```",
        "```python\nx = 1",
    ],
)
def test_the_program_is_picked_from_among_the_blocks(response: str) -> None:
    assert last_block(response).strip() == "x = 1"


def test_a_program_that_nothing_began_is_not_scored() -> None:
    """No answer is wrong because a container is not there."""
    with pytest.raises(RuntimeError, match="true did not begin the program"):
        run(ADD, container=("true",))


def test_the_system_may_allow_less_memory_than_the_recipe() -> None:
    limited = f"ulimit -v 1000000; exec {sys.executable} -"
    assert run(ADD, memory_mb=2000, container=("sh", "-c", limited)) == 1


def test_what_the_harness_prints_is_not_counted() -> None:
    assert run(ADD, output_bytes=1) == 1


def test_no_process_is_left(tmp_path: Path) -> None:
    """Also none that has left its group, or was started by one that has."""
    for start in ("", "os.setsid()", "os.setsid(); os.fork()"):
        file = tmp_path / f"pid{len(start)}"
        program = f"""
import os, time
if os.fork() == 0:
    {start or "pass"}
    open({str(file)!r}, "a").write(os.readlink("/proc/self") + "\\n")
    os.close(1)
    time.sleep(600)
while not os.path.exists({str(file)!r}):
    time.sleep(0.01)
"""
        assert run(program, ["assert True"]) == 1
        left = [pid for pid in file.read_text().split() if is_running(pid)]
        assert not left or not apart()


def test_nothing_is_left_on_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the program has made of its folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    deep = "import os\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')"
    closed = "import os\nos.mkdir('d')\nopen('d/x', 'w').close()\nos.chmod('d', 0)"
    for program in (deep, closed, "open('x', 'w').close()", "pass"):
        assert run(program, ["assert True"]) == 1
        assert list(tmp_path.iterdir()) == []


def is_running(pid: str) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except FileNotFoundError:
            return False
        time.sleep(0.02)
    return True


def test_a_container_ends_a_program_that_goes_on(tmp_path: Path) -> None:
    """Whoever started it can end its own command only."""
    file = tmp_path / "pid"
    launcher = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-'], start_new_session=True).wait()"
    )
    program = f"open({str(file)!r}, 'w').write(str(__import__('os').getpid()))\nwhile True: pass"
    assert run(program, ["assert True"], seconds=1.0, container=(sys.executable, "-c", launcher)) == 0
    assert not is_running(file.read_text())
