"""How fast the rating page answers, how many ratings survive a killed server, how long `ratings stats` takes.

    python benchmarks/rating_page.py --ratings RATINGS.csv

First 10,000 responses wait for 3 ratings each; one rater's calls are timed over a connection to the server,
in a session that has just begun and in one in which three raters have rated 9,000 responses each, while the
CSV is written every ten seconds. Then 20 raters give 2,000 ratings while the server is killed twice.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from unittest import mock

import psutil

# The raters of the test and of this are the same.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "page"))

from page_server import Caller, PageServer, rows_of
from page_soak import soak

ITEMS = 10_000
RATED = 9_000
CALLS = 300
SENTENCE = "The page shows one response at a time, and people say how good it is. "


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ratings", type=Path, help="a file for `ppokit ratings stats`")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        killed(Path(folder))
    if given.ratings is not None:
        stats(given.ratings)


def source(folder: Path, count: int) -> Path:
    """Prompts and responses of about 80 and 700 characters."""
    path = folder / "responses.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["prompt", "response"])
        for n in range(count):
            out.writerow([f"Prompt {n // 4}. {SENTENCE}", f"Response {n}. {SENTENCE * 10}"])
    return path


def page(folder: Path) -> None:
    """Print how long the calls take."""
    path = source(folder, ITEMS)
    options = (path, "--per-item", 3)
    print(f"{ITEMS:,} responses, 3 ratings each; {CALLS:,} calls of each kind, in milliseconds")
    print("processor: how long the server worked for a call")
    with closing(PageServer(*options, out=folder / "new.csv")) as server:
        timed("new session", server)
    prefill(path, folder / "old.csv")
    began = time.perf_counter()
    with closing(PageServer(*options, out=folder / "old.csv")) as server:
        starts = time.perf_counter() - began
        timed(f"after {3 * RATED:,} ratings", server)
    print(f"  it starts with that log in {starts:.1f} s\n")


def timed(what: str, server: PageServer) -> None:
    """Print how long the calls of one rater take, and how much of it the server worked."""
    caller = Caller(server.port, server.token, "ana")
    process = psutil.Process(server.pid)

    def measure(name: str, path: str, bodies: Callable[[int], dict[str, object]]) -> None:
        nonlocal shown
        taken = []
        before = process.cpu_times()
        for number in range(CALLS):
            body = bodies(number)
            began = time.perf_counter()
            status, reply = caller.call(path, **body)
            taken.append(time.perf_counter() - began)
            assert status == 200, reply
            shown = reply["item"]["id"]
        after = process.cpu_times()
        worked = after.user + after.system - before.user - before.system
        show(name, what, taken, f"   processor {1e3 * worked / CALLS:5.1f}")

    shown = caller.call("state")[1]["item"]["id"]
    measure("rate", "act", lambda n: act("answer", shown, n, n % 11))
    measure("undo", "act", lambda n: act("undo", None, n))
    measure("flag", "act", lambda n: act("flag", shown, n, n % 2 == 0))
    measure("look", "state", lambda n: {})
    caller.close()


def act(kind: str, item: str | None, number: int, value: object = None) -> dict[str, object]:
    return {"kind": kind, "key": f"{kind}-{number:08d}", "item": item, "value": value}


def show(what: str, when: str, seconds: Sequence[float], more: str = "") -> None:
    ordered = sorted(seconds)
    median, high = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    line = "   ".join(
        f"{name} {1e3 * value:6.1f}"
        for name, value in (("median", median), ("99 %", high), ("most", ordered[-1]))
    )
    print(f"  {when:22} {what:5} {line}{more}", flush=True)


def prefill(path: Path, out: Path) -> None:
    """A session in which three raters have rated; written without waiting for the disk."""
    from ppokit.ratings.page.assignments import AssignmentQueue
    from ppokit.ratings.page.choosing import choose
    from ppokit.ratings.page.items import read_source, single_items
    from ppokit.ratings.page.session import RatingSession, SessionConfig

    items = choose(single_items([read_source(path)]), None, "random", 0)
    with mock.patch.object(os, "fsync"):
        session = RatingSession(out, AssignmentQueue(items, 3), SessionConfig(False, (0, 10), 0))
        for rater in ("ana", "ben", "cy"):
            for number, item in enumerate(items[:RATED]):
                session.act(rater, "answer", f"{rater}-{number:08d}", item.id, number % 11)
        session.close()


def killed(folder: Path) -> None:
    """Print how many of 2,000 ratings by 20 raters survive."""
    began = time.perf_counter()
    with closing(PageServer(source(folder, 400), "--per-item", 5, out=folder / "ratings.csv")) as server:
        soaked = soak(server, raters=20, kill_after=[700, 1_400])
        server.end()
    saved = [(row["rater"], row["item"], int(row["rating"])) for row in rows_of(server.out)]
    lost = len(set(soaked.ratings) - set(saved))
    strange = len(set(saved) - set(soaked.ratings)) + len(saved) - len(set(saved))
    seconds = time.perf_counter() - began
    print(f"20 raters, {len(soaked.ratings):,} ratings confirmed, server killed twice: {seconds:.0f} s")
    print(f"  lost {lost}, saved twice or never given {strange}, calls sent again {soaked.sent_again}")
    show("all", "20 raters at once", soaked.seconds)
    print()


def stats(path: Path) -> None:
    """Print how long the command takes, the start of Python included."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "ppokit", "ratings", "stats", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with path.open(encoding="utf-8", newline="") as file:
        rows = sum(1 for _ in csv.DictReader(file))
    print(f"ppokit ratings stats, {rows:,} rows: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
