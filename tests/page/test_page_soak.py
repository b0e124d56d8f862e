"""Twenty raters, 2,000 ratings, a server that is killed twice: none is lost, none counts twice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from page_server import rows_of
from page_soak import soak

if TYPE_CHECKING:
    from conftest import Serve


def test_no_rating_is_lost(serve: Serve) -> None:
    server = serve([(f"Prompt {n % 50}", f"Response {n}") for n in range(400)], "--per-item", 5)
    soaked = soak(server, raters=20, kill_after=[700, 1_400])
    assert soaked.sent_again > 0  # the kills were felt
    assert len(soaked.ratings) >= 2_000
    answers = server.records("answer")
    assert len({record["key"] for record in answers}) == len(answers)
    assert sorted((r["rater"], r["item"], r["value"]) for r in answers) == sorted(soaked.ratings)
    assert server.end()[0] == 0
    rows = [(row["rater"], row["item"], int(row["rating"])) for row in rows_of(server.out)]
    assert sorted(rows) == sorted(soaked.ratings)
    # Leases end with the server: an item may get a rating too many then, and never one too few.
    counts = Counter(item for _, item, _ in rows)
    assert (len(counts), min(counts.values())) == (400, 5)
    assert sum(counts.values()) - 2_000 <= 2 * 20
