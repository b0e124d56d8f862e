"""`plugins check` where a plugin ends the process: who did it, in which check, and never with exit code 0."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import os, signal, sys
from ppokit.cli.supervised import go_on_in_child
from ppokit.testing.progress import trying

go_on_in_child()
with trying("the first check"):
    pass
try:
    with trying("the second check"):
        raise ValueError
except ValueError:
    pass
{end}
"""
_WITHIN = "with trying('rewards x: time'):\n    "


@pytest.mark.parametrize(
    ("end", "code", "what"),
    [
        ("sys.exit(0)", 0, ""),
        ("sys.exit(2)", 2, ""),
        ("os._exit(0)", 0, ""),
        (_WITHIN + "os._exit(0)", 1, "exit code 0"),
        (_WITHIN + "raise KeyboardInterrupt", 1, "SIGINT|exit code 1"),
        (_WITHIN + "os.kill(os.getpid(), signal.SIGKILL)", 1, "SIGKILL"),
        (_WITHIN + "os.kill(os.getppid(), signal.SIGTERM); signal.pause()", 128 + 15, ""),
    ],
)
def test_the_end_of_the_child(end: str, code: int, what: str) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(end=end)], capture_output=True, text=True, timeout=300
    )
    assert completed.returncode == code, completed.stderr
    message = re.search(r"error: rewards x: time: it ended the whole process \((.*?)\)", completed.stderr)
    assert (message is not None) == bool(what)
    assert message is None or re.fullmatch(what, message[1])


_PLUGIN = """
import os
from ppokit.plugin import Options, RewardOutput

class Ends(Options):
    def score(self, rollout):
        {score}

{module}
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("score", "module", "what"),
    [
        (
            "os._exit(0)",
            "",
            r"rewards 'Ends' \(plugin .*\): answers: it ended the whole process \(exit code 0\)",
        ),
        ("raise KeyboardInterrupt", "", r"rewards 'Ends' .*: answers: it ended the whole process"),
        ("pass", "os._exit(3)", r"importing ends:Ends: it ended the whole process \(exit code 3\)"),
    ],
)
def test_the_command_names_check_and_component(score: str, module: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(_PLUGIN.format(score=score, module=module))
    completed = subprocess.run(
        [sys.executable, "-m", "ppokit", "plugins", "check", "ends:Ends"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 1
    assert re.search(what, completed.stderr), completed.stderr
