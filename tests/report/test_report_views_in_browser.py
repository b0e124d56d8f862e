"""What each view of the page shows and answers in Chromium, against the samples that it was written from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ppokit.report.run_data import read_run
from ppokit.report.tokens import TokenTexts
from ppokit.report.write_report import write_report
from report_browser import js, open_page, table
from report_runs import Columns, learning_run, samples, write_metrics, write_recipe, write_samples

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = pytest.mark.thorough
TOKENS = ("kl/k1", "advantages", "values", "returns", "log_ratio", "entropy", "sampler_logprobs")
TEXTS = TokenTexts(
    lambda ids: "".join("a" if i == 1 else " x\n\ty"[i % 3 :] for i in ids), str, frozenset(), 1
)
STEPS = 5
LINK = "document.querySelector(arguments[0]).click()"


@pytest.fixture(scope="module")
def run() -> dict[int, Columns]:
    """Columns of steps: two prompts, three responses to each."""
    random, run = np.random.default_rng(0), {}
    for step in range(1, STEPS + 1):
        scores = (step / 10 + random.random((2, 3))).tolist()
        columns = samples(step, scores, random.integers(4, 12, (2, 3)).tolist())
        sizes = [len(own) for own in columns["response_ids"]]
        columns.update({name: [random.standard_normal(n).tolist() for n in sizes] for name in TOKENS})
        columns["part/judge/style"] = random.random(6).tolist()
        run[step] = columns
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, run: dict[int, Columns]) -> Path:
    folder = learning_run(tmp_path_factory.mktemp("run"), steps=STEPS)
    for step, columns in run.items():
        write_samples(folder, step, columns)
    write_report([folder], folder / "report.html", [TEXTS])
    return folder / "report.html"


def text(driver: Chrome, element: str) -> str:
    return str(js(driver, "return document.getElementById(arguments[0]).textContent", element))


def choose(driver: Chrome, element: str, value: object) -> None:
    js(
        driver,
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('change'))",
        element,
        str(value),
    )


POINT = """
const c = byId("cloud"), box = c.getBoundingClientRect(), note = byId("point"), before = note.textContent;
for (let y = 10; y < box.height; y += 9) for (let x = 60; x < box.width; x += 9) {
  c.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + x, clientY: box.top + y }));
  if (note.textContent !== before) return [x - box.width / 2, y - box.height / 2].map(Math.round);
}"""


@pytest.mark.parametrize("by", ["click", "Enter"])
def test_a_point_opens_its_response(driver: Chrome, page: Path, by: str) -> None:
    from selenium.webdriver import ActionChains

    open_page(driver, page)
    cloud = driver.find_element("id", "cloud")
    js(driver, "arguments[0].scrollIntoView({ block: 'center' })", cloud)
    if by == "click":
        x, y = js(driver, POINT)
        ActionChains(driver, duration=0).move_to_element_with_offset(cloud, x, y).pause(0.1).perform()
        note = text(driver, "point")
        ActionChains(driver, duration=0).click().perform()
    else:
        js(driver, "arguments[0].focus()", cloud)
        ActionChains(driver, duration=0).send_keys("\ue011", "\ue014").perform()  # Home, right
        note = text(driver, "point")
        ActionChains(driver, duration=0).send_keys("\ue007").perform()
    sums = dict(table(driver, "#sums tr"))
    step = note.split(",")[0].removeprefix("Step ")
    assert text(driver, "ledger-sample").startswith(f"step {step}, response ")
    assert f"length, tokens {sums['tokens']}, score {sums['score']}:" in note
    assert js(driver, "return document.activeElement.getAttribute('role')") == "option"


def test_axes_of_points_have_round_numbers(driver: Chrome, tmp_path: Path) -> None:
    """Multiples of 1, 2 or 5; lengths from 4 to 12, and scores from 0.97 to 2.93."""
    write_samples(tmp_path, 1, samples(1, [[0.97, 2.93, 1.5]], [[4, 12, 7]]))
    write_report([tmp_path], tmp_path / "report.html", [TEXTS])
    open_page(driver, tmp_path / "report.html")
    drawn = """
    const texts = [];
    CanvasRenderingContext2D.prototype.fillText = (text) => texts.push(text);
    byId("points-y").dispatchEvent(new Event("change"));
    return texts;"""
    ticks = [words for words in js(driver, drawn) if words[0].isdigit()]
    assert ticks == ["1", "1.5", "2", "2.5", "3", "4", "6", "8", "10", "12"]


def test_a_group_side_by_side(driver: Chrome, page: Path, run: dict[int, Columns]) -> None:
    """The best first, each with what its providers and the update say of it."""
    open_page(driver, page)
    choose(driver, "group-step", 4)
    choose(driver, "group-prompt", js(driver, "return data.runs[0].prompts.indexOf('prompt 1')"))
    assert text(driver, "prompt") == "prompt 1"
    own = run[4]
    rows = sorted((3, 4, 5), key=lambda row: -own["score"][row])
    cards = js(
        driver,
        "return [...document.querySelectorAll('#cards > li')].map((c) => [c.querySelector('.response')"
        ".textContent, Object.fromEntries([...c.querySelectorAll('dt')].map((t) => [t.textContent, "
        "t.nextSibling.textContent]))])",
    )
    assert [card for card, _ in cards] == [own["response"][row] for row in rows]
    for (_, parts), row in zip(cards, rows, strict=True):
        expected = {
            "judge/style": own["part/judge/style"][row],
            "tokens": len(own["response_ids"][row]),
            "advantage": np.mean(own["advantages"][row]),
            "KL": sum(own["kl/k1"][row]),
            "change": sum(own["log_ratio"][row]),
        }
        assert {name: float(parts[name]) for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-3)
        score, seconds = parts["judge"].split(" (")
        assert float(score) == pytest.approx(own["score"][row], rel=1e-3)
        assert seconds == "0.25 s)"
    driver.find_element("id", "group-next").click()
    assert (text(driver, "prompt"), js(driver, "return document.getElementById('group-step').value")) == (
        "prompt 0",
        "5",
    )


def test_the_page_opens_at_the_best_of_the_last_step(driver: Chrome, tmp_path: Path) -> None:
    folder = learning_run(tmp_path, steps=2)
    for step in (1, 2):
        write_samples(folder, step, samples(step, [[0.1, 0.2], [0.3, 0.9]], [[3, 4], [5, 6]]))
    write_report([folder], folder / "report.html", [TEXTS])
    open_page(driver, folder / "report.html")
    second = text(driver, "ledger-prompt")
    assert text(driver, "prompt") == second
    choose(driver, "group-prompt", js(driver, "return byId('group-prompt').options[0].value"))
    assert text(driver, "prompt") != second
    assert "000002-0001-001" in text(driver, "ledger-sample")


def test_what_each_reward_adds_is_worked_out(driver: Chrome, tmp_path: Path) -> None:
    """3 * 0.8 and 0.5 * (0.9, clipped to 0.4) are 2.4 and 0.2: together 2.6."""
    columns = samples(1, [[2.6]])
    columns |= {"reward/judge": [0.8], "reward/length": [0.9], "outcome/length": ["scored"]}
    write_samples(tmp_path, 1, columns)
    rewards = [{"use": "judge", "weight": 3.0}, {"use": "length", "weight": 0.5, "clip": [0.0, 0.4]}]
    write_recipe(tmp_path, 1, rewards=rewards)
    write_report([tmp_path], tmp_path / "report.html", [TEXTS])
    open_page(driver, tmp_path / "report.html")
    shown = (
        "[...document.querySelectorAll('#cards dt')].map((t) => [t.textContent, t.nextSibling.textContent])"
    )
    known = dict(js(driver, f"return {shown}"))
    assert known["judge"] == "3 × 0.8 = 2.4 (0.25 s)"
    assert known["length"] == "0.5 × 0.4 = 0.2, 0.9 before clip"
    assert known["whole reward"] == "2.6"


def test_the_same_prompt_over_steps(driver: Chrome, page: Path, run: dict[int, Columns]) -> None:
    open_page(driver, page)
    choose(driver, "group-prompt", js(driver, "return data.runs[0].prompts.indexOf('prompt 0')"))
    rows = table(driver, "#over tr")
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    for (_, mean, best, count, excerpt), columns in zip(rows, run.values(), strict=True):
        scores = list(columns["score"][:3])
        assert (float(mean), float(best)) == pytest.approx((np.mean(scores), max(scores)), rel=1e-3)
        assert (count, excerpt) == ("3", columns["response"][int(np.argmax(scores))])
    assert text(driver, "over-note") == text(driver, "group-note") == ""
    js(driver, LINK, "#over tr:nth-child(2) button")
    assert js(driver, "return document.getElementById('group-step').value") == "2"


def test_tokens_are_coloured_by_a_number(driver: Chrome, page: Path) -> None:
    """Above 0 one colour, below it another, the larger the stronger."""
    open_page(driver, page, link="#sample-0-0")
    for name in ("kl", "entropy"):
        choose(driver, "colour", name)
        numbers = js(driver, "return data.runs[0].samples[0].tk[arguments[0]]", name)
        used = js(
            driver,
            "return [...document.querySelectorAll('#tokens .token')].map((t) => getComputedStyle(t)"
            ".backgroundColor.match(/[\\d.]+/g).map(Number))",
        )
        for number, (*colour, strength) in zip(numbers, used, strict=True):
            assert colour == ([31, 111, 139] if number > 0 else [196, 86, 38])
            assert 0.08 <= strength <= 0.5
        order = sorted(range(len(numbers)), key=lambda i: abs(numbers[i]))
        assert [used[i][3] for i in order] == sorted(own[3] for own in used)


def test_the_ledger_opens_by_a_number_that_varies(driver: Chrome, tmp_path: Path) -> None:
    """Group-relative advantages are one for the whole response; what the user chooses stays."""
    columns = samples(1, [[0.5, 0.25]], [[3, 3]])
    columns |= {"kl/k1": [[0.5, -0.25, 0.0]] * 2, "entropy": [[1.0, 2.0, 3.0]] * 2}
    columns |= {"clipped": [[True, False, False]] * 2, "log_ratio": [[0.0] * 3] * 2}
    write_samples(tmp_path, 1, columns)
    write_report([tmp_path], tmp_path / "report.html", [TEXTS])
    open_page(driver, tmp_path / "report.html")
    colour = "return document.getElementById('colour').value"
    assert js(driver, colour) == "kl"
    assert text(driver, "scale").split() == ["-0.5", "0", "0.5"]
    for name, ends in (("entropy", ["0", "3"]), ("clipped", ["0", "1"]), ("logprob", ["-1", "0"])):
        choose(driver, "colour", name)
        assert text(driver, "scale").split() == ends
    js(driver, "openSample(0, 1)")
    assert js(driver, colour) == "logprob"
    columns["advantages"] = [[0.5, 0.25, 0.125]] * 2
    write_samples(tmp_path, 1, columns)
    write_report([tmp_path], tmp_path / "report.html", [TEXTS])
    open_page(driver, tmp_path / "report.html")
    assert js(driver, colour) == "advantage"


def test_what_was_given_stands_before_the_tokens(driver: Chrome, tmp_path: Path) -> None:
    """The text of a response begins with the recipe's prefill, and its tokens do not."""
    write_recipe(tmp_path, 1, prompts={"prefill": "Sure, "})
    texts = ["Sure, yes", "no"]
    write_samples(tmp_path, 1, samples(1, [[0.5, 0.25]], text=lambda group, i: texts[i]))
    write_report([tmp_path], tmp_path / "report.html", [TEXTS])
    for i, words in enumerate(("Given, prompts.prefill: Sure, ", "")):
        open_page(driver, tmp_path / "report.html", link=f"#sample-0-{i}")
        given = js(driver, "const g = byId('ledger-given'); return g.hidden ? '' : g.textContent")
        assert given == words


