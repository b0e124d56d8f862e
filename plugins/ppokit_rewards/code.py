"""Share of tests that the response's Python passes, from 0 to 1.

    score = tests passed / tests;  0 without a program

The program is the response's last fenced block of Python, else the last one of no language, else all of it.
The column of tests holds statements, such as `assert add(1, 2) == 3`, a list or one text. Each response runs
in a process of its own, with limits of time, memory and output, in an empty folder and, where the system lets
it (`unshare`), without a network and with process numbers of its own, so that nothing it has started goes on
behind it. What has passed until a test hangs counts. A response whose program could not be begun has failed.

Memory is limited of each process, and not of all together: a program may have 16 (with its threads) where
`unshare` works and you are not root, and elsewhere as many as the system gives. A container limits them all.

This is no sandbox against malice: the program runs as your user and can read your files. Where you do not
trust the policy, give a container's command, which reads a program from its standard input:
`container: [docker, run, --rm, -i, --network=none, python:3.12-slim, python, -]`.
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from ppokit.plugin import BuildContext, CheckContext, Component, Example, Options, Sample, hookimpl

_PROCESSES = 16  # of one program, each with its own memory_mb
_START_S = 30.0  # for an interpreter or a container to begin
_OWN_BYTES = 100  # that the harness prints at most at its begin and of each test
# A block that is not closed goes to the end: a stop string may have taken the fence.
_BLOCK = re.compile(r"(`{3,}+|~{3,}+)[ \t{.]*+(\w*+)[^\n`]*+\n(.*?)(?:\1|\Z)", re.DOTALL)
_PYTHON = ("python", "python3", "py")
_STARTED = "import sys; sys.argv = ['program']; exec(compile(sys.stdin.buffer.read(), 'program', 'exec'))"

# Runs in the process: the program, then each test by itself. Its first line says that it has begun, and each
# further one how many tests have passed: the last one counts, whatever comes behind it.
_HARNESS = """
import json, os, resource, signal, sys
for what, limit in {limits!r}:
    number = getattr(resource, "RLIMIT_" + what)
    allowed = resource.getrlimit(number)[1]
    limit = limit if allowed == resource.RLIM_INFINITY else min(limit, allowed)
    resource.setrlimit(number, (limit, limit))
signal.setitimer(signal.ITIMER_REAL, {seconds!r})  # in a container, which goes on without the one who asked
program, tests, token = json.loads({payload!r})
names = {{"__name__": "program"}}
passed = 0
os.write(1, f"\\n{{token}}\\n".encode())
try:
    exec(compile(program, "program", "exec"), names)
except BaseException as error:
    print(type(error).__name__, error, file=sys.stderr)
else:
    for test in tests:
        try:
            exec(compile(test, "test", "exec"), names)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
        else:
            passed += 1
            os.write(1, f"\\n{{token}} {{passed}}\\n".encode())
"""


class CodeOptions(Options):
    column: str = Field("tests", description="Column with the tests: a list of statements, or one text.")
    seconds: float = Field(5.0, gt=0, description="Time of a program and its tests.")
    memory_mb: int = Field(
        512, gt=0, le=1_000_000, description="Address space of each process, in megabytes."
    )
    output_bytes: int = Field(100_000, gt=0, description="What it may print; more ends it.")
    container: tuple[str, ...] = Field(
        (),
        description="Command of a container that runs Python from its input. Not set: a process.",
    )


class Code:
    def __init__(self, options: CodeOptions, context: BuildContext) -> None:
        self.options = options

    async def score_one(self, sample: Sample) -> float | None:
        tests = as_tests(sample.row.get(self.options.column))
        if not tests:
            return None
        program = last_block(sample.response)
        if not program.strip():
            return 0.0
        return await passed(program, tests, self.options) / len(tests)


def last_block(response: str) -> str:
    """The program of a response."""
    blocks = [(language.lower(), text) for _, language, text in _BLOCK.findall(response)]
    for languages in (_PYTHON, ("",)):
        if of_these := [text for language, text in blocks if language in languages]:
            return textwrap.dedent(of_these[-1])
    return response


def as_tests(given: Any) -> list[str]:
    """Statements, one per test: of a list, of JSON that holds one, or of a text of nothing but asserts.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(given, list | tuple):
        return [str(test) for test in given if test is not None]
    if given is None or not str(given).strip():
        return []
    if not isinstance(given, str):
        raise ValueError(
            f"got tests of type {type(given).__name__}; expected a list of statements, or a text"
        )
    with suppress(ValueError, RecursionError):
        decoded = json.loads(given)
        if isinstance(decoded, list):
            return [str(test) for test in decoded]
    text = textwrap.dedent(given)
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        statements = ast.parse(text).body
        if all(isinstance(statement, ast.Assert) for statement in statements):
            return [str(ast.get_source_segment(text, statement)) for statement in statements]
    return [text]


