"""The commands `ppokit ratings ...`: people's ratings checked, measured, changed into other forms."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ppokit.cli.options import Column, Debug, Json, OnBadRow, Seed, check_plot, columns_of
from ppokit.cli.sections import show
from ppokit.errors import DataError
from ppokit.ratings.names import Source, Tool

if TYPE_CHECKING:
    from ppokit.ratings.records import RatingTable

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="Ratings or pairs: .csv, .tsv, .jsonl, .json or .parquet.")
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="A new .csv file.")]


def check(
    file: File,
    column: Column = None,
    scale: Annotated[
        str | None, typer.Option(metavar="LOW-HIGH", help="Ratings that there may be, as in 0-10.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look for problems in a file, row by row; exit code 1 where there are any.

    Remarks, such as two ratings of one response by the same rater, leave the exit code 0.
    """
    from ppokit.cli.ratings_view import findings_sections
    from ppokit.ratings.findings import findings_of
    from ppokit.ratings.table import read_ratings

    table = read_ratings(file, columns_of(column), on_bad_row="skip")
    findings = findings_of(table, scale_of(scale) if scale is not None else None)
    good = len(table.rows)
    if as_json:
        typer.echo(
            json.dumps(
                {"source": str(file), "rows": good, "notes": table.notes, **asdict(findings)}, indent=2
            )
        )
    else:
        show(findings_sections(findings, str(file), good, table.notes))
    if findings.problems:
        raise typer.Exit(1)


def stats(
    file: File,
    column: Column = None,
    on_bad_row: OnBadRow = "fail",
    level: Annotated[
        Literal["interval", "ordinal"],
        typer.Option(help="For alpha: distances on the scale count, or only the order."),
    ] = "interval",
    seed: Seed = 0,
    as_json: Json = False,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw it into this file too.")] = None,
    debug: Debug = False,
) -> None:
    """Say how far the ratings can be trusted: scale, coverage, agreement, each rater."""
    from ppokit.cli.ratings_view import stats_sections
    from ppokit.ratings.stats import stats_of
    from ppokit.ratings.table import read_ratings

    check_plot(plot)
    table = read_ratings(file, columns_of(column), on_bad_row=on_bad_row)
    stats = stats_of(table, level=level, seed=seed)
    if plot is not None:
        from ppokit.ratings.plot import plot as draw

        draw(stats, table, plot)
    if as_json:
        typer.echo(json.dumps(asdict(stats), indent=2))
    else:
        show(stats_sections(stats))


def normalise(
    file: File, out: Out, column: Column = None, on_bad_row: OnBadRow = "fail", debug: Debug = False
) -> None:
    """One row per item: each rater's ratings as z-scores, their mean, and its standard error."""
    from ppokit.ratings.normalise import NORMALISED_COLUMNS
    from ppokit.ratings.normalise import normalise as normalised
    from ppokit.ratings.table import read_ratings
    from ppokit.ratings.writing import new_file, number, write_csv

    new_file(out)
    table = read_ratings(file, columns_of(column), on_bad_row=on_bad_row)
    items, notes = normalised(table)
    rows = (
        (i.prompt, i.response, number(i.rating), number(i.rating_se), i.ratings, i.item, i.split or "")
        for i in items
    )
    count = write_csv(out, NORMALISED_COLUMNS, rows)
    _print_notes(table, notes)
    typer.echo(f"{out}: {count:,} items from {len(table.ratings):,} ratings")