@pytest.mark.parametrize("width", [1280, 390])
def test_the_numbers_of_a_token_stay_in_view(driver: Chrome, tmp_path: Path, width: int) -> None:
    """However long the response is; and no token is broken in its middle."""
    write_samples(tmp_path, 1, samples(1, [[0.5]], [[900]]))
    names = TokenTexts(lambda ids: "".join("a" if i == 1 else f"tok{i}" for i in ids), str, frozenset(), 1)
    write_report([tmp_path], tmp_path / "report.html", [names])
    open_page(driver, tmp_path / "report.html", link="#sample-0-0", width=width)
    boxes = "[...document.querySelectorAll('#tokens .token')]"
    assert js(driver, f"return {boxes}.every((t) => t.getClientRects().length === 1)")
    js(driver, f"{boxes}[880].focus()")
    top, bottom, numbers = js(
        driver,
        f"return [{boxes}[880], {boxes}[880], byId('token')].map((e, i) => e.getBoundingClientRect()"
        "[['top', 'bottom', 'top'][i]])",
    )
    assert 0 <= top < bottom <= 900
    assert numbers < 900


def test_hovering_shows_all_numbers_of_a_token(driver: Chrome, page: Path) -> None:
    from selenium.webdriver import ActionChains

    open_page(driver, page, link="#sample-0-0")
    token = driver.find_element("css selector", "#tokens .token:nth-child(3)")
    ActionChains(driver, duration=0).move_to_element(token).perform()
    rows = dict(table(driver, "#token tr"))
    columns = js(driver, "return data.runs[0].samples[0].tk")
    labels = js(driver, "return data.columns")
    assert rows["token"].startswith(f"3 of {len(columns['t'])}, id ")
    for name, (label, _) in labels.items():
        if name in columns:
            expected = columns[name][2] if columns[name] else 0
            assert float(rows[label]) == pytest.approx(expected, rel=1e-3), label


