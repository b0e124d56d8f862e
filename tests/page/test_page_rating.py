"""Rating one response at a time in a real browser: keys, mouse, undo, reload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from page_server import numbered, rows_of, values

pytest.importorskip("selenium")

from page_browser import Page, until

if TYPE_CHECKING:
    from conftest import Serve

ENTER, LEFT, RIGHT, DOWN, TAB, ESCAPE, SPACE = "\ue007", "\ue012", "\ue014", "\ue015", "\ue004", "\ue00c", " "


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
    code, output = server.end()
    assert (code, "ana: 8" in output) == (0, True)
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
