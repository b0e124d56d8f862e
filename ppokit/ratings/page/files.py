"""The files that a session leaves, all made from its log. For `--out ratings.csv`:

ratings.log.jsonl      what raters did, see `ppokit.ratings.page.log`
ratings.csv            the answers that count, in ppokit's own columns; ties of pairs stay in the log
ratings.flagged.csv    what someone flagged, one row per response and rater; where there is any
ratings.token          what the page's link ends with, so that it stays the same; for its owner's eyes only
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppokit.data.atomic import replacing
from ppokit.errors import DataError, first_line
from ppokit.ratings.page.assignments import Action
from ppokit.ratings.page.items import Item
from ppokit.ratings.writing import PAIR_COLUMNS, RATING_COLUMNS, replace_csv

FLAGGED_COLUMNS = ("prompt", "response", "rater", "item")


def log_of(out: Path) -> Path:
    """The log of a CSV, in the same folder."""
    return out.with_name(f"{out.stem}.log.jsonl")


def flagged_of(out: Path) -> Path:
    """The flagged responses of a CSV, in the same folder."""
    return out.with_name(f"{out.stem}.flagged.csv")


def token_of(out: Path) -> str:
    """The secret in the link: 128 random bits, kept in the CSV's folder, readable by its owner only.

    Raises:
        DataError: the file cannot be read or written, or holds something else.
    """
    path = out.with_name(f"{out.stem}.token")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with replacing(path) as tmp_path:
                tmp_path.touch()
                tmp_path.chmod(0o600)  # before there is anything in it
                tmp_path.write_text(secrets.token_urlsafe(16) + "\n", encoding="ascii")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be used: {first_line(error)}") from error
    if len(token) < 16 or not token.replace("-", "").replace("_", "").isalnum():
        raise DataError(f"{path} holds no token of 16 letters or more; remove it, and a new one is made.")
    return token


def write_files(
    out: Path,
    items: Mapping[str, Item],
    answers: Sequence[Action],
    flagged: Mapping[str, Sequence[str]],
    *,
    pairs: bool,
) -> None:
    """Put new CSV files in the place of the old ones.

    Args:
        answers: those that count, in the order of the rows.
        flagged: items, and who flagged them.

    Raises:
        DataError: they cannot be written; the old ones are still there.
    """
    if pairs:
        replace_csv(out, PAIR_COLUMNS, _pairs(items, answers))
    else:
        rows = ((items[a.item].prompt, items[a.item].responses[0], a.value, a.rater, a.item) for a in answers)
        replace_csv(out, RATING_COLUMNS, rows)
    flags = [
        (items[item].prompt, response, rater, item)
        for item, raters in flagged.items()
        for response in items[item].responses
        for rater in raters
    ]
    if flags or flagged_of(out).exists():
        replace_csv(flagged_of(out), FLAGGED_COLUMNS, flags)


def _pairs(items: Mapping[str, Item], answers: Sequence[Action]) -> Iterator[tuple[Any, ...]]:
    for answer in answers:
        if answer.value != "tie":
            first, second = items[answer.item].responses
            chosen, rejected = (first, second) if answer.value == "first" else (second, first)
            yield items[answer.item].prompt, chosen, rejected, answer.rater, answer.item
