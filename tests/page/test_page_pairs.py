"""Rating pairs in a real browser, and the page on a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from page_server import PageServer, rows_of

pytest.importorskip("selenium")

from page_browser import Page

if TYPE_CHECKING:
    from conftest import Serve

ENTER, LEFT, RIGHT = "\ue007", "\ue012", "\ue014"
PHONE = 390
LONG = "A long answer that goes on and on. " * 120


def twos(count: int) -> list[tuple[str, str]]:
    return [(f"Prompt {n}", f"{kind} {n}") for n in range(count) for kind in ("Bad", "Good")]


def saved(server: PageServer) -> list[tuple[str, str, str]]:
    server.end()
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows_of(server.out)]


@pytest.mark.parametrize("keys", [("a", "b"), ("1", "2"), (LEFT, RIGHT)])
def test_by_keyboard(page: Page, serve: Serve, keys: tuple[str, str]) -> None:
    """The good one is chosen wherever it stands, with a tie in between; the good ones are in the file."""
    server = serve(twos(6), "--pairs")
    page.join(server.link, "ana")
    positions = []
    expected = []
    for number in range(6):
        texts = page.responses()
        index = next(n for n, text in enumerate(texts) if text.startswith("Good"))
        if number == 3:
            page.keys("t")
            assert page.chosen() == "Tie"
        else:
            page.keys(keys[index])
            assert page.chosen() == f"{'AB'[index]} is better"
            expected.append((page.prompt(), texts[index], texts[1 - index]))
            positions.append(index)
        page.keys(ENTER)
    assert page.text("#end-title") == "All is rated. Thank you."
    assert set(positions) == {0, 1}  # by the seed, it stands on both sides
    assert saved(server) == expected
    assert len(expected) == 5


def test_by_mouse(page: Page, serve: Serve) -> None:
    """A click on a response chooses it, unless it marks some of its text."""
    server = serve(twos(2), "--pairs")
    page.join(server.link, "ana")
    page.click(".response:nth-child(2)")
    assert page.chosen() == "B is better"
    page.click(".response:nth-child(1)")
    assert page.chosen() == "A is better"
    expected = (page.prompt(), *page.responses())
    page.script("getSelection().selectAllChildren(document.querySelector('.response:nth-child(2) .text'))")
    page.script("document.querySelector('.response:nth-child(2)').click()")
    assert page.chosen() == "A is better"
    page.script("getSelection().removeAllRanges()")
    page.click("#next")
    page.click("#undo")
    assert page.chosen() == "A is better"
    page.click("#next")
    assert saved(server) == [expected]


def fits(page: Page) -> bool:
    """Nothing is wider than the screen."""
    width: int = page.script("return document.documentElement.scrollWidth")
    return width <= PHONE


def targets(page: Page) -> list[tuple[str, float, float]]:
    """Name, width and height of what a finger has to hit."""
    sizes: list[tuple[str, float, float]] = page.script(
        "const all = document.querySelectorAll('#choices .choice, .actions button, #help-button');"
        "return [...all].map((e) => [e.textContent, e.offsetWidth, e.offsetHeight])"
    )
    return sizes


def test_one_response_on_a_phone(page: Page, serve: Serve) -> None:
    """Eleven numbers in one row, big enough for a finger; the controls stay in sight over a long text."""
    server = serve([("Prompt", LONG), ("Prompt " * 200, "x" * 500)])
    page.phone()
    page.join(server.link, "ana")
    for pressed in ("3", "10"):
        assert fits(page)
        sizes = {name: (width, height) for name, width, height in targets(page)}
        assert all(width >= 28 and height >= 32 for width, height in sizes.values()), sizes
        tops = page.script("return [...document.querySelectorAll('.choice')].map((e) => e.offsetTop)")
        assert len(set(tops)) == 1
        for end in (0, 100_000):
            page.script("scrollTo(0, arguments[0])", end)
            bottom = page.script("return document.querySelector('footer').getBoundingClientRect().bottom")
            assert bottom == pytest.approx(844, abs=1)
        page.click(f".choice:nth-child({int(pressed) + 1})")
        assert page.chosen() == pressed
        page.click("#next")
    assert [record["value"] for record in server.records("answer")] == [3, 10]


def test_pairs_on_a_phone(page: Page, serve: Serve) -> None:
    """One above the other; a long one scrolls in its card, so that the other is not far."""
    server = serve([("Prompt", "short"), ("Prompt", LONG)], "--pairs")
    page.phone()
    page.join(server.link, "ana")
    assert fits(page)
    boxes = page.script(
        "return [...document.querySelectorAll('.response')].map((e) => { const b = e.getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]; })"
    )
    assert boxes[0][0] == boxes[1][0]
    assert boxes[1][1] > boxes[0][1] + boxes[0][3] - 1
    assert max(box[3] for box in boxes) < 844 / 2
    page.click(".response:nth-child(2)")
    assert page.chosen() == "B is better"
    page.click("#next")
    assert page.text("#end-title") == "All is rated. Thank you."


def test_trouble_is_in_sight_wherever_one_has_scrolled(page: Page, serve: Serve) -> None:
    server = serve([("Prompt", LONG * 3)])
    page.phone()
    page.join(server.link, "ana")
    page.script("scrollTo(0, 100000)")
    page.script("document.getElementById('trouble').hidden = false")
    page.script("document.getElementById('trouble').textContent = 'trouble'")
    top = page.script("return document.getElementById('trouble').getBoundingClientRect().top")
    assert 0 <= top < 100
