"""`ppokit rate` in a process of its own, and calls to it as the page makes them."""

from __future__ import annotations

import csv
import http.client
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATIENCE = 180  # seconds for a server to start on a busy machine
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


class PageServer:
    """The command, which can be killed and started again at the same address.

    Args:
        arguments: of `ppokit rate`, without `--port`.
        out: what they give as `--out`.
    """

    def __init__(self, *arguments: object, out: Path) -> None:
        self.arguments = [*map(str, arguments), "--out", str(out)]
        self.out = out
        self.port = 0
        self.link = ""
        self.output = ""
        self._process: subprocess.Popen[str] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        command = [sys.executable, "-m", "ppokit", "rate", *self.arguments, "--port", str(self.port)]
        self._process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert self._process.stdout is not None
        reading = threading.Thread(target=_read, args=(self._process.stdout, lines), daemon=True)
        reading.start()
        self._lines, self._reading = lines, reading
        self.output = ""
        while not (match := re.search(r"http://\S+", self.output)):
            line = lines.get(timeout=PATIENCE)
            assert line, f"ppokit rate ended: {self.output}"
            self.output += line
        self.link = match[0]
        self.port = urlsplit(self.link).port or 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.link).query)["token"][0]

    @property
    def log(self) -> Path:
        return self.out.with_name(f"{self.out.stem}.log.jsonl")

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send a signal; its exit code, and all that it printed."""
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(PATIENCE)
        self._reading.join(PATIENCE)
        while not self._lines.empty():
            self.output += self._lines.get()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
        return code, self.output

    def kill(self) -> None:
        """As a power cut would: it cannot finish anything."""
        self.end(signal.SIGKILL)

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def records(self, *kinds: str) -> list[dict[str, Any]]:
        """What the log holds of these kinds."""
        lines = [json.loads(line) for line in self.log.read_text("ascii").splitlines()]
        return [line for line in lines if line["kind"] in kinds]


class Caller:
    """Calls over one connection, as one rater's page makes them."""

    def __init__(self, port: int, token: str, rater: str = "") -> None:
        self.token, self.rater = token, rater
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def request(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body."""
        self._connection.request(method, path, body, headers)
        with self._connection.getresponse() as answer:
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def call(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        """Status and what was answered."""
        sent = json.dumps({"rater": self.rater, **body}).encode()
        status, _, answer = self.request("POST", f"/api/{path}", sent, Authorization=f"Bearer {self.token}")
        return status, json.loads(answer)

    def close(self) -> None:
        self._connection.close()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def numbered(count: int) -> list[tuple[str, str]]:
    return [(f"Prompt {n}", f"Response {n}") for n in range(count)]


def values(server: PageServer) -> list[int]:
    """The ratings in the order in which they were given, with those that were taken back."""
    return [record["value"] for record in server.records("answer")]


def _read(stream: Any, lines: queue.SimpleQueue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")
