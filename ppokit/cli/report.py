"""`ppokit report` and `ppokit runs`: a page of what runs learned, and a list of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ppokit.cli.options import Debug, Json
from ppokit.cli.sections import Section, number, show
from ppokit.errors import DataError, printable


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Folders of runs.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The page; report.html in the run's folder, or in the working directory for several, unless "
            "given.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a page of what a run learned, or of several runs compared; also of one that still goes."""
    from ppokit.report.write_report import write_report

    target = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    read = write_report(runs, target)
    for run in read:
        for sentence in run.missing:
            typer.echo(printable(f"{run.name}: {sentence}"), err=True)
    typer.echo(f"report   {target}")


def list_runs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where runs are looked for, two folders deep.")
    ] = Path("runs"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List runs: reward, evaluation, steps, state; the newest first."""
    from ppokit.report.runs import find_runs

    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with runs, as in `ppokit runs runs`")
    summaries = find_runs(folder)
    if as_json:
        typer.echo(json.dumps([summary.as_data() for summary in summaries], indent=2))
        return
    if not summaries:
        typer.echo(printable(f"There are no runs in {folder}, down to two folders deep."))
        return
    header = (
        "run",
        "state",
        "changed",
        "evaluation",
        "steps",
        "reward, first",
        "last",
        "evaluation, first",
        "best",
        "last",
    )
    rows = [
        (
            printable(summary.name),
            summary.state,
            summary.changed_at,
            summary.evaluation.removeprefix("eval/") or "-",
            f"{summary.step}/{summary.steps or '?'}",
            number(summary.reward_first),
            number(summary.reward_last),
            number(summary.evaluation_first),
            number(summary.evaluation_best),
            number(summary.evaluation_last),
        )
        for summary in summaries
    ]
    show([Section("", header, rows, text_columns=4)])
