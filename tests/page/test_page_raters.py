"""Several raters at once in a real browser, and a server that dies under an open page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from page_server import numbered, rows_of, values

pytest.importorskip("selenium")

from page_browser import Page, until

if TYPE_CHECKING:
    from conftest import Serve

ENTER = "\ue007"


@pytest.mark.parametrize("overlap", [1, 2])
def test_two_raters(tab: Callable[[], Page], serve: Serve, overlap: int) -> None:
    """At once, each in a tab: every response gets its ratings, nobody the same one twice."""
    server = serve(numbered(6), "--per-item", overlap)
    pages = {"ana": tab(), "ben": tab()}
    for name, page in pages.items():
        page.join(server.link, name)
    if overlap == 1:
        assert pages["ana"].prompt() != pages["ben"].prompt()
    while any(page.visible("rating") for page in pages.values()):
        for page in pages.values():
            if page.visible("rating"):
                page.keys("5", ENTER)
    server.end()
    rated = [(row["prompt"], row["rater"]) for row in rows_of(server.out)]
    assert len(set(rated)) == len(rated)
    assert Counter(prompt for prompt, _ in rated) == {prompt: overlap for prompt, _ in numbered(6)}
    last = pages["ben"]
    assert last.text("#all") == f"{6 * overlap} of {6 * overlap} in all by 2 raters"


def test_who_waits_gets_what_others_give_back(tab: Callable[[], Page], serve: Serve) -> None:
    server = serve(numbered(1))
    ana, ben = tab(), tab()
    ana.join(server.link, "ana")
    ben.join(server.link, "ben")
    assert ben.text("#end-title") == "Nothing is left for you at the moment."
    assert ben.text("#end-text").endswith("This page looks again by itself.")
    ana.keys("s")
    ben.here()
    until(lambda: ben.visible("rating"))
    ben.keys("5", ENTER)
    assert [record["rater"] for record in server.records("answer")] == ["ben"]


def test_agreement_is_shown(tab: Callable[[], Page], serve: Serve) -> None:
    """2 2 and 4 8: alpha is 1/2, see tests/ratings/test_session.py."""
    server = serve(numbered(2), "--per-item", 2)
    for name, given in (("ana", "24"), ("ben", "28")):
        page = tab()
        page.join(server.link, name)
        for digit in given:
            page.keys(digit, ENTER)
    assert page.text("#agreement") == "agreement 0.50"


def test_a_server_that_is_killed_and_started_again(page: Page, serve: Serve) -> None:
    """The page says so, sends the rating until it is saved, and goes on; the next one too."""
    server = serve(numbered(4))
    page.join(server.link, "ana")
    page.keys("2", ENTER, "9")
    rated = page.prompt()
    server.kill()
    page.here().switch_to.active_element.send_keys(ENTER)
    until(lambda: page.visible("trouble"))
    assert page.text("#trouble") == (
        "The server does not answer. This is not saved yet; it is sent again until it is."
    )
    assert page.prompt() == rated
    server.start()
    until(lambda: not page.busy())
    assert not page.visible("trouble")
    assert values(server) == [2, 9]
    page.keys("4", ENTER, "5", ENTER)
    assert page.text("#mine") == "4 rated"
    server.end()
    assert [row["rating"] for row in rows_of(server.out)] == ["2", "9", "4", "5"]
    assert rows_of(server.out)[1]["prompt"] == rated


def test_a_reload_while_the_server_is_away_loses_nothing(page: Page, serve: Serve) -> None:
    server = serve(numbered(3))
    page.join(server.link, "ana")
    page.keys("7")
    server.kill()
    page.here().switch_to.active_element.send_keys(ENTER)
    until(lambda: page.visible("trouble"))
    server.start()
    page.open(server.link)
    until(lambda: page.text("#mine") == "1 rated")
    assert values(server) == [7]


def test_a_flag_that_is_sent_by_a_reload(page: Page, serve: Serve) -> None:
    server = serve(numbered(2))
    page.join(server.link, "ana")
    server.kill()
    page.here().switch_to.active_element.send_keys("f")
    until(lambda: page.visible("trouble"))
    server.start()
    page.open(server.link)
    until(lambda: page.visible("rating") and not page.busy())
    assert page.script("return document.getElementById('flag').getAttribute('aria-pressed')") == "true"
    assert len(server.records("flag")) == 1


def test_a_confirmation_that_is_lost(page: Page, serve: Serve) -> None:
    """The rating is saved, its answer never arrives: it is sent again and counts once."""
    server = serve(numbered(2))
    page.join(server.link, "ana")
    page.script(
        "const real = window.fetch; let lost = 0;"
        "window.fetch = async (...all) => { const answer = await real(...all);"
        " if (all[0].endsWith('act') && !lost++) throw new TypeError('lost'); return answer; }"
    )
    page.keys("6", ENTER)
    assert page.text("#mine") == "1 rated"
    assert values(server) == [6]


def test_a_link_that_is_no_longer_valid(page: Page, serve: Serve) -> None:
    server = serve(numbered(2))
    page.join(server.link, "ana")
    server.kill()
    server.out.with_name("ratings.token").unlink()
    server.start()
    page.keys("5", ENTER)
    assert (
        page.text("#trouble") == "This link is no longer valid. Ask for the one that `ppokit rate` printed."
    )
    assert values(server) == []
    assert page.chosen() == "5"
