"""Checkpoints: written beside and renamed, so that one either is whole or is not there.

A folder `checkpoints/step-000010` holds `weights.safetensors` (fp32 master_weights and AdamW's moments) and
`state.json`. Randomness has no state: it follows from the seed and the step.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ppokit.errors import RunFolderError
from ppokit.training.optimizer import MasterWeights

_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class TrainState:
    """What a run needs, beside its weights, to go on: steps done, and the state of components."""

    step: int
    components: dict[str, Any]


def save_checkpoint(folder: Path, master_weights: MasterWeights, state: TrainState, keep: int) -> Path:
    """Write `folder/step-...` and drop all but the newest `keep`."""
    from safetensors.torch import save_file

    target = folder / f"step-{state.step:06d}"
    beside = folder / f".writing-{target.name}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in master_weights.state().items()}
    try:
        save_file(tensors, str(beside / "weights.safetensors"))
        (beside / "state.json").write_text(json.dumps({"step": state.step, "components": state.components}))
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # on a full disk it would keep it full
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def load_checkpoint(path: Path, master_weights: MasterWeights) -> TrainState:
    """Put a checkpoint's weights and moments into the master_weights; return the rest.

    Raises:
        RunFolderError: it is damaged, or of another model or another adapter.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(str(path / "weights.safetensors"))
        state = json.loads((path / "state.json").read_text())
        master_weights.load_state(tensors)
        return TrainState(int(state["step"]), dict(state["components"]))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise RunFolderError(
            f"checkpoint {path} cannot be resumed from: {type(error).__name__}: {error}. It may be of "
            "another model or other adapters than the recipe has now: take back what was changed. If the "
            "folder is damaged, delete this checkpoint to go back to the one before it."
        ) from error