def split(
    file: File,
    out_dir: Annotated[
        Path, typer.Argument(metavar="OUT_DIR", help="A folder for train.csv and held_out.csv.")
    ],
    column: Column = None,
    held_out: Annotated[float, typer.Option(metavar="SHARE", help="Share of the prompts to hold out.")] = 0.2,
    seed: Seed = 0,
    on_bad_row: OnBadRow = "fail",
    debug: Debug = False,
) -> None:
    """Split a file by prompt into train.csv and held_out.csv, with all of its columns.

    No prompt is in both, nor are two that differ in case and blanks only.
    """
    from ppokit.ratings.splitting import held_out as choose
    from ppokit.ratings.splitting import same_prompt
    from ppokit.ratings.table import read_ratings
    from ppokit.ratings.writing import new_file, write_rows

    if not 0 < held_out < 1:
        raise DataError(f"--held-out {held_out:g}; expected a share between 0 and 1, such as 0.2.")
    parts = {"train": out_dir / "train.csv", "held_out": out_dir / "held_out.csv"}
    for path in parts.values():
        new_file(path)
    columns = columns_of(column)
    table = read_ratings(file, columns, on_bad_row=on_bad_row)
    rows = {row.row: row.prompt for row in table.rows}
    try:
        out = choose(rows.values(), held_out, seed)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    _print_notes(table, [])
    for name, path in parts.items():
        kept = {row for row, prompt in rows.items() if (same_prompt(prompt) in out) == (name == "held_out")}
        count = write_rows(path, file, columns, kept)
        prompts = len({same_prompt(rows[row]) for row in kept})
        typer.echo(f"{path}: {count:,} rows, {prompts:,} prompts")


def export(
    file: File,
    out: Out,
    to: Annotated[Tool, typer.Option(help="The tool that is to read it.")],
    column: Column = None,
    unrated: Annotated[
        bool, typer.Option("--unrated", help="Each item once, without ratings, to be rated in the tool.")
    ] = False,
    on_bad_row: OnBadRow = "fail",
    debug: Debug = False,
) -> None:
    """Write ratings in the CSV form of Argilla or Label Studio."""
    from ppokit.ratings.exporting import export as write
    from ppokit.ratings.table import read_ratings
    from ppokit.ratings.writing import new_file

    new_file(out)
    table = read_ratings(file, columns_of(column), on_bad_row=on_bad_row)
    count = write(table, out, to, unrated=unrated)
    _print_notes(table, [])
    typer.echo(f"{out}: {count:,} rows for {'Argilla' if to == 'argilla' else 'Label Studio'}")


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .csv, .jsonl, .json or .parquet file of that form.")
    ],
    out: Out,
    form: Annotated[Source, typer.Option("--from", help="The tool or collection whose form it has.")],
    column: Column = None,
    on_bad_row: OnBadRow = "fail",
    debug: Debug = False,
) -> None:
    """Turn what another tool or a public collection wrote into ppokit's own columns.

    `--column rating=NAME` says which question, tag, score or label holds the rating.
    """
    from ppokit.ratings.importing import import_table
    from ppokit.ratings.writing import new_file, write_table

    new_file(out)
    table = import_table(file, form, columns_of(column), on_bad_row=on_bad_row)
    count = write_table(out, table)
    _print_notes(table, [])
    typer.echo(f"{out}: {count:,} {'pairs' if table.pairs else 'ratings'}")


COMMANDS: dict[str, Callable[..., Any]] = {
    "check": check,
    "stats": stats,
    "normalise": normalise,
    "split": split,
    "export": export,
    "import": import_,
}


def scale_of(text: str) -> tuple[float, float]:
    """What `--scale` says."""
    number = r"(-?\d+(?:\.\d+)?)"
    match = re.fullmatch(f"{number}-{number}", text.strip())
    if match is None or float(match[1]) >= float(match[2]):
        raise DataError(f"--scale {text}: expected the smallest and the largest rating, as in 0-10.")
    return float(match[1]), float(match[2])


def _print_notes(table: RatingTable, notes: list[str]) -> None:
    """What a person should know of how the file was read, on stderr."""
    skipped = [f"bad rows left out: {len(table.bad_rows):,}"] if table.bad_rows else []
    for note in (*table.notes, *skipped, *notes):
        typer.echo(f"note: {note}", err=True)
