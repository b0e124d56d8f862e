"""The page itself: one file with everything in it, that asks nothing of any network.

Its Content-Security-Policy names its one script and its one style by their hashes, so that nothing else runs
or is fetched, whatever a text on the page says.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING

from markupsafe import Markup

from ppokit import __version__
from ppokit.plugin.visible_text import visible
from ppokit.report.charts import colour, short, sparkline
from ppokit.report.curves import figures
from ppokit.report.island import island
from ppokit.report.provenance_view import evaluated_on_others, recipe_differences
from ppokit.report.run_data import RunData, section
from ppokit.report.run_view import RunView
from ppokit.report.shown_samples import COLUMNS
from ppokit.report.statistics import UNKNOWN, Estimate
from ppokit.report.tokens import TokenTexts, texts_of_run, unknown_texts

if TYPE_CHECKING:
    from jinja2 import Environment

LARGEST = 5_600_000  # bytes of a page
TOKEN_BUDGET, TEXT_BUDGET, SERIES_BUDGET = 2_700_000, 1_500_000, 1_000_000
MOST_POINTS, FEWEST_POINTS = 1000, 50  # of a curve that the pointer follows
SCRIPTS = ("curves.js", "points.js", "groups.js", "ledger.js")
VIEWS = (
    ("verdict", "Verdict"),
    ("curves", "Curves"),
    ("distributions", "Distributions"),
    ("groups", "Groups"),
    ("ledger", "Token ledger"),
    ("movers", "Movers"),
    ("failures", "Failures"),
    ("provenance", "Provenance"),
)


def report_page(runs: Sequence[RunData], texts: Sequence[TokenTexts | None] = ()) -> str:
    """The page of one run, or of several compared.

    Args:
        texts: what each run's tokens look like; by the run's own saved tokenizer, unless given.

    Returns: HTML, below six megabytes: where runs have more responses, fewer of them are shown.
    """
    known = [
        own or (texts_of_run(run.folder, _model(run)) if run.steps else None)
        for run, own in zip(runs, texts or [None] * len(runs), strict=True)
    ]
    for run, own in zip(runs, known, strict=True):
        if own is None and run.steps:
            run.missing.append(
                "Neither the policy's tokenizer (policy/ is written at the first checkpoint) nor the "
                "model's can be read here: tokens are shown by their numbers."
            )
    _tell_apart(runs)
    share = 1.0 / max(1, len(runs))
    points = SERIES_BUDGET // (8 * max(1, sum(len(run.measured()) for run in runs)))
    points = min(MOST_POINTS, max(FEWEST_POINTS, points))
    while True:
        views = [
            RunView.of(i, run, own or unknown_texts(), TOKEN_BUDGET * share, TEXT_BUDGET * share, points)
            for i, (run, own) in enumerate(zip(runs, known, strict=True))
        ]
        page = _page(runs, views)
        size = len(page.encode())
        if size <= LARGEST or share < 0.001:
            return page
        share *= 0.8 * LARGEST / size


def _page(runs: Sequence[RunData], views: Sequence[RunView]) -> str:
    script, style = _asset(*SCRIPTS), _asset("page.css")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; "
        "form-action 'none'"
    )
    title = views[0].name if len(views) == 1 else f"{len(views)} runs compared"
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            title=title,
            policy=policy,
            style=Markup(style),
            script=Markup(script),
            data=Markup(island({"runs": [view.data for view in views], "columns": COLUMNS})),
            runs=views,
            views=VIEWS,
            figures=figures(runs),
            any_samples=any(view.data["samples"] for view in views),
            side_by_side=_side_by_side(views) if len(runs) > 1 else [],
            evaluated_on_others=evaluated_on_others(runs),
            differences=recipe_differences(runs) if len(runs) > 1 else [],
            version=__version__,
            written=datetime.now(UTC),
        )
    )


def _model(run: RunData) -> str:
    name = section(run.recipe, "model").get("name")
    return name if isinstance(name, str) else ""


def _tell_apart(runs: Sequence[RunData]) -> None:
    """Runs whose folders are called the same are named by the folders above them too, or by numbers."""
    for parents in range(1, 4):
        names = [run.name for run in runs]
        for run in runs:
            if names.count(run.name) > 1:
                run.title = "/".join(run.folder.parts[-1 - parents :])
    names = [run.name for run in runs]
    for i, run in enumerate(runs):
        if names.count(names[i]) > 1:
            run.title = f"{names[i]} ({i + 1})"


def _side_by_side(views: Sequence[RunView]) -> list[tuple[str, list[tuple[float, Estimate]]]]:
    """Of each number that a run's own table shows, its last value and change in every run that has it."""
    labels = dict.fromkeys(row.label for view in views for row in view.rows if row.is_shown)
    unknown = (math.nan, UNKNOWN)
    rows = [{row.label: (row.after, row.change) for row in view.rows} for view in views]
    return [(label, [own.get(label, unknown) for own in rows]) for label in labels]


@functools.cache
def environment() -> Environment:
    """Templates of the page; every text in them is escaped, and every character of it visible."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("ppokit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = {"short": _number, "percent": _percent, "change": _change}
    templates.filters.update(shown, sparkline=sparkline, colour=colour)
    return templates


def _shown(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.cache
def _asset(*names: str) -> str:
    folder = files("ppokit.report") / "static"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _hash(text: str) -> str:
    """A script or style as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else short(value)


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _change(estimate: Estimate) -> str:
    """`+0.69 (+0.58 to +0.80)`."""
    if not math.isfinite(estimate.value):
        return ""
    ends = (estimate.low, estimate.high)
    interval = f" ({ends[0]:+.3g} to {ends[1]:+.3g})" if all(map(math.isfinite, ends)) else ""
    return f"{estimate.value:+.3g}{interval}"
