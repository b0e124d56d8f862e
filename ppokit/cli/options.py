"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Set keys of the recipe, as in run.steps=10 or rewards.0.weight=0.5.",
        show_default=False,
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show the traceback too.")]
DisablePlugin = Annotated[
    list[str] | None,
    typer.Option(
        "--disable-plugin",
        metavar="NAME",
        help="Block a plugin before it is imported: NAME, KIND.NAME or KIND.NAME@DISTRIBUTION; repeatable.",
        show_default=False,
    ),
]
