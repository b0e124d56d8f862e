"""What a page shows of one run: the templates' data, and the script's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ppokit.messages import listed
from ppokit.plugin.visible_text import visible
from ppokit.report.choose import Chosen, choose
from ppokit.report.curves import Figure, distributions
from ppokit.report.failures import SHOWN, Cause, Failure, failures, latencies
from ppokit.report.finding import Finding
from ppokit.report.findings import CHECKS, findings
from ppokit.report.island import plain
from ppokit.report.movers import Movers, movers
from ppokit.report.pool import Pool
from ppokit.report.provenance_view import facts, flattened, plugins, preset_differences
from ppokit.report.run_data import RunData, section
from ppokit.report.run_state import ending, failure, next_page_s
from ppokit.report.shown_samples import Shown, shown_samples
from ppokit.report.statistics import evenly, step_names
from ppokit.report.tokens import TokenTexts
from ppokit.report.verdict import Row, headline, verdict_rows


@dataclass(frozen=True)
class RunView:
    """A run as the templates and the script need it.

    Attributes:
        number: its position on the page.
        missing: sentences on what is not there.
        rows: all numbers of the verdict, some of which only a comparison shows.
        next_page_s: seconds after which the run should have written another page; None for none.
        compared: what the table's first and last column are.
        choice: which responses the page holds, in a sentence.
        more_causes: how many are not among `causes`.
        failed: failures and abstentions in all, of which `failures` are shown.
        unread_failures: what is not known of them, in a sentence.
        seconds_kept: whether the samples hold the seconds of calls.
        data: for the script.
    """

    number: int
    name: str
    subtitle: str
    next_page_s: float | None
    steps: str
    headline: str
    missing: Sequence[str]
    findings: Sequence[Finding]
    checks: str
    rows: Sequence[Row]
    compared: tuple[str, str]
    distributions: Sequence[Figure]
    choice: str
    movers: Movers
    causes: Sequence[Cause]
    more_causes: int
    failures: Sequence[Failure]
    failed: int
    seconds_kept: bool
    latencies: Sequence[tuple[str, float, float, float]]
    preset: str
    preset_differences: Sequence[tuple[str, str, str]]
    facts: Sequence[tuple[str, str]]
    plugins: Sequence[tuple[str, str]]
    recipe: dict[str, str]
    unread_failures: str
    has_samples: bool
    data: dict[str, Any]

    @property
    def more_evaluated(self) -> int:
        """How many numbers of evaluations its own table does not show."""
        return sum(not row.is_shown and row.link.startswith("#curve:eval/") for row in self.rows)

    @classmethod
    def of(
        cls,
        number: int,
        run: RunData,
        texts: TokenTexts,
        token_budget: float,
        text_budget: float,
        points: int,
    ) -> RunView:
        """Of a run, with about so many bytes of responses with and without their tokens.

        Args:
            points: numbers of a curve, at most.
        """
        pool = Pool.of(run)
        chosen = choose(run.steps, token_budget, text_budget)
        shown = shown_samples(run, chosen, texts)
        causes, failed, count = failures(run, shown.index)
        preset, differences = preset_differences(run) if run.recipe else ("", [])
        return cls(
            number=number,
            name=visible(run.name, 120),
            subtitle=_subtitle(run),
            next_page_s=next_page_s(run),
            steps=_steps(run),
            headline=headline(run, pool),
            missing=[visible(text, 1000) for text in (failure(run), *run.missing) if text],
            findings=[Finding(f.level, visible(f.text, 1000), f.link) for f in findings(run, pool)],
            checks=f"Looked for: {listed(name for name, _ in CHECKS)}",
            rows=verdict_rows(run, pool),
            compared=_compared(run, pool),
            distributions=distributions(run),
            choice=_choice(run, chosen, shown),
            movers=movers(run, pool, chosen, shown),
            causes=causes[:SHOWN],
            more_causes=max(0, len(causes) - SHOWN),
            failures=failed,
            failed=count,
            seconds_kept=any(samples.seconds for samples in run.steps),
            latencies=latencies(run),
            preset=preset,
            preset_differences=differences,
            facts=facts(run),
            plugins=plugins(run),
            recipe=flattened(run.recipe) if run.recipe else {},
            unread_failures=_unread_failures(run),
            has_samples=bool(run.steps),
            data={
                "name": visible(run.name, 120),
                "providers": [visible(name, 60) for name in shown.providers],
                "samples": shown.samples,
                "rules": shown.rules,
                "prefill": visible(str(run.setting("prompts", "prefill") or ""), 2000),
                "prompts": shown.prompts,
                "vocabulary": shown.vocabulary,
                "groups": shown.groups,
                **_series(run, points),
            },
        )


def _series(run: RunData, points: int) -> dict[str, Any]:
    """Steps once, and each metric's numbers at them; with steps of its own where it has only few of these."""
    steps = [int(line["step"]) for line in run.metrics if line["step"]]
    common = evenly(steps, points)
    metrics: dict[str, list[list[Any]]] = {}
    for name in run.measured():
        own, values = run.series(name)
        if 2 * len(own) > len(steps) and len(own) > points:
            known = dict(zip(own, values, strict=True))
            metrics[name] = [[plain(known.get(step)) for step in common]]
        elif own == common:
            metrics[name] = [[plain(value) for value in values]]
        else:
            kept = evenly(list(zip(own, values, strict=True)), points)
            metrics[name] = [[plain(value) for _, value in kept], [step for step, _ in kept]]
    return {"steps": common, "metrics": metrics}


