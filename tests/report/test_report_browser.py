"""The page in Chromium, as a person opens it: with a mouse, by keyboard alone, on a phone, in print."""

from __future__ import annotations

import base64
import json
import os
import re
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ppokit.report.write_report import write_report
from report_browser import fetched, js, open_page
from report_runs import learning_run, samples, write_metrics, write_recipe, write_samples
from test_hostile_page import hostile_run

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.thorough
TOKENS = ("kl/k1", "advantages", "values", "returns", "log_ratio", "entropy", "sampler_logprobs")
FILL = re.compile(rb"([\d.]+) ([\d.]+) ([\d.]+) rg")
SEVERE = ("serious", "critical")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with every column of the ledger, a failure, and parts and notes."""
    folder = learning_run(tmp_path_factory.mktemp("run"), steps=12)
    random = np.random.default_rng(0)
    for step in range(1, 13):
        scores: list[list[float | None]] = [list(own) for own in step / 12 + random.random((4, 4))]
        scores[0][0] = None
        columns = samples(step, scores, random.integers(3, 20, (4, 4)).tolist())
        sizes = [len(own) for own in columns["response_ids"]]
        columns.update({name: [random.standard_normal(n).tolist() for n in sizes] for name in TOKENS})
        columns["clipped"] = [(random.random(n) < 0.2).tolist() for n in sizes]
        columns["part/judge/style"] = random.random(16).tolist()
        columns["note/judge/why"] = ["a note"] * 16
        write_samples(folder, step, columns)
    plugins = {"rewards[0]": "recipes.uses.autocomplete.rewards:keystrokes, /home/somebody/an/experiment"}
    hashes = {"policy_at_start": 64 * "e"}
    (folder / "provenance.json").write_text(json.dumps({"plugins": plugins, "hashes": hashes}))
    write_report([folder], folder / "report.html")
    return folder / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_view_is_drawn(driver: Chrome, page: Path, width: int, scheme: str) -> None:
    open_page(driver, page, width=width, scheme=scheme)
    assert driver.get_log("browser") == []
    assert fetched(driver) == []
    js(driver, "document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert js(driver, "return document.documentElement.scrollWidth") <= width
    heights = js(driver, "return [...document.querySelectorAll('main > section')].map((s) => s.offsetHeight)")
    assert len(heights) == 8
    assert min(heights) > 60
    count = "return document.querySelectorAll(arguments[0]).length"
    assert js(driver, count, "#figures figure:not([hidden]) svg path.line") >= 6
    assert js(driver, count, "#cards > li") == 4
    assert js(driver, count, "#tokens .token") >= 3
    assert js(driver, count, "#over tr") == 12
    ink = (
        "const c = document.getElementById('cloud'); const d = c.getContext('2d').getImageData(0, 0, c.width,"
    )
    assert js(driver, ink + "c.height).data; return d.filter((v, i) => i % 4 === 3 && v > 0).length") > 500


def test_nothing_of_a_model_runs(driver: Chrome, tmp_path: Path) -> None:
    """Every response is opened with its tokens; nothing runs, is fetched, or is refused by the policy."""
    folder = hostile_run(tmp_path / "run")
    write_report([folder], folder / "report.html")
    open_page(driver, folder / "report.html")
    title = driver.title
    count = js(driver, "return data.runs[0].samples.length")
    js(driver, "for (let i = 0; i < arguments[0]; i += 1) openSample(0, i)", count)
    for _ in range(30):
        js(driver, "document.getElementById('group-next').click()")
    js(driver, "document.getElementById('all').click()")
    js(driver, "document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    time.sleep(0.5)
    assert js(driver, "return window.hit") is None
    assert driver.title == title
    assert fetched(driver) == []
    assert driver.get_log("browser") == []
    assert (
        js(driver, "return document.querySelectorAll('img, iframe, object, script[src], svg script').length")
        == 0
    )
    assert js(driver, "return document.documentElement.scrollWidth") <= 1280


def test_links_open_what_they_name(driver: Chrome, page: Path) -> None:
    open_page(driver, page, link="#curve:time/step_s")
    assert not js(driver, "return document.getElementById('curve:time/step_s').hidden")
    js(driver, "document.querySelector('#movers a[href^=\"#sample-\"]').click()")
    assert js(driver, "return document.activeElement.getAttribute('role')") == "option"
    name = js(driver, "return document.getElementById('ledger-sample').textContent")
    open_page(driver, page, link=js(driver, "return location.hash"))
    assert js(driver, "return document.getElementById('ledger-sample').textContent") == name


def test_the_search(driver: Chrome, page: Path) -> None:
    open_page(driver, page)
    field = driver.find_element("id", "search")
    field.send_keys("REWARD mean")
    shown = (
        "return [...document.querySelectorAll('#figures figure:not([hidden])')].map((f) => f.dataset.names)"
    )
    assert js(driver, shown) == ["reward/mean"]
    assert js(driver, "return document.getElementById('matches').textContent") == "1 metric"


def test_the_sums_under_the_tokens(driver: Chrome, page: Path) -> None:
    """Of the whole response against the numbers of its tokens, as the page's own data have them."""
    open_page(driver, page)
    rows = dict(
        js(
            driver,
            "return [...document.querySelectorAll('#sums tr')].map((r) => [...r.children].map((c) => "
            "c.textContent))",
        )
    )
    total = js(
        driver,
        "const all = data.runs[0].samples; const name = document.getElementById('ledger-sample').textContent;"
        "const own = all.find((s) => name.endsWith('response ' + s.i)); return own.tk.kl.reduce((a, b) => "
        "a + b, 0)",
    )
    assert float(rows["sum of KL before the update, nats"]) == pytest.approx(total, rel=1e-3)
    assert float(rows["score"]) == pytest.approx(float(rows["sum of reward"]), rel=1e-3)


