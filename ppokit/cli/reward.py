"""The command `ppokit reward fit`: a reward model from people's ratings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ppokit.cli.options import Column, Debug, OnBadRow, Seed, columns_of
from ppokit.cli.sections import show
from ppokit.errors import DataError


def fit(
    ratings: Annotated[
        Path,
        typer.Argument(metavar="RATINGS", help="Ratings or pairs: .csv, .tsv, .jsonl, .json or .parquet."),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What to start from: an encoder, which gets heads alone, or a causal LM, which gets a "
            "head and a LoRA adapter. "
            "Hub id, folder, package:DIST/FOLDER or package:DIST/FILE.gguf.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder.")],
    column: Column = None,
    on_bad_row: OnBadRow = "fail",
    held_out: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of the prompts to hold out; a split column in the file goes before it.",
        ),
    ] = 0.2,
    half: Annotated[
        Literal["a", "b"] | None,
        typer.Option(help="Fit to half of the raters; a model of the other half is a gold reward model."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of a causal LM's adapter, at most; by default about 96 steps, in 2 to 10 epochs."
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Of a causal LM's adapter; by default 3e-4.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Texts a step, of a causal LM; by default 32.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Tokens of a text that are read, from its end; by default 128 for an encoder, 256 for a "
            "causal LM.",
        ),
    ] = None,
    heads: Annotated[
        int, typer.Option(min=1, help="The standard deviation of their scores is the model's uncertainty.")
    ] = 5,
    lora_r: Annotated[
        int | None, typer.Option(min=1, help="Rank of a causal LM's adapter; by default 16.")
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve/--no-curve", help="Fit to a quarter and a half of the ratings too.")
    ] = True,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Fit a reward model to ratings or pairs, and say how good it is on prompts that it has not seen.

    `rewards: [{use: reward_model, model: FOLDER}]` in a recipe trains with it.
    """
    if not 0 < held_out < 1:
        raise DataError(f"--held-out {held_out:g}; expected a share between 0 and 1, such as 0.2.")
    if lr is not None and not 0 < lr < 1:
        raise DataError(f"--lr {lr:g}; expected a number between 0 and 1, such as 1e-4.")
    from ppokit.cli.allocator import keep_freed_memory
    from ppokit.cli.reward_view import Bar, report_sections
    from ppokit.ratings.table import read_for_fit
    from ppokit.reward_models.fit import reward_fit
    from ppokit.reward_models.methods import FitOptions

    keep_freed_memory()
    table = read_for_fit(ratings, columns_of(column), on_bad_row=on_bad_row)
    options = FitOptions(
        held_out=held_out,
        half=half,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        heads=heads,
        seed=seed,
        max_length=max_length,
        lora_r=lora_r,
        curve=curve,
    )
    with Bar() as bar:
        report = reward_fit(table, model, out, options, bar)
    show(report_sections(report, out, len(table.bad_rows)))
