"""What a run leaves behind: its folder.

recipe.yaml  provenance.json  metrics.jsonl  warnings.jsonl  rollouts/  checkpoints/  policy/  policy-best/
reward.png  report.html  end.json
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.data.atomic import replacing, replacing_folder, write_text
from ppokit.errors import RunFolderError, end_if_forked, first_line
from ppokit.plugin.types import Advantages, Rewards, Rollout
from ppokit.run.checkpoint_files import list_checkpoints
from ppokit.run.evaluation_table import evaluation_table
from ppokit.run.plot import plot_run
from ppokit.run.sample_columns import sample_table

if TYPE_CHECKING:
    from ppokit.plugin.evaluating import Recorded
    from ppokit.training.token_record import TokenRecord


class RunDir:
    """The folder of one run; nothing is written before `open`.

    A process that a plugin has forked may not write: it would write everything twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics_file = folder / "metrics.jsonl"
        self.warnings_file = folder / "warnings.jsonl"
        self.end_file = folder / "end.json"
        self.plot_file = folder / "reward.png"
        self.policy_folder = folder / "policy"
        self.opened = self._is_resumed = False
        self._begin: Callable[[], None] | None = None
        self._pid = os.getpid()

    def starting_point(self, *, resume: bool) -> Path | None:
        """The newest checkpoint, to resume from; None for a new run, which may live here.

        Raises:
            RunFolderError: there is no checkpoint, or the folder cannot be a new run's.
        """
        if not resume:
            self.check_new(self.folder)
            return None
        checkpoints = list_checkpoints(self.folder / "checkpoints")
        if not checkpoints:
            raise RunFolderError(f"--resume: {self.folder} has no checkpoint to go on from.")
        return checkpoints[-1]

    @staticmethod
    def check_new(folder: Path) -> None:
        """That a new run may live here; changes nothing.

        Raises:
            RunFolderError: it is a file, not empty, or cannot be written.
        """
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"run.out: {folder} is a file; expected a new or an empty folder.")
        if folder.is_dir() and any(folder.iterdir()):
            started = any(folder.glob("checkpoints/step-*"))
            raise RunFolderError(
                f"run.out: {folder} is not empty. "
                + (
                    f"Go on with that run by `ppokit train --resume {folder}`, or choose"
                    if started
                    else "Choose"
                )
                + " another folder, for instance by adding run.out=runs/another to the command."
            )
        parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if not os.access(parent, os.W_OK) or not parent.is_dir():
            raise RunFolderError(f"run.out: {folder} cannot be created: {parent} is not a writable folder.")

    def begin(self, recipe_yaml: str, provenance: Mapping[str, Any]) -> None:
        """Set up what a new run's folder begins with."""

        def write() -> None:
            (self.folder / "rollouts").mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "recipe.yaml", recipe_yaml)
            write_text(self.folder / "provenance.json", json.dumps(provenance, indent=2) + "\n")
            self.metrics_file.touch()

        self._begin = write

    def resume(self, step: int, recipe_yaml: str) -> None:
        """Set up that what follows a step is dropped: a resumed run writes it again, by this recipe.

        Samples and numbers that someone has removed stay away.
        """

        def write() -> None:
            (self.folder / "rollouts").mkdir(exist_ok=True)
            self.metrics_file.touch()
            write_text(self.folder / "recipe.yaml", recipe_yaml)
            for path in (self.metrics_file, self.warnings_file):
                if path.exists():
                    kept = [line for line in _lines_of(path) if line["step"] <= step]
                    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
            for kind in ("rollouts", "evaluation"):
                for path in (self.folder / kind).glob("step-*.parquet"):
                    if int(path.stem.removeprefix("step-")) > step:
                        path.unlink()

        self._begin, self._is_resumed = write, True

    def start(self) -> None:
        """Forget how a resumed run ended, as its first phase begins; a new run has nothing to forget."""
        if self._is_resumed:
            with self.writing():
                self.end_file.unlink(missing_ok=True)
                self.metrics_file.touch()  # its time says when the run was last seen going

    def end(self, step: int, stopped_by: str | None, error: str | None) -> None:
        """Write how the run ended, where it has a folder.

        Args:
            step: that was done last.
            stopped_by: the name of a signal, if one came.
            error: what ended the run early, otherwise.
        """
        if self.opened or self._is_resumed:
            content = {"step": step, "stopped_by": stopped_by, "error": error}
            with self.writing():
                write_text(self.end_file, json.dumps(content) + "\n")

    def open(self) -> None:
        """Make the folder, or clear what a resumed run writes again; the first time only."""
        if not self.opened:
            assert self._begin is not None, "begin or resume comes first"
            with self.writing():
                self._begin()
            self.opened = True

    def read_metrics(self) -> list[dict[str, Any]]:
        """One mapping per step; an incomplete last line, as a kill leaves it, is skipped."""
        return _lines_of(self.metrics_file)

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a step's numbers; one that is not finite becomes null, as JSON knows none."""
        record: dict[str, Any] = {"step": step}
        record.update({k: (v if math.isfinite(v) else None) for k, v in metrics.items()})
        with self.writing(), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def add_warning(self, step: int, text: str) -> None:
        """Append what the run warned of, for its page."""
        self.open()
        with self.writing(), self.warnings_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "text": text}) + "\n")

    def add_rollout(
        self,
        step: int,
        rollout: Rollout,
        rewards: Rewards | None,
        advantages: Advantages | None,
        record: TokenRecord | None = None,
    ) -> None:
        """Every sample of a step as `rollouts/step-000001.parquet`, with what is known where it failed."""
        import pyarrow.parquet as pq

        table = sample_table(rollout, rewards, advantages, record)
        with self.writing(), replacing(self.folder / "rollouts" / f"step-{step:06d}.parquet") as tmp_path:
            pq.write_table(table, tmp_path)

    def add_evaluation(self, step: int, records: Sequence[Recorded]) -> None:
        """Every response of `Result.records`, as `evaluation/step-000010.parquet`."""
        import pyarrow.parquet as pq

        if not records:
            return
        self.open()
        folder = self.folder / "evaluation"
        with self.writing():
            folder.mkdir(exist_ok=True)
            with replacing(folder / f"step-{step:06d}.parquet") as tmp_path:
                pq.write_table(evaluation_table(records), tmp_path)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Report what goes wrong in writing, as on a full disk, in words.

        Raises:
            RunFolderError: something could not be written.
        """
        end_if_forked(self._pid, "the run")
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"run.out: {self.folder} cannot be written: {first_line(error)}") from error

    def replace_policy(self, save: Callable[[Path], None]) -> None:
        """Write the policy anew; `save` writes it into a folder."""
        with replacing_folder(self.policy_folder) as tmp_path:
            save(tmp_path)

    def keep_best(self, save: Callable[[Path], None], step: int, value: float | None) -> None:
        """Write the best policy so far into `policy-best`, with its step and value in `best.json`."""
        self.open()
        with self.writing(), replacing_folder(self.folder / "policy-best") as tmp_path:
            save(tmp_path)
            write_text(tmp_path / "best.json", json.dumps({"step": step, "value": value}) + "\n")

    def plot(self) -> None:
        """Draw reward and KL by step as reward.png."""
        with replacing(self.plot_file) as tmp_path:
            plot_run(self.read_metrics(), self.folder.name, tmp_path)

    def longest_text(self) -> int | None:
        """Tokens of the longest prompt and its response; None where the run does not say."""
        length = self._provenance().get("longest_text")
        return length if isinstance(length, int) else None

    def _provenance(self) -> dict[str, Any]:
        try:
            content = json.loads((self.folder / "provenance.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def began_with(self, name: str, digest: str) -> bool:
        """Whether the run's data of this name in provenance.json have this SHA-256, or are not known."""
        try:
            return bool(self._provenance()["hashes"][name] == digest)
        except (KeyError, TypeError):
            return True  # the file was removed, or is of another version


def _lines_of(path: Path) -> list[dict[str, Any]]:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
