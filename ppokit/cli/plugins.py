"""Commands on plugins: list what is installed, check a component, begin a distribution of one's own."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppokit.cli.options import Debug, DisablePlugin, Json
from ppokit.cli.sections import Section, show
from ppokit.errors import PluginError, one_paragraph, printable

if TYPE_CHECKING:
    from ppokit.config.entries import Entry
    from ppokit.testing import Report

_TRUST = "Not ppokit's own: {}. Who installs a plugin trusts its code."
_SLOW_IMPORT_S = 2.0


def list_plugins(as_json: Json = False, disable_plugin: DisablePlugin = None, debug: Debug = False) -> None:
    """List what is installed and where it comes from, importing none of it."""
    from ppokit.config.registry import PluginRegistry

    entries = PluginRegistry(disable_plugin or ()).entries()
    if as_json:
        typer.echo(json.dumps([{**asdict(entry), "builtin": entry.builtin} for entry in entries], indent=2))
        return
    if not entries:
        typer.echo("No plugins are installed.")
        return
    columns = ("kind", "name", "from", "state", "summary")
    rows = [(e.kind, e.name, e.source, e.state, e.summary) for e in entries]
    show([Section("", columns, rows, text_columns=len(columns))])
    for reason in dict.fromkeys(entry.reason for entry in entries if entry.reason):
        typer.echo(one_paragraph(reason))
    if others := _others(entries):
        typer.echo(one_paragraph(_TRUST.format(", ".join(others))))


def _others(entries: list[Entry]) -> list[str]:
    """Distributions that are not ppokit."""
    return list(dict.fromkeys(entry.source for entry in entries if not entry.builtin))


def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="NAME|MODULE:ATTRIBUTE|FOLDER",
            help="An installed component, what a module holds, or all that a distribution's folder offers.",
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Options to check it with; those of its first example, if not given."
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="rewards, advantages, losses, rollout, evaluators or observers."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            min=0.001,
            help="What a call on twelve short responses may take; a check has 30 times as long.",
        ),
    ] = 1.0,
    as_json: Json = False,
    disable_plugin: DisablePlugin = None,
    debug: Debug = False,
) -> None:
    """Import a component and run every check of the conformance kit on it.

    Prints the checks, a reward's examples with their scores, and what is waived. Exit code 0: all passed;
    1: a check failed; 2: there was nothing to check.
    """
    import time

    from ppokit.testing import find, run_checks
    from ppokit.testing.process_state import import_what_runs_do
    from ppokit.testing.progress import trying

    import_what_runs_do()  # its time is not the component's
    with redirect_stdout(sys.stderr):  # what it prints is no part of the report
        began = time.perf_counter()
        with trying(f"importing {target}"):
            subjects = find(
                target, kind, options=_options(options), seconds=seconds, disabled=disable_plugin or ()
            )
        took = time.perf_counter() - began
        reports = [run_checks(subject) for subject in subjects]
        examples = []
        for report in reports:
            with trying(f"{report.subject.where}: scoring its examples"):
                examples.append(_example_rows(report))
    if took > _SLOW_IMPORT_S:
        typer.echo(
            f"Importing it took {took:.1f} s: import heavy libraries inside build, as every command "
            "waits for it.",
            err=True,
        )
    if as_json:
        typer.echo(json.dumps(list(map(_as_data, reports, examples)), indent=2))
    else:
        for report, rows in zip(reports, examples, strict=True):
            _show_report(report, rows)
    if not all(report.passed for report in reports):
        raise typer.Exit(1)


def _options(texts: list[str] | None) -> dict[str, Any] | None:
    """What `KEY=VALUE` says, read as a recipe's overrides are."""
    from ppokit.config.yaml_file import override, plain

    if not texts:
        return None
    document = plain({})
    override(document, texts)
    if document.problems:
        raise PluginError("; ".join(problem.message for problem in document.problems))
    return dict(document.data)


def _show_report(report: Report, examples: list[tuple[str, str, str]]) -> None:
    subject = report.subject
    rows = [(r.check, r.outcome, r.what) for r in report.results]
    having = {name: len(report.having(name)) for name in ("passed", "failed", "waived")}
    counts = ", ".join(f"{count} {name}" for name, count in having.items() if count)
    title = f"{subject.name} ({subject.label}): {counts}"
    sections = [Section(title, ("check", "", "what must hold"), rows, text_columns=3)]
    if examples:
        sections.append(Section("Examples", ("score", "", "response"), examples, text_columns=3))
    if waived := report.having("waived"):
        lines = [(result.check, result.detail) for result in waived]
        sections.append(Section("Waived", ("check", "reason"), lines, text_columns=2))
    show(sections)
    by_fault: dict[str, list[str]] = {}
    for result in report.having("failed"):
        by_fault.setdefault(result.detail, []).append(result.check)
    for fault, checks in by_fault.items():
        typer.echo(printable(f"failed: {', '.join(checks)}: {fault}", keep="\n"))


def _example_rows(report: Report) -> list[tuple[str, str, str]]:
    """Each response of the examples with its score, best first; none where they cannot be scored."""
    from ppokit.errors import PpokitError
    from ppokit.testing.example_checks import scored

    rows: list[tuple[str, str, str]] = []
    if not any(result.check == "examples" for result in report.results):
        return rows  # it cannot be called, or does not return
    for example in report.subject.examples:
        try:
            result = scored(report.subject, example)
        except PpokitError:
            continue  # a check says why
        ranked = [
            *((value, "better", text) for value, text in zip(result.better, example.better, strict=True)),
            *((value, "worse", text) for value, text in zip(result.worse, example.worse, strict=True)),
            (result.nothing, "nothing", example.nothing),
        ]
        ranked.sort(key=lambda each: float("-inf") if each[0] is None else each[0], reverse=True)
        rows.extend(("-" if v is None else f"{v:.3f}", rank, repr(text)[:80]) for v, rank, text in ranked)
    return rows


def _as_data(report: Report, examples: list[tuple[str, str, str]]) -> dict[str, Any]:
    subject = report.subject
    return {
        "component": subject.name,
        "plugin": subject.label,
        "passed": report.passed,
        "results": [asdict(result) for result in report.results],
        "examples": [dict(zip(("score", "rank", "response"), row, strict=True)) for row in examples],
    }
