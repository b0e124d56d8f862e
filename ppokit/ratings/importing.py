"""Files that other tools and public collections write, as tables of ratings or pairs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ppokit.data.formats import BadRow, Table
from ppokit.data.tables import OnBadRow, read_table
from ppokit.errors import DataError
from ppokit.messages import listed
from ppokit.ratings.annotation_forms import MechanicalTurk, Prodigy
from ppokit.ratings.collection_forms import Arena, HelpfulHarmless, OpenAssistant, UltraFeedback
from ppokit.ratings.exporting import FIELDS
from ppokit.ratings.form import Form
from ppokit.ratings.names import Source
from ppokit.ratings.records import RatingColumns, RatingTable
from ppokit.ratings.table import table_of
from ppokit.ratings.tool_forms import Argilla, LabelStudio
from ppokit.ratings.writing import PAIR_COLUMNS, RATING_COLUMNS

FORMS: dict[Source, type[Form]] = {
    "argilla": Argilla,
    "label_studio": LabelStudio,
    "mturk": MechanicalTurk,
    "prodigy": Prodigy,
    "arena": Arena,
    "hh": HelpfulHarmless,
    "ultrafeedback": UltraFeedback,
    "openassistant": OpenAssistant,
}


def import_table(
    path: str | Path, form: Source, columns: RatingColumns | None = None, *, on_bad_row: OnBadRow = "fail"
) -> RatingTable:
    """Read a file that another tool wrote.

    Args:
        form: who wrote it; its module says what is read.
        columns: `rating` names the question, tag or score, `prompt` and `response` the fields or columns;
            `rater` and `item` other columns than the form's own.

    Raises:
        DataError: as in `read_ratings`; or the file has another form, or no row has an answer.
    """
    columns = columns or RatingColumns()
    table = read_table(path, {columns.prompt, columns.response, *FIELDS["pairs"]})
    reader = FORMS[form](table, columns)
    rows: list[tuple[int, list[Any]]] = []
    bad = list(table.bad)
    notes = list(table.notes)
    left_out: Counter[str] = Counter()
    for number, records in reader.rows(table, left_out):
        if isinstance(records, str):
            bad.append(BadRow(number, records))
        else:
            rows += [(number, record) for record in records]
    left_out = +left_out
    if left_out:
        notes.append(f"left out: {listed(f'{what} ({count:,})' for what, count in left_out.items())}")
    if not rows and not bad:
        raise DataError(f"{path} has no answer to {reader.question!r}{'; ' + notes[-1] if left_out else ''}")
    header = PAIR_COLUMNS if reader.pairs else RATING_COLUMNS
    imported = Table(str(path), header, rows, bad, notes=notes)
    return table_of(imported, RatingColumns(item="item"), on_bad_row=on_bad_row)
