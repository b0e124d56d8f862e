"""docs/founding-examples.md prints what it says: its Python blocks are run in order."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "founding-examples.md"
MODEL_HEADING = "## The policy, `fit` and `predict`"  # from here on, a model is needed
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def run_blocks(text: str, namespace: dict[str, Any]) -> int:
    """Run each Python block and compare what it prints with the text block after it."""
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```python")
    for code, expected in blocks:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), namespace)
        assert printed.getvalue() == expected, f"{PAGE.name}, the block\n{code}"
    return len(blocks)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that can be imported from, as a user's is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    return tmp_path


def test_the_formulas_print_what_the_page_says(folder: Path) -> None:
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(MODEL_HEADING)
    assert run_blocks(before, {}) == 8


@pytest.mark.slow
def test_fit_and_predict_print_what_the_page_says(folder: Path, tiny_model: Path) -> None:
    (folder / "my-model").symlink_to(tiny_model)
    (folder / "recipes").symlink_to(REPOSITORY / "recipes")
    before, heading, after = PAGE.read_text(encoding="utf-8").partition(MODEL_HEADING)
    assert heading
    namespace: dict[str, Any] = {}
    run_blocks(before, namespace)
    assert run_blocks(after, namespace) == 3


def test_a_block_that_prints_something_else_is_noticed() -> None:
    with pytest.raises(AssertionError, match="the block"):
        run_blocks("```python\nprint(1)\n```\n\n```text\n2\n```\n", {})
    with pytest.raises(AssertionError, match="the block"):
        run_blocks("```python\nprint(1)\n```\n", {})
