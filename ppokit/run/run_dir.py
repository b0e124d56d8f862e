"""What a run leaves behind: its folder.

recipe.yaml  provenance.json  metrics.jsonl  rollouts/  checkpoints/  policy/  reward.png
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor

from ppokit.errors import RunFolderError, first_line
from ppokit.plugin.kl_estimators import kl
from ppokit.plugin.types import Advantages, Rewards, Rollout

_PACKAGES = ("ppokit", "torch", "transformers", "accelerate", "peft", "datasets", "pluggy", "pydantic")


class RunDir:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics_file = folder / "metrics.jsonl"
        self.plot_file = folder / "reward.png"

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

    def open_new(self, recipe_yaml: str, provenance: Mapping[str, Any]) -> None:
        """Create the folder with what is known before the first step."""
        with self.writing():
            (self.folder / "rollouts").mkdir(parents=True, exist_ok=True)
            (self.folder / "recipe.yaml").write_text(recipe_yaml, encoding="utf-8")
            self._write_json("provenance.json", provenance)
            self.metrics_file.touch()

    def reopen(self, step: int, recipe_yaml: str) -> None:
        """Forget what came after a step: a resumed run writes it again, by this recipe.

        Samples and numbers that someone has removed stay away.
        """
        with self.writing():
            (self.folder / "rollouts").mkdir(exist_ok=True)
            self.metrics_file.touch()
            (self.folder / "recipe.yaml").write_text(recipe_yaml, encoding="utf-8")
            kept = [line for line in self.read_metrics() if line["step"] <= step]
            beside = self.metrics_file.with_suffix(".writing")
            beside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            beside.replace(self.metrics_file)
            for path in (self.folder / "rollouts").glob("step-*.parquet"):
                if int(path.stem.removeprefix("step-")) > step:
                    path.unlink()

    def read_metrics(self) -> list[dict[str, Any]]:
        """One mapping per step; a last line that a kill cut short is left out."""
        lines = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return lines

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a step's numbers; one that is not finite becomes null, as JSON knows none."""
        record: dict[str, Any] = {"step": step}
        record.update({k: (v if math.isfinite(v) else None) for k, v in metrics.items()})
        with self.writing(), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def add_rollout(
        self, step: int, rollout: Rollout, rewards: Rewards | None, advantages: Advantages
    ) -> None:
        """Every sample of a step as `rollouts/step-000001.parquet`; one that failed has no rewards."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        mask = rollout.response_mask

        def ragged(numbers: Tensor | None) -> list[list[float]] | None:
            if numbers is None:
                return None
            return [row[real].tolist() for row, real in zip(numbers, mask, strict=True)]

        kl_tokens = None
        if rollout.old_logprobs is not None and rollout.ref_logprobs is not None:
            kl_tokens = kl(rollout.old_logprobs, rollout.ref_logprobs, estimator="k1")
        columns: dict[str, Any] = {
            "id": rollout.ids,
            "group": rollout.group_ids.tolist(),
            "prompt": rollout.prompts,
            "response": rollout.responses,
            "row": [json.dumps(dict(row), default=str) for row in rollout.rows],
            "outcome": rollout.outcomes,
            "policy_version": rollout.policy_version.tolist(),
            "prompt_ids": rollout.prompt_ids,
            "response_ids": ragged(rollout.response_ids),
            "loss_mask": ragged(rollout.loss_mask),
            "sampler_logprobs": ragged(rollout.sampler_logprobs),
            "kl/k1": ragged(kl_tokens),
            "advantages": ragged(advantages.advantages),
        }
        if rewards is not None:
            columns["score"] = rewards.scores.tolist()
            columns["scored"] = rewards.scored.tolist()
            trained = rewards.trained if advantages.trained is None else advantages.trained
            columns["trained"] = trained.tolist()
            columns["token_rewards"] = ragged(rewards.token_rewards)
            for name, scores in rewards.breakdown.items():
                columns[f"reward/{name}"] = scores.tolist()
                columns[f"outcome/{name}"] = list(rewards.outcomes[name])
        table = pa.table({name: column for name, column in columns.items() if column is not None})
        target = self.folder / "rollouts" / f"step-{step:06d}.parquet"
        beside = target.with_suffix(".writing")
        with self.writing():
            pq.write_table(table, beside)
            beside.replace(target)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What goes wrong in writing, as on a full disk, in words.

        Raises:
            RunFolderError: something could not be written.
        """
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"run.out: {self.folder} cannot be written: {first_line(error)}") from error

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A folder to write `name` into, which then takes the place of the run's own."""
        beside = self.folder / f".writing-{name}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        try:
            yield beside
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (beside / name).rename(self.folder / name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def plot(self) -> Path:
        """Draw reward and KL by step as reward.png."""
        import matplotlib

        matplotlib.use("agg")
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        lines = self.read_metrics()
        steps = [line["step"] for line in lines]

        def series(name: str) -> list[float]:
            return [math.nan if line.get(name) is None else line[name] for line in lines]

        kl_name = next((f"kl/{e}" for e in ("k1", "k3") if any(f"kl/{e}" in line for line in lines)), None)
        figure = Figure(figsize=(7, 5 if kl_name else 3.4), layout="constrained", dpi=150)
        axes = figure.subplots(
            2 if kl_name else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1][: 2 if kl_name else 1]
        )[:, 0]
        axes[0].plot(steps, series("reward/mean"), marker="o", markersize=3, color="#1f6f8b")
        axes[0].set_ylabel("mean reward")
        axes[0].set_title(self.folder.name, loc="left", fontsize=10)
        if kl_name:
            axes[1].plot(steps, series(kl_name), marker="o", markersize=3, color="#b5562b")
            axes[1].set_ylabel(f"KL from reference\n({kl_name[3:]}, nats per token)")
        for axis in axes:
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        axes[-1].set_xlabel("step")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.savefig(self.plot_file)
        return self.plot_file

    def hashes(self) -> dict[str, str]:
        """Of what the run began with; none where nobody wrote them down."""
        try:
            found = json.loads((self.folder / "provenance.json").read_text(encoding="utf-8"))
            return dict(found["hashes"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def provenance(plugins: Mapping[str, str], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run comes from: versions, plugins, machine."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed as a package"
    with suppress(PackageNotFoundError):  # of an extra: it computes a base in 4 bits
        versions["bitsandbytes"] = version("bitsandbytes")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": versions,
        "plugins": dict(plugins),
        "machine": {"system": platform.platform(), "cpu": platform.processor(), "cores": os.cpu_count()},
        **extra,
    }
