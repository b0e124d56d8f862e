"""What a model writes is shown as text: nothing in it becomes markup, data of another kind, or invisible."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hostile_texts import HOSTILE
from ppokit.plugin.visible_text import one_line, visible
from ppokit.report.island import island
from ppokit.report.page import report_page
from ppokit.report.run_data import read_run
from report_runs import learning_run, samples, write_metrics, write_recipe, write_samples

TEXTS = list(HOSTILE.values())
WRITABLE = [text.encode("utf-8", "replace").decode() for text in TEXTS]
"""Parquet holds no halves of surrogate pairs."""


def hostile_run(folder: Path) -> Path:
    """Everything that a run's folder names is hostile: texts, names, reasons, prompts, recipe, provenance."""
    for step in (1, 2, 3):
        random = np.random.default_rng(step)
        scores: list[list[float | None]] = [list(own) for own in random.random((len(WRITABLE), 2))]
        scores[3][0] = None
        columns = samples(step, scores, text=lambda group, i: WRITABLE[group])
        count = len(columns["id"])
        columns["id"] = [f"{WRITABLE[i % len(WRITABLE)][:200]}{i}" for i in range(count)]
        columns["prompt"] = [WRITABLE[i // 2] for i in range(count)]
        columns["reason/judge"] = [WRITABLE[i // 2] for i in range(count)]
        for name in WRITABLE[:6]:
            columns[f"reward/{name}"] = random.random(count).tolist()
            columns[f"outcome/{name}"] = ["abstained" if i == 3 else "scored" for i in range(count)]
            columns[f"part/{name}"] = random.random(count).tolist()
            columns[f"note/{name}"] = WRITABLE[:1] * count
        write_samples(folder, step, columns)
    names = {f"reward/{text[:60]}": 1.0 for text in TEXTS} | {f"eval/{text[:60]}": 1.0 for text in TEXTS}
    write_metrics(folder, [{"step": step, "reward/mean": 0.1 * step, **names} for step in (1, 2, 3)])
    write_recipe(folder, 3, rewards=[{"use": text} for text in WRITABLE[:6]])
    provenance = {
        "started": TEXTS[0],
        "command": TEXTS,
        "versions": {TEXTS[1]: TEXTS[0]},
        "plugins": {TEXTS[0]: TEXTS[1]},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    for step, text in enumerate(WRITABLE[:6]):
        columns = {"evaluator": [text], "id": [text], "outcome": ["finished"]}
        columns |= {f"outcome/{text}": ["failed"], f"reason/{text}": [text]}
        write_samples(folder, step, columns, kind="evaluation")
    (folder / "end.json").write_text(json.dumps({"step": 3, "stopped_by": TEXTS[0], "error": TEXTS[1]}))
    return folder


class Reader(HTMLParser):
    """Elements, attributes and texts of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts.append((self.elements[-1][1], data))
        elif self._open == "style":
            self.styles.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report_page([read_run(hostile_run(tmp_path_factory.mktemp("run") / "<b>&'\"run"))])


def test_no_element_is_a_models(page: str) -> None:
    reader = read(page)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"img", "iframe", "object", "embed", "base", "form", "b", "image", "foreignobject"}
    assert [tag for tag, _ in reader.elements].count("script") == 2
    names = {name for _, attributes in reader.elements for name in attributes}
    assert not [
        name for name in names if name.startswith("on") or name in ("style", "src", "srcdoc", "action")
    ]
    links = [a.get("href") or "" for tag, a in reader.elements if tag == "a"]
    assert all(link.startswith("#") for link in links)


def test_the_policy_lets_this_script_and_this_style_run_and_nothing_else(page: str) -> None:
    reader = read(page)
    (policy,) = [
        a["content"] or "" for t, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    (script,) = [text for attributes, text in reader.scripts if not attributes]
    (style,) = reader.styles

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "script-src": digest(script),
        "style-src": digest(style),
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_data_are_what_was_written(page: str) -> None:
    (text,) = [text for attributes, text in read(page).scripts if attributes.get("id") == "data"]
    assert not re.search("[<>&\u2028\u2029]", text)
    (run,) = json.loads(text)["runs"]
    shown = {sample["x"] for sample in run["samples"]}
    assert {visible(own, 6000) for own in WRITABLE} == shown


def test_it_is_utf_8_and_short(page: str) -> None:
    assert len(page.encode()) < 3_000_000


def test_no_script_is_put_together_from_text() -> None:
    folder = Path(__file__).parents[2] / "ppokit" / "report"
    code = "".join(path.read_text() for path in (folder / "static").glob("*.js"))
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "setTimeout(",
    ):
        assert sink not in code
    assert "safe" not in "".join(
        re.findall(r"\|\s*\w+", "".join(p.read_text() for p in (folder / "templates").iterdir()))
    )


@pytest.mark.parametrize("text", TEXTS, ids=HOSTILE)
def test_nothing_is_invisible(text: str) -> None:
    shown = visible(text, 1000)
    shown.encode()
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]", shown
    )
    assert len(one_line(text, 50)) < 500
    assert "\n" not in one_line(text, 50)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("a\ud800b", "a⟨U+D800⟩b"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("naïve 漢字 עברית", "naïve 漢字 עברית"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("a\u200db", "a⟨U+200D⟩b"),
        ("\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_what_is_named_and_what_stays(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_long_text_says_how_much_is_left_out() -> None:
    assert visible("x" * 1500, 1000) == "x" * 1000 + "⟨500 characters left out⟩"


@pytest.mark.parametrize("value", [*TEXTS, {"</script>": ["<", None, 1.5]}], ids=[*HOSTILE, "mapping"])
def test_json_in_a_page_is_the_same_data(value: Any) -> None:
    text = island(value)
    assert not re.search("[<>&\u2028\u2029\ud800-\udfff]", text)
    assert json.loads(text) == value


def test_a_hundred_steps_fit_and_what_was_left_out_is_said(tmp_path: Path) -> None:
    """64 responses of 48 tokens in each of 100 steps, whose files are one file: below six megabytes."""
    learning_run(tmp_path, steps=100, groups=1, size=1)
    columns = samples(1, np.random.default_rng(0).random((16, 4)).tolist(), [[48] * 4] * 16, text=_long)
    noise = np.random.default_rng(1).standard_normal((64, 48)).astype(np.float32).tolist()
    columns |= dict.fromkeys(("kl/k1", "advantages", "values", "returns", "log_ratio", "entropy"), noise)
    path = write_samples(tmp_path, 1, columns)
    for step in range(2, 101):
        (tmp_path / "rollouts" / f"step-{step:06d}.parquet").write_bytes(path.read_bytes())
    page = report_page([read_run(tmp_path)])
    assert 2_000_000 < len(page.encode()) < 6_000_000
    match = re.search(
        r"([\d,]+) of the 6,400 responses of 100 steps are here, ([\d,]+) of them with their", page
    )
    assert match is not None
    (text,) = [text for attributes, text in read(page).scripts if attributes.get("id") == "data"]
    shown = json.loads(text)["runs"][0]["samples"]
    assert len(shown) == int(match[1].replace(",", ""))
    assert sum("tk" in sample for sample in shown) == int(match[2].replace(",", "")) > 300
    assert {sample["t"] for sample in shown} == set(range(1, 101))


def test_pages_of_long_responses_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where estimates of sizes are wrong, fewer responses are shown."""
    monkeypatch.setattr("ppokit.report.page.LARGEST", 300_000)
    texts = ["漢" * 3000] * 32
    for step in (1, 2, 3):
        columns = {**samples(step, [[0.1, 0.2]] * 16), "response": texts}
        write_samples(tmp_path, step, columns)
    assert len(report_page([read_run(tmp_path)]).encode()) <= 300_000


def _long(group: int, i: int) -> str:
    return f"response {i} of {group} " + "word " * 40


def test_six_thousand_steps_of_eighty_metrics_fit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6000, 80)).tolist()
    lines = [{"step": s, **{f"metric/{i}": v for i, v in enumerate(own)}} for s, own in enumerate(values, 1)]
    for name in ("a", "b"):
        write_metrics(tmp_path / name, lines)
    page = report_page([read_run(tmp_path / name) for name in ("a", "b")])
    assert len(page.encode()) < 4_000_000
