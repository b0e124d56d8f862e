"""The command `ppokit rate`: a page on this machine where people rate responses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ppokit.cli.options import Column, Debug, OnBadRow, Seed, columns_of
from ppokit.cli.ratings import scale_of
from ppokit.errors import DataError

if TYPE_CHECKING:
    from ppokit.ratings.page.choosing import ScoreStd
    from ppokit.ratings.page.items import Item

PORT = 8765
MOST_STEPS = 10


def rate(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders of runs, or files (.csv, .tsv, .jsonl, .json, .parquet) with prompt and response, "
            "or with prompt, chosen and rejected. With several, raters compare them without knowing which is "
            "which.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="CSV",
            help="Where the ratings go. A session that is there goes on; no other file is overwritten.",
        ),
    ],
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Two responses side by side: which is better?")
    ] = False,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="LOW-HIGH",
            help="Whole numbers, at most 11 of them.",
            show_default="0-10; none with --pairs",
        ),
    ] = None,
    per_item: Annotated[int, typer.Option(min=1, help="How many raters each response or pair gets.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many responses or pairs.")] = None,
    select: Annotated[
        Literal["random", "uncertain", "diverse"],
        typer.Option(
            help="Which ones, under --limit: any; those on which the heads of the model in --reward disagree "
            "most; or those that differ most."
        ),
    ] = "random",
    reward: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="What `ppokit reward fit` wrote, for --select uncertain."),
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only the last steps of each run.")] = None,
    seed: Seed = 0,
    column: Column = None,
    on_bad_row: OnBadRow = "fail",
    host: Annotated[
        str, typer.Option(help="0.0.0.0 lets raters in from the network, without encryption.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = PORT,
    debug: Debug = False,
) -> None:
    """Serve a page on this machine where people rate responses, until Ctrl-C.

    Open the link that it prints; several people may, each under a name. Every rating is on the disk before
    the page goes on, and the same command goes on where it stopped. Nothing is sent to anywhere else.
    """
    if pairs and scale is not None:
        raise DataError(
            "--scale is for single responses; in --pairs raters say which is better. Leave one out."
        )
    low, high = _whole_scale(scale or "0-10")
    if select != "random" and limit is None:
        raise DataError(f"--select {select} chooses some of the items; say how many by --limit.")
    if (reward is not None) != (select == "uncertain"):
        raise DataError(
            "--select uncertain takes the items on which the heads of a reward model disagree: give --reward "
            "FOLDER, which `ppokit reward fit` writes."
            if reward is None
            else "--reward is for --select uncertain only."
        )
    try:
        from ppokit.cli.rate_view import began, ended
        from ppokit.ratings.page.assignments import AssignmentQueue
        from ppokit.ratings.page.choosing import choose
        from ppokit.ratings.page.files import token_of
        from ppokit.ratings.page.serving import listen, serve
        from ppokit.ratings.page.session import RatingSession, SessionConfig
    except ImportError as error:
        raise DataError(
            f"`ppokit rate` needs the extra `ratings`: pip install 'ppokit[ratings]' ({error})."
        ) from error

    if out.suffix.lower() != ".csv":
        raise DataError(f"--out {out} ends in {out.suffix or 'nothing'}; expected a file that ends in .csv.")
    items = _items(sources, pairs, seed, column, last, on_bad_row)
    with listen(host, port) as listening:  # before what may take minutes
        queue = AssignmentQueue(choose(items, limit, select, seed, _uncertainty(reward)), per_item)
        session = RatingSession(out, queue, SessionConfig(pairs, (low, high), seed))
        try:
            token = token_of(out)
            port_used = listening.getsockname()[1]
            serve(session, token, host, listening, lambda: began(session, host, port_used, token, len(items)))
        finally:
            session.close()
    ended(session)


def _whole_scale(text: str) -> tuple[int, int]:
    low, high = scale_of(text)
    if low < 0 or low != int(low) or high != int(high) or high - low > MOST_STEPS:
        raise DataError(
            f"--scale {text}: expected two whole numbers from 0 up, at most {MOST_STEPS} apart, as in 1-5."
        )
    return int(low), int(high)


def _items(
    sources: list[Path], pairs: bool, seed: int, column: list[str] | None, last: int | None, bad: OnBadRow
) -> list[Item]:
    from ppokit.ratings.page.items import pair_items, read_source, single_items

    if len(set(sources)) < len(sources):
        raise DataError("a SOURCE was given twice; expected different ones.")
    columns = columns_of(column)
    read = [read_source(source, columns, last=last, on_bad_row=bad) for source in sources]
    for source in read:
        skipped = [f"bad rows left out: {len(source.bad_rows):,}"] if source.bad_rows else []
        for note in (*source.notes, *skipped):
            typer.echo(f"note: {source.name}: {note}", err=True)
    items, notes = pair_items(read, seed) if pairs else (single_items(read), [])
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if not items:
        raise DataError(
            "there are no pairs to rate: no prompt has two different responses"
            + (" from different sources." if len(sources) > 1 else ".")
            + " Leave --pairs out to rate each response alone."
        )
    return items


def _uncertainty(reward: Path | None) -> ScoreStd | None:
    if reward is None:
        return None
    from ppokit.reward_models.artifact import need_settings
    from ppokit.reward_models.saved import uncertainty

    need_settings(reward)  # a wrong folder is refused before torch is imported

    return partial(uncertainty, reward)
