"""A headless Chromium that does what a rater does, and tells what the page shows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By

PATIENCE = 60  # seconds
T = TypeVar("T")


class Page:
    """One tab on the rating page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        driver.switch_to.new_window("tab")
        self.handle = driver.current_window_handle

    def here(self) -> webdriver.Chrome:
        """The driver, on this tab."""
        if self.driver.current_window_handle != self.handle:
            self.driver.switch_to.window(self.handle)
        return self.driver

    def close(self) -> None:
        self.here().close()
        self.driver.switch_to.window(self.driver.window_handles[0])

    # ---- what a rater does

    def open(self, link: str) -> None:
        self.here().get(link)

    def join(self, link: str, name: str) -> None:
        self.open(link)
        until(lambda: self.visible("join"))
        self.script("document.getElementById('name').value = ''")
        self.keys(name, "\ue007")
        until(lambda: not self.visible("join") and not self.busy())

    def keys(self, *pressed: str) -> None:
        """Press keys, wherever the focus is; after each, wait until the page is ready."""
        for text in pressed:
            ActionChains(self.here(), duration=0).send_keys(text).perform()
            until(lambda: not self.busy())

    def click(self, selector: str) -> None:
        self.here().find_element(By.CSS_SELECTOR, selector).click()
        until(lambda: not self.busy())

    def phone(self) -> None:
        """390 x 844 points, as on a phone."""
        size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        self.here().execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    # ---- what the page shows

    def script(self, code: str, *arguments: Any) -> Any:
        return self.here().execute_script(code, *arguments)

    def text(self, selector: str) -> str:
        """As it is in the document, blanks and all."""
        content: str = self.script("return document.querySelector(arguments[0]).textContent", selector)
        return content

    def visible(self, name: str) -> bool:
        is_visible: bool = self.script(
            "return document.getElementById(arguments[0])?.checkVisibility() ?? false", name
        )
        return is_visible

    def busy(self) -> bool:
        is_busy: bool = self.script("return document.body.classList.contains('busy')")
        return is_busy

    def chosen(self) -> str | None:
        """The label of the chosen number or answer."""
        result: str | None = self.script(
            "return document.querySelector('#choices input:checked')?.nextElementSibling.textContent ?? null"
        )
        return result

    def prompt(self) -> str:
        return self.text("#prompt")

    def responses(self) -> list[str]:
        result: list[str] = self.script(
            "return [...document.querySelectorAll('.response .text')].map((e) => e.textContent)"
        )
        return result

    # ---- what the browser did

    def requests(self) -> list[str]:
        """Addresses that this tab has asked for, or tried to, since this was last called."""
        events = [json.loads(entry["message"])["message"] for entry in self.here().get_log("performance")]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """What the browser's console says, since this was last called."""
        return [entry["message"] for entry in self.here().get_log("browser")]


def strangers(addresses: list[str], link: str) -> list[str]:
    """Those that are not on the server of the link."""
    own = urlsplit(link).netloc
    return [
        a for a in addresses if urlsplit(a).netloc != own and not a.startswith(("data:", "chrome:", "about:"))
    ]


def until(condition: Callable[[], T], patience: float = PATIENCE) -> T:
    """Wait until something is so."""
    end = time.monotonic() + patience
    while not (result := condition()):
        assert time.monotonic() < end, "the page did not get there in time"
        time.sleep(0.02)
    return result
