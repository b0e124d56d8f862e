"""Many raters at once, each as persistent as a page: what is not answered is sent again with the same key."""

from __future__ import annotations

import http.client
import threading
import time
import zlib
from dataclasses import dataclass, field

from page_server import Caller, PageServer


@dataclass
class Soak:
    """What was confirmed to the raters.

    Attributes:
        ratings: rater, item and value of each, in no order.
        seconds: how long each confirmed call took, the waits for a killed server left out.
        sent_again: calls that had no answer at first.
    """

    ratings: list[tuple[str, str, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    sent_again: int = 0


def value_of(rater: str, item: str) -> int:
    """What this rater gives this item, from 0 to 10."""
    return zlib.crc32(f"{rater} {item}".encode()) % 11


def soak(server: PageServer, raters: int, kill_after: list[int]) -> Soak:
    """Rate until nothing is left for anyone; kill the server, and start it again, after so many ratings."""
    result = Soak()
    lock = threading.Lock()

    def work(name: str) -> None:
        caller = Caller(server.port, server.token, name)

        def insist(path: str, **body: object) -> dict[str, object]:
            nonlocal caller
            while True:
                began = time.perf_counter()
                try:
                    status, answer = caller.call(path, **body)
                except (OSError, http.client.HTTPException):
                    caller.close()
                    caller = Caller(server.port, server.token, name)
                    with lock:
                        result.sent_again += 1
                    time.sleep(0.1)
                    continue
                assert status == 200, answer
                with lock:
                    result.seconds.append(time.perf_counter() - began)
                return answer

        shown = insist("state")["item"]
        number = 0
        while isinstance(shown, dict):
            number += 1
            item, value = shown["id"], value_of(name, shown["id"])
            key = f"{name}-{number}-{item}"[:64]
            shown = insist("act", kind="answer", key=key, item=item, value=value)["item"]
            with lock:
                result.ratings.append((name, item, value))
        caller.close()

    threads = [threading.Thread(target=work, args=(f"rater {n}",)) for n in range(raters)]
    for thread in threads:
        thread.start()
    for count in kill_after:
        while len(result.ratings) < count and any(thread.is_alive() for thread in threads):
            time.sleep(0.01)
        server.kill()
        server.start()
    for thread in threads:
        thread.join()
    return result
