"""Writes a run's page when the run writes a checkpoint, and at its end.

It is an observer like any other: it hears of the run by its events, and what fails in it ends no run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ppokit.plugin.hookspecs import hookimpl
from ppokit.report.run_data import is_run
from ppokit.report.tokens import texts_of
from ppokit.report.write_report import write_report
from ppokit.run.components import RunComponent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ppokit.build import TrainerComponents
    from ppokit.config.recipe import Recipe

FILE = "report.html"


class ReportWriter:
    """Writes `report.html` into the run's folder.

    Args:
        folder: the run's.
        tokenizer: the policy's.
    """

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.folder = folder
        self._texts = texts_of(tokenizer)
        self._is_due = False

    @hookimpl
    def on_step(self) -> None:
        self._is_due = True

    @hookimpl
    def on_checkpoint(self) -> None:
        self._write()

    @hookimpl
    def on_run_end(self, error: str | None) -> None:
        # What ended it early stands on the page; without a folder there is nothing to show.
        if self._is_due or (error is not None and is_run(self.folder)):
            self._write()

    def _write(self) -> None:
        write_report([self.folder], self.folder / FILE, [self._texts])
        self._is_due = False


def report_writer(recipe: Recipe, folder: Path, parts: TrainerComponents) -> list[RunComponent]:
    """The writer of a run's page, on the main process, unless the recipe wants none."""
    if not parts.processes.is_main or not recipe.settings.run.report:
        return []
    writer = ReportWriter(folder, parts.tokenizer)
    return [RunComponent("observers/report", "the run's page (run.report)", writer, on_error="warn")]
