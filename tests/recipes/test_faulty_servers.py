"""Trainings with a reward's server that fails, in every way that servers do, and what is left of it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from ppokit.cli import app
from runs import ENVIRONMENT, OPENERS, metrics_of, run_ppokit
from service import serve

KEY = "sk-very-secret-123"
BAD = OPENERS[:3]
"""The prompts whose responses the server answers badly: two of each in a step, of twelve."""
GATE = threading.Event()


class Fault(NamedTuple):
    """Attributes:
    answer: of a request for a response to a bad prompt, by how often its response was asked for.
    failed, retried: of the twelve responses of the first step.
    reason: a part of each failure's.
    keys: of the reward.
    """

    answer: Callable[[int], Any]
    failed: int
    reason: str = ""
    retried: int = 0
    keys: dict[str, Any] = {}  # noqa: RUF012


def _hang(number: int) -> Any:
    GATE.wait(60)
    return {"scores": [0.0]}


def _endless() -> Iterator[bytes]:
    while not GATE.is_set():
        yield b" " * 100_000


def _busy_once(number: int) -> Any:
    return (429, {"Retry-After": "1"}, b"busy") if number == 0 else {"scores": [0.0]}


FAULTS = {
    "hangs": Fault(_hang, 6, "TimeoutError: no answer in 2 s", keys={"timeout": 2}),
    "fails at first": Fault(
        lambda number: {"scores": [0.0]} if number else (503, {}, b"down"), 0, retried=6, keys={"retries": 2}
    ),
    "wrong length": Fault(lambda number: {"scores": [1, 2]}, 6, "answered 2 scores"),
    "NaN": Fault(lambda number: (200, {}, b'{"scores": [NaN]}'), 6, "expected a finite number"),
    "strings": Fault(lambda number: {"scores": ["high"]}, 6, "scored 'high'; expected a number"),
    "500": Fault(lambda number: (500, {}, KEY.encode()), 6, "HTTP 500: ***", 6, {"retries": 1}),
    "429": Fault(_busy_once, 0, retried=6, keys={"retries": 1}),
    "redirect loop": Fault(
        lambda number: (307, {"Location": "/again"}, b""), 6, "more than five times", keys={"redirects": True}
    ),
    "huge": Fault(lambda number: (200, {}, _endless()), 6, "more than max_bytes", keys={"max_bytes": 10**6}),
    "malformed": Fault(lambda number: (200, {}, b"{not json"), 6, "what is no JSON"),
    "repeats the key": Fault(lambda number: {"scores": [{"error": f"no {KEY}"}]}, 6, "no ***"),
}
ORDINARY = ("wrong length",)


def _opened() -> Counter[str]:
    """Sockets, pipes and such that this process has open, and its threads."""
    links: list[str] = []
    for file in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(file.readlink()).partition(":")[0])
        except OSError:  # the folder's own
            continue
    kinds = Counter(link for link in links if link in ("socket", "pipe", "anon_inode"))
    return kinds + Counter({"threads": threading.active_count()})


def _train(recipe: Path, opened: Counter[str]) -> Any:
    """`ppokit train`, after which nothing is open that was not."""
    result = CliRunner().invoke(app, ["train", str(recipe)])
    GATE.set()
    deadline = time.monotonic() + 30
    while _opened() - opened:
        assert time.monotonic() < deadline, (_opened() - opened, threading.enumerate())
        time.sleep(0.05)
    return result


def _shows_key(folder: Path, *texts: str) -> bool:
    files = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    return any(KEY.encode() in content for content in (*files, *(text.encode() for text in texts)))


@pytest.fixture
def recipe(
    recipe_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Path]:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    GATE.clear()

    def make(url: str, **keys: Any) -> Path:
        service = {"use": "http", "name": "service", "url": url, "key_env": "MY_KEY", "batch_size": 1, **keys}
        return recipe_file(
            rollout={"max_new_tokens": 4, "prompts_per_step": 6, "responses_per_prompt": 2},
            rewards=[service],
            losses=[{"use": "ppo_clip"}],
            advantages={"use": "mean_baseline"},
            run={"steps": 2, "out": str(tmp_path / "run"), "max_failed_rewards": 0.6},
        )

    return make


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "name", [n if n in ORDINARY else pytest.param(n, marks=pytest.mark.thorough) for n in FAULTS]
)
def test_a_run_goes_on_within_its_budget(name: str, recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Half of the responses fail, or are asked for again; every file counts them, none has the key."""
    import pyarrow.parquet as pq

    fault = FAULTS[name]
    asked: Counter[int] = Counter()  # of each prompt: two responses, then these again
    lock = threading.Lock()

    def answer(body: Any, number: int) -> Any:
        (row,) = body["rows"]
        with lock:
            before = asked[row["number"]]
            asked[row["number"]] += 1
        return fault.answer(before // 2) if row["prompt"] in BAD else {"scores": [1.0]}

    with serve(answer) as service:
        result = _train(recipe(service.url, **fault.keys), _opened())
    assert result.exit_code == 0, result.output
    run = tmp_path / "run"
    first, second = metrics_of(run)
    assert first.get("reward/service/failed", 0) == fault.failed / 12
    assert first.get("reward/service/scored", 1) == 1 - fault.failed / 12
    assert first.get("reward/service/retried", 0) == fault.retried
    assert second["step"] == 2
    samples = pq.read_table(run / "rollouts" / "step-000001.parquet").to_pylist()
    failed = [row for row in samples if row["outcome/service"] == "failed"]
    assert len(failed) == fault.failed
    assert all(row["prompt"] in BAD and fault.reason in row["reason/service"] for row in failed)
    assert not any(row["trained"] for row in failed)
    assert not _shows_key(run, result.output, result.stderr)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("closed port", "ConnectError"),
        pytest.param("wrong certificate", "CERTIFICATE_VERIFY_FAILED", marks=pytest.mark.thorough),
    ],
)
def test_a_run_without_a_server_ends(
    server: str, reason: str, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """And says why, though the whole budget would allow it."""
    if server == "closed port":
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            result = _train(recipe(f"http://127.0.0.1:{closed.getsockname()[1]}"), _opened())
    else:
        with serve(lambda body, number: {"scores": [1.0]}, _wrong_certificate(tmp_path)) as service:
            result = _train(recipe(service.url), _opened())
            assert service.asked == []
    assert result.exit_code == 2
    assert "failed for 12 of 12 responses" in result.output + result.stderr
    assert reason in result.output + result.stderr
    assert not _shows_key(tmp_path / "run", result.output, result.stderr)


def _wrong_certificate(folder: Path) -> ssl.SSLContext:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    files = [str(folder / name) for name in ("key.pem", "certificate.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x"]
    subprocess.run([*command, "-keyout", files[0], "-out", files[1]], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    return context


@pytest.mark.thorough
def test_a_thread_that_outlives_the_run_is_named(
    recipe_file: Callable[..., Path], reward_module: Callable[[str], None], tmp_path: Path
) -> None:
    """After the last save; the process ends, and not in the 60 s that the thread takes."""
    reward_module(
        "import threading, time\nBEGUN = []\n"
        "def kind(responses):\n"
        "    if not BEGUN:\n"
        "        BEGUN.append(threading.Thread(target=time.sleep, args=(600,), name='my-poller'))\n"
        "        BEGUN[0].start()\n"
        "    return [float(len(text)) for text in responses]\n"
    )
    recipe = recipe_file(rewards=[{"use": "my_rewards:kind"}])
    completed = run_ppokit("train", recipe, cwd=tmp_path, environment=ENVIRONMENT, timeout=300)
    assert completed.returncode == 0, completed.stderr
    assert "ended although threads still run that a plugin has started: my-poller" in completed.stderr
    assert (tmp_path / "run" / "policy" / "adapter_model.safetensors").is_file()
