"""Take the pictures of docs/report.md anew, after the page has changed.

    python tests/report/take_pictures.py runs/quickstart runs/uses/customer_service

The first run is the quickstart's, the second one on people's ratings.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from PIL import Image  # noqa: E402

from chromium import start_chromium  # noqa: E402
from ppokit.report.write_report import write_report  # noqa: E402
from report_browser import js, open_page  # noqa: E402

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

IMAGES = HERE.parent.parent / "docs" / "images"
WIDE, PHONE = 1000, 390


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pages = [Path(folder) / "quickstart.html", Path(folder) / "ratings.html"]
        for run, page in zip(sys.argv[1:], pages, strict=True):
            write_report([Path(run)], page)
        driver = start_chromium(Path(folder) / "profile")
        try:
            driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
            take(driver, *pages)
        finally:
            driver.quit()


def take(driver: Chrome, quickstart: Path, ratings: Path) -> None:
    open_page(driver, quickstart, width=WIDE)
    picture(driver, "report-verdict", 0, 1180)
    choose(driver, "colour", "ratio")
    js(driver, "document.querySelectorAll('#tokens > *')[4].click()")
    picture(driver, "report-ledger", top(driver, "ledger"), 640)
    open_page(driver, quickstart, width=WIDE, scheme="dark")
    begin = top(driver, "groups")
    picture(driver, "report-tokens", begin, top(driver, "ledger") + 260 - begin)
    open_page(driver, quickstart, width=PHONE)
    picture(driver, "report-phone", 0, 844)

    open_page(driver, ratings, width=WIDE)
    picture(driver, "report-ratings", 0, top(driver, "curves") + 60)
    open_page(driver, ratings, width=WIDE, scheme="dark")
    begin = top(driver, "distributions")
    picture(driver, "report-ratings-points", begin, top(driver, "groups") - begin)
    open_page(driver, ratings, width=PHONE)
    picture(driver, "report-ratings-phone", top(driver, "responses"), 900)


def top(driver: Chrome, view: str) -> float:
    """Where a view's title begins, less a margin."""
    code = "return document.getElementById(arguments[0] + '-title').getBoundingClientRect().top + scrollY"
    return float(js(driver, code, view)) - 24


def choose(driver: Chrome, select: str, label: str) -> None:
    """Take the first option whose label begins so."""
    code = """
        const select = document.getElementById(arguments[0]);
        select.value = [...select.options].find((o) => o.label.startsWith(arguments[1])).value;
        select.dispatchEvent(new Event("change", {bubbles: true}));
    """
    js(driver, code, select, label)


def picture(driver: Chrome, name: str, y: float, height: float) -> None:
    width = js(driver, "return document.documentElement.clientWidth")
    clip = {"x": 0, "y": y, "width": width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    image.quantize(128).save(IMAGES / f"{name}.png", optimize=True)  # a third of the bytes


if __name__ == "__main__":
    main()
