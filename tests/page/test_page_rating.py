"""Rating one response at a time in a real browser: keys, mouse, undo, reload, two raters, a dying server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from page_server import PageServer, rows_of

pytest.importorskip("selenium")

from page_browser import Page, until

if TYPE_CHECKING:
    from conftest import Serve

ENTER, LEFT, RIGHT, DOWN, TAB, ESCAPE, SPACE = "\ue007", "\ue012", "\ue014", "\ue015", "\ue004", "\ue00c", " "


def numbered(count: int) -> list[tuple[str, str]]:
    return [(f"Prompt {n}", f"Response {n}") for n in range(count)]


def values(server: PageServer) -> list[int]:
    """The ratings in the order in which they were given, with those that were taken back."""
    return [record["value"] for record in server.records("answer")]


def test_a_session_by_keyboard_alone(page: Page, serve: Serve) -> None:
    """Digits, a two-digit number, arrows, Enter, the end; and nothing else is needed."""
    server = serve(numbered(8))
    page.open(server.link)
    page.keys("ana", ENTER)
    seen = []
    for pressed, chosen in [
        (("7",), "7"),
        (("1", "0"), "10"),
        (("3", RIGHT), "4"),
        (("3", LEFT, LEFT), "1"),
        ((LEFT,), "10"),  # from nothing, to the nearer end
        ((RIGHT, LEFT), "0"),
        (("9", RIGHT, RIGHT), "10"),
        (("2", "5"), "5"),
    ]:
        seen.append((page.prompt(), *page.responses()))
        page.keys(*pressed)
        assert page.chosen() == chosen
        page.keys(ENTER)
    assert sorted(seen) == numbered(8)
    assert page.text("#end-title") == "All is rated. Thank you."
    assert values(server) == [7, 10, 4, 1, 10, 0, 10, 5]
    code, said = server.end()
    assert (code, "ana: 8" in said) == (0, True)
    assert [(row["prompt"], row["response"]) for row in rows_of(server.out)] == seen
    assert [int(row["rating"]) for row in rows_of(server.out)] == values(server)
    assert {row["rater"] for row in rows_of(server.out)} == {"ana"}


def test_nothing_is_saved_before_a_choice(page: Page, serve: Serve) -> None:
    server = serve(numbered(3), "--scale", "1-5")
    page.join(server.link, "ana")
    page.keys(ENTER)
    assert page.text("#status") == "Choose a number first."
    page.keys("7")
    assert page.text("#status") == "Numbers go from 1 to 5."
    page.keys("x", "A", ENTER)
    assert (page.chosen(), values(server)) == (None, [])
    page.keys("5", ENTER)
    assert values(server) == [5]


def test_a_digit_on_the_next_response_begins_anew(page: Page, serve: Serve) -> None:
    """1, Enter and 0 in quick succession are two ratings, and not a 10."""
    server = serve(numbered(3))
    page.join(server.link, "ana")
    page.keys("1", ENTER, "0")
    assert page.chosen() == "0"
    page.keys(ENTER)
    assert values(server) == [1, 0]


def test_digits_that_come_slowly_are_two_choices(page: Page, serve: Serve) -> None:
    page.join(serve(numbered(1)).link, "ana")
    page.keys("1")
    page.script("const now = performance.now.bind(performance); performance.now = () => now() + 1300")
    page.keys("0")
    assert page.chosen() == "0"


def test_undo_skip_and_flag(page: Page, serve: Serve) -> None:
    server = serve(numbered(4))
    page.join(server.link, "ana")
    first = page.prompt()
    page.keys("6", ENTER)
    page.keys("u")
    assert (page.prompt(), page.chosen(), page.text("#status")) == (first, "6", "Taken back.")
    page.keys("8", ENTER, "s")
    page.keys("f")
    assert page.script("return document.getElementById('flag').getAttribute('aria-pressed')") == "true"
    assert page.text("#status") == "Flagged."
    flagged = page.prompt()
    page.keys("2", ENTER)
    assert page.script("return document.getElementById('flag').getAttribute('aria-pressed')") == "false"
    page.keys("3", ENTER)
    assert page.text("#end-text") == "You have rated 3 and skipped 1. " + (
        "What is left is in the hands of other raters, or waits for them. This page looks again by itself."
    )
    page.keys("u")  # also from the end
    assert page.chosen() == "3"
    page.keys("4", ENTER)
    server.end()
    assert [row["rating"] for row in rows_of(server.out)] == ["8", "2", "4"]
    assert rows_of(server.out)[0]["prompt"] == first
    marked = rows_of(server.out.with_name("ratings.flagged.csv"))
    assert [(row["prompt"], row["rater"]) for row in marked] == [(flagged, "ana")]


def test_a_session_by_mouse_alone(page: Page, serve: Serve) -> None:
    server = serve(numbered(3))
    page.open(server.link)
    page.click("#name")
    page.keys("ana")
    page.click("#join button")
    page.click(".choice:nth-child(5)")
    assert page.chosen() == "4"
    page.click("#next")
    page.click("#undo")
    page.click(".choice:nth-child(11)")
    page.click("#next")
    page.click("#skip")
    page.click("#flag")
    page.click("#help-button")
    assert page.visible("help")
    page.click("#help .go")
    assert not page.visible("help")
    page.click(".choice:nth-child(1)")
    page.click("#next")
    page.click("#end-undo")
    assert page.chosen() == "0"
    assert values(server) == [4, 10, 0]
    assert [record["on"] for record in server.records("flag")] == [True]


def test_enter_saves_after_a_click(page: Page, serve: Serve) -> None:
    """It does not press the clicked button again, and arrows do not change a clicked number unseen."""
    server = serve(numbered(4))
    page.join(server.link, "ana")
    page.click("#flag")
    page.keys("7", ENTER)
    page.click("#skip")
    page.keys("8", ENTER)
    page.click(".choice:nth-child(4)")
    page.keys(DOWN)
    assert page.chosen() == "3"
    page.keys(ENTER)
    assert [record["kind"] for record in server.records("answer", "skip", "flag")] == [
        "flag",
        "answer",
        "skip",
        "answer",
        "answer",
    ]
    assert values(server) == [7, 8, 3]


def test_buttons_by_keyboard(page: Page, serve: Serve) -> None:
    """The Tab key reaches every control; Enter and the space bar press what has the focus."""
    server = serve(numbered(2))
    page.join(server.link, "ana")
    reached = []
    for _ in range(8):
        page.keys(TAB)
        reached.append(page.script("return document.activeElement.id || document.activeElement.name"))
        if reached[-1] == "skip":
            page.keys(SPACE)
            break
    assert {"choice", "undo", "skip"} <= set(reached)
    assert len(server.records("skip")) == 1


def test_help(page: Page, serve: Serve) -> None:
    server = serve(numbered(2), "--scale", "1-5")
    page.join(server.link, "ana")
    page.keys("?")
    assert page.visible("help")
    assert page.text("#keys dt") == "1 to 5"
    page.keys("3", "s")  # nothing happens behind it
    page.keys(ESCAPE)
    assert not page.visible("help")
    assert (page.chosen(), server.records("skip")) == (None, [])


def test_names(page: Page, serve: Serve) -> None:
    server = serve(numbered(3))
    page.join(server.link, "Zoë <b>")
    assert page.text("#who") == "Zoë <b>"
    page.keys("5", ENTER)
    page.script("sessionStorage.clear()")
    page.join(server.link, "  zoë   <B> ")
    assert page.text("#who") == "Zoë <b>"
    page.keys("6", ENTER)
    assert {record["rater"] for record in server.records("answer")} == {"Zoë <b>"}
    page.script("sessionStorage.clear()")
    page.open(server.link)
    assert page.script("return document.getElementById('name').value") == "Zoë <b>"
    page.script("document.getElementById('name').value = '\\u200b'")
    page.keys(ENTER)
    assert page.text("#trouble") == "A name has 1 to 60 letters."
    assert page.visible("join")


def test_reload(page: Page, serve: Serve) -> None:
    """The same response, the number that was chosen but not yet sent, the name; then on as before."""
    server = serve(numbered(5))
    page.join(server.link, "ana")
    page.keys("3", ENTER, "8")
    before = page.prompt()
    page.here().refresh()
    until(lambda: page.visible("rating"))
    assert (page.prompt(), page.chosen(), page.text("#who"), page.text("#mine")) == (
        before,
        "8",
        "ana",
        "1 rated",
    )
    page.keys(ENTER)
    assert values(server) == [3, 8]
    page.keys("u")
    assert (page.prompt(), page.chosen()) == (before, "8")


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
    """2 2 and 4 8: alpha is 1/2, see test_rating_desk."""
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
        "window.fetch = async (...all) => { const said = await real(...all);"
        " if (all[0].endsWith('act') && !lost++) throw new TypeError('lost'); return said; }"
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