def test_white_space_is_visible(driver: Chrome, page: Path) -> None:
    open_page(driver, page, link="#sample-0-0")
    marks = (
        "return [...new Set([...document.querySelectorAll('#tokens .ws')].map((w) => w.textContent))].sort()"
    )
    assert js(driver, marks) == sorted("·↵⇥")


def test_what_is_not_here_is_said(driver: Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a group of 40, the first tokens of a long response, some of many steps."""
    monkeypatch.setattr("ppokit.report.page.TOKEN_BUDGET", 104_000)
    monkeypatch.setattr("ppokit.report.page.TEXT_BUDGET", 0)
    random = np.random.default_rng(0).random(40)
    random[0] = 2  # the longest is the best
    write_samples(tmp_path, 1, samples(1, [random.tolist()], [[2500] + [1] * 39]))
    write_report([tmp_path], tmp_path / "report.html", [TEXTS])
    open_page(driver, tmp_path / "report.html", link="#sample-0-0")
    here = len(table(driver, "#cards > li"))
    assert text(driver, "group-note").startswith(f"{here} of 40 are here; the others")
    ((_, mean, best, count, _),) = table(driver, "#over tr")
    assert (float(mean), float(best)) == pytest.approx((random.mean(), random.max()), rel=1e-3)
    assert count == f"{here} of 40"
    js(driver, "openSample(0, data.runs[0].samples.findIndex((s) => s.n === 2500))")
    assert "The first 2,000 of its 2,500 tokens are here" in text(driver, "ledger-sample")
    rows = dict(table(driver, "#token tr")) | dict(table(driver, "#sums tr"))
    assert rows["token"].startswith("1 of 2500, ")
    assert (rows["sum of reward"], rows["tokens"]) == ("2", "2500")


def test_long_texts_scroll_by_keyboard(driver: Chrome, tmp_path: Path) -> None:
    """Prompts, and responses, also those of few characters and many lines."""
    from selenium.webdriver import ActionChains

    columns = samples(1, [[0.5, 0.25]], text=lambda group, i: "line\n" * 40 if i else "short")
    columns["prompt"] = ["words and words " * 300] * 2
    write_samples(tmp_path, 1, columns)
    write_report([tmp_path], tmp_path / "report.html", [TEXTS])
    open_page(driver, tmp_path / "report.html")
    for selector in ("#prompt", "#ledger-prompt", "#cards li:nth-child(2) .response"):
        box = driver.find_element("css selector", selector)
        assert js(driver, "return arguments[0].tabIndex", box) == 0
        js(driver, "arguments[0].focus()", box)
        ActionChains(driver, duration=0).send_keys("\ue010").pause(0.5).perform()  # End
        assert js(driver, "return arguments[0].scrollTop", box) > 0
    assert js(driver, "return document.querySelector('#cards li:first-child .response').tabIndex") == -1


@pytest.mark.parametrize("name", ["reward/50 %", "a%20b", "reward/ü &c.", "%", "two\nlines"])
def test_a_curve_of_any_name_is_opened_by_its_link(driver: Chrome, tmp_path: Path, name: str) -> None:
    """By a click, and by the address that the browser makes of it."""
    name, measured = name.replace("\n", "⟨U+000A⟩"), name
    write_metrics(tmp_path, [{"step": s, "reward/mean": 0.5, "a b": 1.0, measured: s} for s in (1, 2)])
    write_report([tmp_path], tmp_path / "report.html")
    hidden = "return plots.find((figure) => figure.dataset.names === arguments[0]).hidden"
    follow = (
        "const a = document.body.appendChild(document.createElement('a')); a.href = `#curve:${arguments[0]}`;"
    )
    open_page(driver, tmp_path / "report.html")
    assert js(driver, hidden, name)
    js(driver, follow + "a.click()", name)
    assert not js(driver, hidden, name)
    link = js(driver, follow + "return a.hash", name)
    open_page(driver, tmp_path / "report.html", link=link)
    assert not js(driver, hidden, name)
    assert js(driver, hidden, "a b")
    assert driver.get_log("browser") == []


def test_runs_compared(driver: Chrome, tmp_path: Path) -> None:
    """The first has no samples; each has phases of its own; eight lines look different from each other."""
    folders = [tmp_path / f"run-{i}" for i in range(8)]
    for i, folder in enumerate(folders):
        write_metrics(
            folder, [{"step": s, "a": s * i, "time/update_s": 1 + i, "time/reward_s": 9.0} for s in (1, 2)]
        )
    write_samples(folders[1], 1, samples(1, [[0.5, 0.25]]))
    write_report(folders, tmp_path / "report.html", [TEXTS] * 8)
    open_page(driver, tmp_path / "report.html")
    assert driver.get_log("browser") == []
    readouts = dict(table(driver, "#figures figure:not([hidden]) figcaption"))
    readouts = {title.strip(): shown for title, shown in readouts.items()}
    assert readouts["time by phase: run-3"] == "step 2: reward 9, update 4"
    js(driver, "document.getElementById('all').click()")
    shown = "return document.querySelector('[id=\"curve:a\"] .readout').textContent"
    assert js(driver, shown) == f"step 2: {', '.join(f'run-{i} {2 * i}' for i in range(8))}"
    looks = js(
        driver,
        "return [...document.querySelectorAll('[id=\"curve:a\"] path.line')].map((p) => "
        "getComputedStyle(p).stroke + getComputedStyle(p).strokeDasharray)",
    )
    assert len(set(looks)) == 8
    assert table(driver, "#points-run") == [["run-1"]]
    assert js(driver, "return document.getElementById('points-y').options.length") > 3


@pytest.mark.parametrize("width", [1280, 390])
def test_three_runs_stand_side_by_side(driver: Chrome, tmp_path: Path, width: int) -> None:
    """Nothing is beyond the edge, whatever they are called."""
    folders = [tmp_path / f"a_run_with_quite_a_long_name_and_no_space_in_it_{i}" for i in range(3)]
    for i, folder in enumerate(folders):
        learning_run(folder, seed=i)
        name = "eval/suggestions/score/keystrokes_saved"
        ends = {f"{name}/gain": 0.00123, f"{name}/gain_low": -0.00946, f"{name}/gain_high": 0.0123}
        lines = [dict(line) for line in read_run(folder).metrics]
        write_metrics(folder, [{"step": 0, name: 0.01}, *lines[:-1], {**lines[-1], name: 0.12345, **ends}])
        write_recipe(folder, 10, rewards=[{"use": "judge", "weight": 1.0 + i}])
    write_report(folders, tmp_path / "report.html", [TEXTS] * 3)
    open_page(driver, tmp_path / "report.html", width=width)
    boxes = "return [...document.querySelectorAll('.compare')].map((t) => t.parentElement)"
    sizes = js(driver, f"{boxes}.map((b) => [b.scrollWidth, b.clientWidth])")
    assert len(sizes) == 2
    assert all(inner <= outer for inner, outer in sizes)
    assert js(driver, "return document.documentElement.scrollWidth") <= width


def test_runs_of_unequal_length_are_all_named_at_every_step(driver: Chrome, tmp_path: Path) -> None:
    """At a step without a number, and behind the last one."""
    for name, steps in (("a", (1, 2, 4)), ("b", (1, 2, 3, 4, 6))):
        write_metrics(tmp_path / name, [{"step": s, "reward/mean": s / 2} for s in steps])
    write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html", [TEXTS] * 2)
    open_page(driver, tmp_path / "report.html")
    plot = "const p = document.querySelector('[id=\"curve:reward/mean\"] .plot');"
    back = "p.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));"
    readout = "return document.querySelector('[id=\"curve:reward/mean\"] .readout').textContent"
    assert js(driver, readout) == "step 6: a – (last at step 4), b 3"
    assert js(driver, f"{plot}{back}{back}{readout}") == "step 3: a –, b 1.5"
