"""What every test may use. Tests never reach a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The test models are tiny: a second thread waits for the first more than it helps.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, then those that train: else one process ends with them alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent.name != "recipes"))


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """Folder of a trained causal LM of 260,000 parameters."""
    folder = REPOSITORY.parent / "shared" / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("../shared/models/stories260K is missing")
    return folder
