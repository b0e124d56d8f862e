"""The tests marked `gpu`: on a card where there is one, else the same code on the CPU, so that none rots."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Figure = Callable[[str, Any], None]


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture
def figure() -> Figure:
    """Write down a number under a name: a JSON line in the file that PPOKIT_GPU_FIGURES names."""

    def write(name: str, value: Any) -> None:
        file = os.environ.get("PPOKIT_GPU_FIGURES")
        if file is not None:
            with Path(file).open("a") as lines:
                lines.write(json.dumps({name: value}) + "\n")

    return write
