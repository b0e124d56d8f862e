"""What `ppokit rate` prints: the link when it begins, and what came of it when it ends."""

from __future__ import annotations

from collections import Counter, defaultdict

import typer

from ppokit.ratings.page.desk import PAIR_VALUES, Desk
from ppokit.ratings.page.files import flagged_of
from ppokit.ratings.page.serving import is_local, links


def began(desk: Desk, host: str, port: int, token: str, available: int) -> None:
    """Where to rate, and what."""
    board = desk.board
    what = "pairs" if desk.terms.pairs else "responses"
    some = f" of {available:,}" if available > len(board.order) else ""
    typer.echo(f"{len(board.order):,}{some} {what}, {board.per_item} rating{'s' * (board.per_item > 1)} each")
    before = len(board.all_answers())
    if before:
        typer.echo(f"{desk.out} goes on from {before:,} ratings")
    if not is_local(host):
        typer.echo(
            f"warning: --host {host} lets in everybody on the network who has the link, and what is sent is "
            "not encrypted.",
            err=True,
        )
    typer.echo("")
    for link in links(host, port, token):
        typer.echo(f"  {link}")
    typer.echo("")
    typer.echo("Whoever has this link can rate. Ctrl-C ends; the same command goes on.")


def ended(desk: Desk) -> None:
    """How much there is, and how good it looks."""
    board, pairs = desk.board, desk.terms.pairs
    answers = board.all_answers()
    typer.echo("")
    typer.echo(f"{desk.out}: {len(answers):,} {'choices' if pairs else 'ratings'}")
    ties = sum(answer.value == "tie" for answer in answers)
    if ties:
        typer.echo(f"ties, which stand in {desk.log.path.name} only: {ties:,}")
    for rater, count in Counter(answer.rater for answer in answers).most_common():
        typer.echo(f"  {rater}: {count:,}")
    alpha = desk.alpha.value()
    if alpha is not None:
        typer.echo(f"agreement (Krippendorff's alpha): {alpha:.2f}, over {desk.alpha.items:,} items")
    if board.flagged:
        typer.echo(f"flagged, see {flagged_of(desk.out).name}: {len(board.flagged):,}")
    for line in _by_source(desk):
        typer.echo(line)


def _by_source(desk: Desk) -> list[str]:
    """Mean rating, or share of pairs won, of each source, where there are several."""
    values: dict[str, list[float]] = defaultdict(list)
    for answer in desk.board.all_answers():
        sources = desk.board.items[answer.item].sources
        if desk.terms.pairs:
            won = PAIR_VALUES[answer.value]
            if sources[0] != sources[1]:
                values[sources[0]].append(won)
                values[sources[1]].append(1 - won)
        else:
            values[sources[0]].append(float(answer.value or 0))
    if len(values) < 2:
        return []
    told = "won, a tie is a half" if desk.terms.pairs else "mean rating"
    lines = [f"by source ({told}):"]
    for name, held in sorted(values.items()):
        mean = sum(held) / len(held)
        lines.append(f"  {name}: {f'{mean:.0%}' if desk.terms.pairs else f'{mean:.2f}'} of {len(held):,}")
    return lines
