"""A server, and a Chromium for all tests; without one they skip."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from page_server import PageServer

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from page_browser import Page

Rows = list[tuple[str, str]]
Serve = Callable[..., PageServer]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts `ppokit rate` on prompts and responses; the same rows and options go on where it stopped."""
    pytest.importorskip("uvicorn")
    running: list[PageServer] = []

    def start(rows: Rows, *options: object) -> PageServer:
        source = tmp_path / "responses.csv"
        with source.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("prompt", "response"), *rows])
        running.append(PageServer(source, *options, out=tmp_path / "ratings.csv"))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    pytest.importorskip("selenium")
    from chromium import CHROMIUM, DRIVER, start_chromium

    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium here: install Debian's packages chromium and chromium-driver")
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def tab(chromium: Chrome) -> Iterator[Callable[[], Page]]:
    """Opens tabs; each may be another rater."""
    from page_browser import Page

    opened: list[Page] = []

    def new() -> Page:
        opened.append(Page(chromium))
        return opened[-1]

    yield new
    for page in opened:
        page.close()


@pytest.fixture
def page(tab: Callable[[], Page]) -> Page:
    """One rater's tab."""
    return tab()
