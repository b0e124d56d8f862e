"""What `ppokit rate` prints: the link when it begins, and a summary when it ends."""

from __future__ import annotations

from collections import Counter, defaultdict

import typer

from ppokit.ratings.page.files import flagged_of
from ppokit.ratings.page.serving import is_local, links
from ppokit.ratings.page.session import PAIR_VALUES, RatingSession


def began(session: RatingSession, host: str, port: int, token: str, available: int) -> None:
    """Where to rate, and what."""
    queue = session.queue
    what = "pairs" if session.config.pairs else "responses"
    some = f" of {available:,}" if available > len(queue.order) else ""
    typer.echo(f"{len(queue.order):,}{some} {what}, {queue.per_item} rating{'s' * (queue.per_item > 1)} each")
    before = len(queue.all_answers())
    if before:
        typer.echo(f"{session.out} goes on from {before:,} ratings")
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


def ended(session: RatingSession) -> None:
    """How much there is, and how good it looks."""
    queue, pairs = session.queue, session.config.pairs
    answers = queue.all_answers()
    typer.echo("")
    typer.echo(f"{session.out}: {len(answers):,} {'choices' if pairs else 'ratings'}")
    ties = sum(answer.value == "tie" for answer in answers)
    if ties:
        typer.echo(f"ties, which stand in {session.log.path.name} only: {ties:,}")
    for rater, count in Counter(answer.rater for answer in answers).most_common():
        typer.echo(f"  {rater}: {count:,}")
    alpha = session.alpha.value()
    if alpha is not None:
        typer.echo(f"agreement (Krippendorff's alpha): {alpha:.2f}, over {session.alpha.items:,} items")
    if queue.flagged:
        typer.echo(f"flagged, see {flagged_of(session.out).name}: {len(queue.flagged):,}")
    for line in _by_source(session):
        typer.echo(line)


def _by_source(session: RatingSession) -> list[str]:
    """Mean rating, or share of pairs won, of each source, where there are several."""
    values: dict[str, list[float]] = defaultdict(list)
    for answer in session.queue.all_answers():
        sources = session.queue.items[answer.item].sources
        if session.config.pairs:
            won = PAIR_VALUES[answer.value]
            if sources[0] != sources[1]:
                values[sources[0]].append(won)
                values[sources[1]].append(1 - won)
        else:
            values[sources[0]].append(float(answer.value or 0))
    if len(values) < 2:
        return []
    unit = "won, a tie is a half" if session.config.pairs else "mean rating"
    lines = [f"by source ({unit}):"]
    for name, numbers in sorted(values.items()):
        mean = sum(numbers) / len(numbers)
        lines.append(
            f"  {name}: {f'{mean:.0%}' if session.config.pairs else f'{mean:.2f}'} of {len(numbers):,}"
        )
    return lines
