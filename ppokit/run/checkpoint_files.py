"""Checkpoints: written under another name and renamed, so that one is either whole or not there.

A folder `checkpoints/step-000010` holds `weights.safetensors` (fp32 master weights and AdamW's moments),
`state.json`, and `state.safetensors` where a component's state has tensors. Randomness has no state: it
follows from the seed and the step.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ppokit.data.atomic import replacing_folder
from ppokit.errors import RunFolderError
from ppokit.run.component_state import decode

_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class TrainState:
    """What a run needs to go on, apart from its weights.

    Attributes:
        step: the step that was done last.
        components: the encoded state of each component, by its key.
        tensors: those within the components' states.
    """

    step: int
    components: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(folder: Path, weights: Mapping[str, Tensor], state: TrainState, keep: int) -> Path:
    """Write `folder/step-...` and drop all but the newest `keep`."""
    from safetensors.torch import save_file

    target = folder / f"step-{state.step:06d}"
    with replacing_folder(target) as tmp_path:
        cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(cpu, str(tmp_path / "weights.safetensors"))
        if state.tensors:
            save_file(state.tensors, str(tmp_path / "state.safetensors"))
        content = {"step": state.step, "components": state.components}
        (tmp_path / "state.json").write_text(json.dumps(content), encoding="utf-8")
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    checkpoints = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(checkpoints, key=lambda path: int(path.name.removeprefix("step-")))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], int, dict[str, Any]]:
    """A checkpoint's weights, step, and the decoded state of each component.

    Raises:
        RunFolderError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(str(path / "weights.safetensors"))
        content = json.loads((path / "state.json").read_text(encoding="utf-8"))
        file = path / "state.safetensors"
        tensors = load_file(str(file)) if file.exists() else {}
        components = {key: decode(state, tensors) for key, state in content["components"].items()}
        return weights, int(content["step"]), components
    except (OSError, KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> RunFolderError:
    """That a checkpoint cannot be resumed from, and what to do."""
    return RunFolderError(
        f"checkpoint {path} cannot be resumed from: {type(error).__name__}: {error}. It may be of "
        "another model or other adapters than the recipe has now: take back what was changed. If the "
        "folder is damaged, delete this checkpoint to go back to the one before it."
    )
