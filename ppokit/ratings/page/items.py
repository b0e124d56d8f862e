"""What is to be rated: responses, or pairs of them, from runs' folders and from files.

In pairs, each response of a prompt stands in one pair at most, and with several sources the two of a pair
come from different ones, so that raters compare models without knowing which is which.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ppokit.data.formats import BadRow, Table
from ppokit.data.tables import OnBadRow, read_table
from ppokit.errors import DataError, first_line
from ppokit.ratings.layout import digest
from ppokit.ratings.records import RatingColumns
from ppokit.ratings.table import table_of

_UNRATED = "(no rating is read)"  # stands in for the rating column, which a file to be rated need not have


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to rate.

    Attributes:
        id: a digest of the texts: the one that `read_ratings` gives them, the same in every file.
        responses: one text, or the two of a pair in sorted order.
        sources: where each response comes from; raters never see it.
    """

    id: str
    prompt: str
    responses: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass
class Source:
    """What one run or file holds.

    Attributes:
        responses: prompt, response and where it comes from.
        pairs: prompt, chosen and rejected, of a file of pairs; its responses are not among `responses`.
        notes: how it was read, for a person.
    """

    name: str
    responses: list[tuple[str, str]] = field(default_factory=list)
    pairs: list[tuple[str, str, str]] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_source(
    path: str | Path,
    columns: RatingColumns | None = None,
    *,
    last: int | None = None,
    on_bad_row: OnBadRow = "fail",
) -> Source:
    """Read a run's folder or a file.

    Args:
        path: a run's folder, of which all of `rollouts/` is read; or a file as in `read_ratings`, with the
            columns prompt and response, or prompt, chosen and rejected. Ratings in it are not read.
        columns: which column of a file holds what.
        last: of a run, only this many of its last steps.
        on_bad_row: as in `read_ratings`.

    Raises:
        DataError: it is neither, or has nothing to rate.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _run(folder, str(path), last)
    if last is not None:
        raise DataError(f"--last takes the last steps of a run, but {path} is no run's folder.")
    return _file(str(path), columns or RatingColumns(), on_bad_row)


def _run(folder: Path, name: str, last: int | None) -> Source:
    import pyarrow
    from pyarrow import parquet

    steps = sorted((folder / "rollouts").glob("step-*.parquet"))
    if not steps:
        raise DataError(
            f"{name} holds no rollouts/step-*.parquet; expected the folder of a run that has done a step."
        )
    source = Source(name)
    for step in steps[-last:] if last is not None else steps:
        try:
            table = parquet.read_table(step, columns=["prompt", "response"])
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{step} cannot be read: {first_line(error)}") from error
        source.responses += zip(*(column.to_pylist() for column in table.columns), strict=True)
    return source


def _file(name: str, columns: RatingColumns, on_bad_row: OnBadRow) -> Source:
    pair = {"prompt": columns.prompt, "chosen": columns.chosen, "rejected": columns.rejected}
    single = {"prompt": columns.prompt, "response": columns.response}
    source = read_table(name, {*pair.values(), *single.values()})
    holds_pairs = columns.response not in source.header and set(pair.values()) <= set(source.header)
    wanted = pair if holds_pairs else single
    for what, column in wanted.items():
        source.index(column, f"Say which holds the {what}: --column {what}=NAME.")
    notes = source.notes  # not what `table_of` adds of a column `item`, which is not used here
    if not holds_pairs:
        unrated = [(number, [*cells, 0]) for number, cells in source.rows]
        source = Table(name, (*source.header, _UNRATED), unrated, source.bad)
    table = table_of(
        source, RatingColumns.model_validate({**wanted, "rating": _UNRATED}), on_bad_row=on_bad_row
    )
    return Source(
        name,
        [(r.prompt, r.response) for r in table.ratings],
        [(p.prompt, p.chosen, p.rejected) for p in table.pairs],
        table.bad_rows,
        notes,
    )


def single_items(sources: Sequence[Source]) -> list[Item]:
    """Each different response once, also those of pairs."""
    sources_of: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for source in sources:
        for prompt, response in source.responses:
            sources_of[prompt, response][source.name] = None
        for prompt, *both in source.pairs:
            for response, what in zip(both, ("chosen", "rejected"), strict=True):
                sources_of[prompt, response][f"{source.name}: {what}"] = None
    return [
        Item(digest(prompt, response), prompt, (response,), (", ".join(names),))
        for (prompt, response), names in sources_of.items()
    ]


def pair_items(sources: Sequence[Source], seed: int) -> tuple[list[Item], list[str]]:
    """Pairs of different responses to one prompt, and notes about those left over.

    A file's own pairs are taken as they are. Other responses are paired at random, by the seed.
    """
    items: dict[str, Item] = {}
    by_prompt: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for source in sources:
        for prompt, chosen, rejected in source.pairs:
            _add(items, prompt, (chosen, f"{source.name}: chosen"), (rejected, f"{source.name}: rejected"))
        for prompt, response in source.responses:
            by_prompt[prompt][source.name][response] = None
    several = sum(bool(source.responses) for source in sources) > 1
    alone = 0
    for prompt, by_source in by_prompt.items():
        before = len(items)
        for first, second in _matched(by_source, several, random.Random(f"{seed} {prompt}")):
            _add(items, prompt, first, second)
        alone += len(items) == before
    what = "responses of one source only" if several else "one response only"
    notes = [f"prompts that make no pair, as they have {what}: {alone:,}"] if alone else []
    return list(items.values()), notes


def _matched(
    by_source: dict[str, dict[str, None]], several: bool, generator: random.Random
) -> Iterable[tuple[tuple[str, str], tuple[str, str]]]:
    left = {name: [(text, name) for text in texts] for name, texts in by_source.items()}
    for texts in left.values():
        generator.shuffle(texts)
    if not several:
        texts = [text for remaining in left.values() for text in remaining]
        yield from zip(texts[::2], texts[1::2], strict=False)
        return
    while True:
        # From the two sources with the most left; equal ones in random order.
        fullest = sorted(left.values(), key=lambda remaining: (-len(remaining), generator.random()))[:2]
        if len(fullest) < 2 or not fullest[1]:
            return
        yield fullest[0].pop(), fullest[1].pop()


def _add(items: dict[str, Item], prompt: str, *both: tuple[str, str]) -> None:
    (first, one), (second, other) = sorted(both)
    if first != second:
        item = Item(digest(prompt, first, second), prompt, (first, second), (one, other))
        items.setdefault(item.id, item)