def _unread_failures(run: RunData) -> str:
    sentences = []
    if run.failing_unread:
        steps = "1 more step" if run.failing_unread == 1 else f"{run.failing_unread:,} more steps"
        sentences.append(
            f"Something failed or abstained at {steps}, whose samples are not there or were not read: the "
            "curves that end in failed or abstained have the shares."
        )
    if run.skipped and not run.metrics:
        sentences.append(
            f"The samples of {run.skipped:,} steps were not read: what failed there is not known."
        )
    if run.evaluations_unread:
        sentences.append(f"The responses of {run.evaluations_unread:,} more evaluations were not read.")
    return " ".join(sentences)


def _steps(run: RunData) -> str:
    return f"{run.last_step} of {run.planned}" if run.planned else str(run.last_step)


def _subtitle(run: RunData) -> str:
    parts = [
        f"{_steps(run)} steps, {ending(run)}",
        str(section(run.recipe, "model").get("name") or ""),
        f"started {run.provenance['started']}" if run.provenance.get("started") else "",
    ]
    return visible(" · ".join(part for part in parts if part), 400)


def _compared(run: RunData, pool: Pool) -> tuple[str, str]:
    """Titles of the verdict's columns."""
    if run.last_step < 2 or not pool.first:
        return "at first", "at last"
    return step_names(pool.first), step_names(pool.last)


def _choice(run: RunData, chosen: Chosen, shown: Shown) -> str:
    """What of the samples is here, and what is not."""
    total, steps = sum(map(len, run.steps)), len(run.steps)
    here = len(shown.samples)
    with_tokens = sum("tk" in sample for sample in shown.samples)
    of_steps = f"{steps} steps" if steps != 1 else "1 step"
    if not total:
        text = "There are no responses here: no samples were kept, or none can be read."
    elif here == total and with_tokens == total:
        text = f"All {total:,} responses of {of_steps} are here, with their tokens."
    else:
        text = (
            f"{here:,} of the {total:,} responses of {of_steps} are here, {with_tokens:,} of them with their "
            "tokens: the best, the worst, those that moved most, those for which a reward failed, some "
            "prompts at every step, and whole groups of steps between the first and the last."
        )
    if run.skipped:
        text += f" The samples of {run.skipped:,} more steps were not read; their numbers are in the curves."
    if here < total or run.skipped:
        text += " The others are in the run's rollouts/."
    return text