def test_the_keyboard_alone_reaches_everything(driver: Chrome, page: Path) -> None:
    from selenium.webdriver import ActionChains

    open_page(driver, page)
    seen: list[str] = []
    where = (
        "const e = document.activeElement; return e.id || (e.closest('figure') || {}).id || "
        "e.getAttribute('role')"
        " || e.getAttribute('href') || e.textContent"
    )
    for _ in range(120):
        ActionChains(driver, duration=0).send_keys("\ue004").perform()
        seen.append(str(js(driver, where)))
        if seen[-1] == "cloud":  # arrows go from point to point, Enter opens one
            ActionChains(driver, duration=0).send_keys("\ue014", "\ue014").perform()
            assert "score" in js(driver, "return document.getElementById('point').textContent")
        if seen[-1] == "option":
            before = js(driver, "return document.getElementById('token').textContent")
            ActionChains(driver, duration=0).send_keys("\ue014").perform()
            assert js(driver, "return document.getElementById('token').textContent") != before
    expected = [
        "#verdict",
        "search",
        "all",
        "curve:reward/mean",
        "points-x",
        "cloud",
        "group-step",
        "group-prompt",
        "group-next",
    ]
    for name in (*expected, "Tokens", "colour", "option"):
        assert any(name in each for each in seen), (name, seen)
    assert any(each.startswith("#sample-") for each in seen)


def test_curves_follow_the_arrow_keys(driver: Chrome, page: Path) -> None:
    from selenium.webdriver import ActionChains

    open_page(driver, page)
    js(driver, "document.querySelector('[id=\"curve:kl/k1\"] .plot').focus()")
    ActionChains(driver, duration=0).send_keys("\ue011", "\ue014").perform()  # Home, right
    plot = "return document.querySelector('[id=\"curve:kl/k1\"] .plot').getAttribute('aria-valuetext')"
    assert js(driver, plot) == "step 2: 0.02"


def test_a_page_of_a_run_that_was_killed_says_that_it_is_old(driver: Chrome, tmp_path: Path) -> None:
    """The run cannot say it: nobody has written the page that was due after ten more seconds."""
    folder = learning_run(tmp_path)
    write_recipe(folder, 30, run={"steps": 30, "checkpoint_every": 15})
    write_report([folder], folder / "report.html")
    open_page(driver, folder / "report.html")
    note = "return document.querySelector('.overdue')"
    assert js(driver, f"{note}.hidden")
    later = "const now = Date.now(); Date.now = () => now + 1000 * arguments[0]; tellOverdue();"
    for seconds, words in ((10 + 754, "12 min"), (10 + 3 * 3600 + 60, "3 h"), (10 + 3 * 86400, "3 days")):
        open_page(driver, folder / "report.html")
        js(driver, later, seconds)
        sentence = f"The next page was due {words} ago: unless there is a newer one, the run has probably"
        assert js(driver, f"{note}.innerText").startswith(sentence)


def test_it_prints(driver: Chrome, page: Path) -> None:
    """As a browser does unless it is asked for backgrounds; the colours of tokens are there."""
    open_page(driver, page)
    pdf = base64.b64decode(driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    assert pdf.startswith(b"%PDF")
    streams = re.findall(rb"/FlateDecode.*?stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    fills = {fill for stream in streams for fill in FILL.findall(zlib.decompressobj().decompress(stream))}
    colours = {tuple(round(255 * float(number)) for number in fill) for fill in fills}
    assert {(31, 111, 139), (196, 86, 38)} <= colours
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not js(driver, "return document.querySelector('nav').checkVisibility()")
    assert js(driver, "return document.querySelector('#scale').checkVisibility()")
    assert js(driver, "return document.querySelector('#figures svg').checkVisibility()")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_an_accessibility_checker_finds_nothing_serious(
    driver: Chrome, page: Path, scheme: str, width: int
) -> None:
    """By axe-core (`npm install axe-core`), whose axe.min.js the environment variable AXE_CORE names."""
    script = os.environ.get("AXE_CORE", "")
    if not script:
        pytest.skip("the accessibility check needs axe-core: AXE_CORE names its axe.min.js")
    open_page(driver, page, scheme=scheme, width=width)
    driver.execute_cdp_cmd("Runtime.evaluate", {"expression": Path(script).read_text()})
    result = driver.execute_async_script("axe.run(document).then(arguments[0])")
    assert [each["id"] for each in result["violations"] if each["impact"] in SEVERE] == []


def test_a_thousand_steps(driver: Chrome, tmp_path: Path) -> None:
    """Opens in under three seconds, and answers a click in a tenth of one; this machine may be busy."""
    learning_run(tmp_path, steps=4, groups=16)
    names = [f"metric/{i}" for i in range(60)]
    lines = [{"step": s, "reward/mean": s / 1000, **dict.fromkeys(names, s % 7)} for s in range(1, 1001)]
    write_metrics(tmp_path, lines)
    for step in range(5, 1001):
        other = tmp_path / "rollouts" / f"step-{step % 4 + 1:06d}.parquet"
        (tmp_path / "rollouts" / f"step-{step:06d}.parquet").write_bytes(other.read_bytes())
    write_report([tmp_path], tmp_path / "report.html")
    opened, answered = [], []
    for _ in range(3):
        open_page(driver, tmp_path / "report.html")
        opened.append(js(driver, "return performance.getEntriesByType('navigation')[0].loadEventEnd"))
        click = "const t = performance.now(); document.querySelector('#cards button').click();"
        answered.append(js(driver, click + "document.body.offsetHeight; return performance.now() - t"))
    assert min(opened) < 3000
    assert min(answered) < 100
