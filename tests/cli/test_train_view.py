"""What the terminal shows of a run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ppokit.cli.train_view import Display


@pytest.mark.parametrize("kept", [True, False])
def test_the_summary_names_the_best_policy_where_one_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    if kept:
        (tmp_path / "policy-best").mkdir()
        (tmp_path / "policy-best" / "best.json").write_text(json.dumps({"step": 20, "value": 0.75}))
    evaluation = SimpleNamespace(best="eval/rewards/mean")
    trainer: Any = SimpleNamespace(step=30, settings=SimpleNamespace(evaluation=evaluation))
    display = Display(steps=30, sample_every=0)
    display._folder = tmp_path
    display.summarize(trainer)
    lines = capsys.readouterr().out.splitlines()
    assert f"policy   {tmp_path / 'policy'}" in lines
    best = f"best     {tmp_path / 'policy-best'} (step 20, eval/rewards/mean 0.750)"
    assert (best in lines) == kept
