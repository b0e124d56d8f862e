"""Pages on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ppokit.data.atomic import write_text
from ppokit.errors import RunFolderError, first_line
from ppokit.report.page import report_page
from ppokit.report.run_data import RunData, read_run
from ppokit.report.tokens import TokenTexts


def write_report(
    folders: Sequence[Path], target: Path, texts: Sequence[TokenTexts | None] = ()
) -> list[RunData]:
    """Read runs and write their page.

    Args:
        texts: what each run's tokens look like; by its own saved tokenizer, unless given.

    Returns: the runs, with what is missing of them.

    Raises:
        DataError: one is not the folder of a run.
        RunFolderError: the page cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    page = report_page(runs, texts)
    try:
        write_text(target, page)
    except OSError as error:
        raise RunFolderError(f"{target} cannot be written: {first_line(error)}") from error
    return runs
