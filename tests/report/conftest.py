"""A browser for the tests that open pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    pytest.importorskip("selenium", reason="the page's tests need selenium (the extra dev)")
    from chromium import CHROMIUM, DRIVER, start_chromium

    if CHROMIUM is None or DRIVER is None:
        pytest.skip("the page's tests need a browser: Debian's packages chromium and chromium-driver")
    chrome = start_chromium(tmp_path_factory.mktemp("profile"))
    yield chrome
    chrome.quit()
