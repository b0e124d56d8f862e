"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ppokit.errors import DataError
from ppokit.messages import listed, suggest

if TYPE_CHECKING:
    from ppokit.ratings.records import RatingColumns

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Set keys of the recipe, as in run.steps=10 or rewards.0.weight=0.5."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show the traceback too.")]
DisablePlugin = Annotated[
    list[str] | None,
    typer.Option(
        "--disable-plugin",
        metavar="NAME",
        help="Block a plugin before it is imported: NAME, KIND.NAME or KIND.NAME@DISTRIBUTION; repeatable.",
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=COLUMN",
        help="Which column holds what, as in prompt=Question; NAME is prompt, response, rating, rater, item, "
        "chosen, rejected, split or aspects; repeatable.",
    ),
]
OnBadRow = Annotated[
    Literal["fail", "skip"],
    typer.Option("--on-bad-row", help="Refuse a file with bad rows, or leave them out, counted."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed draws otherwise.")]


def check_plot(path: Path | None) -> None:
    """Refuse what `--plot` cannot write, before anything is computed.

    Raises:
        DataError: it is no .png, or its folder is not there.
    """
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise DataError(f"--plot {path} ends in {path.suffix or 'nothing'}; expected .png.")
    if not path.parent.is_dir() or path.is_dir():
        raise DataError(f"--plot {path} cannot be written: expected a file in a folder that is there.")


def columns_of(options: list[str] | None) -> RatingColumns:
    """What `--column` says.

    Raises:
        DataError: an option names no part of a rating, no column, or a part twice.
    """
    from ppokit.ratings.records import RatingColumns

    known = list(RatingColumns.model_fields)
    chosen: dict[str, Any] = {}
    for text in options or ():
        name, equals, column = text.partition("=")
        if name not in known:
            raise DataError(
                f"--column {text}: expected {listed(known, 'or')} before the ={suggest(name, known) or '.'}"
            )
        if not equals or not column:
            raise DataError(f"--column {text}: expected a column after the =, as in {name}=Question.")
        if name in chosen and name != "aspects":
            raise DataError(f"--column {text}: {name} was given {chosen[name]!r} before; expected it once.")
        chosen[name] = (*chosen.get(name, ()), *column.split(",")) if name == "aspects" else column
    return RatingColumns(**chosen)
