"""What tests of a page do in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


def open_page(
    driver: Chrome, page: Path, *, width: int = 1280, scheme: str = "light", link: str = ""
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get("about:blank")
    driver.get_log("performance")
    driver.get_log("browser")
    driver.get(page.as_uri() + link)


def js(driver: Chrome, code: str, *arguments: Any) -> Any:
    return driver.execute_script(code, *arguments)


def fetched(driver: Chrome) -> list[str]:
    """Addresses that the page has asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("file:", "about:"))]


def table(driver: Chrome, selector: str) -> list[list[str]]:
    """Texts of the cells of rows, or of a list's terms and what stands behind each."""
    return list(
        js(
            driver,
            "return [...document.querySelectorAll(arguments[0])].map((r) => [...r.children].map((c) => "
            "c.textContent))",
            selector,
        )
    )