async def passed(program: str, tests: Sequence[str], options: CodeOptions) -> int:
    """How many tests pass until the program ends, takes too long or prints too much; 0 where it fails.

    Raises:
        RuntimeError: it was not started, such as by a container that is not there.
    """
    token = secrets.token_hex(16)
    payload = json.dumps([program, list(tests), token])
    harness = _HARNESS.format(payload=payload, limits=_limits(options), seconds=options.seconds)
    folder = tempfile.mkdtemp(prefix="ppokit-code-")
    try:
        most = options.output_bytes + _OWN_BYTES * (1 + len(tests))
        output = await _output_of(harness.encode(), token.encode(), folder, options, most)
    finally:
        await _remove(folder)
    text = output.decode(errors="replace")
    if token not in text:
        command = " ".join(options.container) or sys.executable
        raise RuntimeError(f"{command} did not begin the program")
    counts = re.findall(rf"^{token} (\d{{1,9}})$", text, re.MULTILINE)
    return min(int(counts[-1]), len(tests)) if counts else 0


async def _output_of(program: bytes, token: bytes, folder: str, options: CodeOptions, most: int) -> bytes:
    """What a program prints until it ends, its time is over, or it has printed too much."""
    process = await asyncio.create_subprocess_exec(
        *(options.container or [*apart(), sys.executable, "-I", "-S", "-c", _STARTED]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={"PATH": os.defpath, "HOME": folder} if not options.container else None,
        start_new_session=True,
    )
    output = bytearray()
    try:
        async with asyncio.timeout(_START_S) as limit:
            await _send(process, program)
            async for chunk in _chunks(process):
                has_begun, output = token in output, output + chunk
                if token in output and not has_begun:
                    limit.reschedule(asyncio.get_running_loop().time() + options.seconds)
                if len(output) > most:
                    break
    except TimeoutError:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        # Else its pipes stay open until the loop sees that they have ended.
        process._transport.close()  # type: ignore[attr-defined]
    return bytes(output)


async def _remove(folder: str) -> None:
    """A folder and what a program has put into it: perhaps a million files, or folders a thousand deep."""
    try:
        Path(folder).rmdir()
    except OSError:
        script = 'chmod -R u+rwx "$0"; rm -rf "$0"'
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", script, folder, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await process.wait()


async def _send(process: asyncio.subprocess.Process, program: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(program)
        await process.stdin.drain()
        process.stdin.close()


async def _chunks(process: asyncio.subprocess.Process) -> AsyncIterator[bytes]:
    assert process.stdout is not None
    while chunk := await process.stdout.read(65_536):
        yield chunk


def _limits(options: CodeOptions) -> list[tuple[str, int]]:
    limits = {"CPU": int(options.seconds) + 1, "AS": options.memory_mb * 1_000_000}
    limits |= {"FSIZE": 10_000_000, "CORE": 0}
    if apart() and not options.container:  # elsewhere the user's other processes count too; root has no limit
        limits["NPROC"] = _PROCESSES
    return list(limits.items())


@cache
def apart() -> tuple[str, ...]:
    """What starts a process without a network, and ends with it all that it has started.

    Nothing where the system lets nobody have a network and process numbers of their own.
    """
    command = ("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child")
    if shutil.which("unshare") is None:
        return ()
    works = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if works else ()


def check(options: CodeOptions, context: CheckContext) -> Iterable[str]:
    yield from context.without_column("column", options.column)
    if options.container and shutil.which(options.container[0]) is None:
        yield f"container: there is no command {options.container[0]}"


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    right = ("```python\ndef add(a, b):\n    return a + b\n```", "def add(a, b): return a + b")
    examples = [
        Example(right, ("def add(a, b): return a - b", "no"), row={"tests": ["assert add(1, 2) == 3"]})
    ]
    slow = "it starts a process for each response"
    waivers = {"time": slow, "long_responses": slow}
    component = Component("code", Code, options=CodeOptions, check=check, examples=examples, waivers=waivers)
    return [component]
