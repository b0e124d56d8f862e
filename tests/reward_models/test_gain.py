"""What a run has gained: by hand, by identities, and on which prompts it is measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ppokit.cli.gain_view import agreement, gain_sections
from ppokit.errors import DataError
from ppokit.ratings.agreement import Estimate
from ppokit.reward_models import quality as measures
from ppokit.reward_models.gain import Gain, Side, _fitted_to, _side, _two_halves, held_out_prompts

PROMPTS = [f"p{i}" for i in range(40)]


def test_a_gain_by_hand() -> None:
    """Two prompts, two responses each: they gain 1 and 2; the deviation of 0, 2, 1, 1 is sqrt(2 / 3)."""
    before, after = np.array([0.0, 2, 1, 1]), np.array([1.0, 3, 4, 2])
    side, differences = _side("m", before, after, ["p", "q"], 0)
    std = (2 / 3) ** 0.5
    assert (side.before, side.after, side.std) == pytest.approx((1, 2.5, std))
    assert differences == pytest.approx([1 / std, 2 / std])
    assert side.gain.value == pytest.approx(1.5 / std)
    assert side.gain.low is None, "two prompts tell nothing of others"


def test_a_models_scale_and_zero_do_not_matter() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.normal(size=80), generator.normal(0.3, 1, size=80)
    one, _ = _side("m", before, after, PROMPTS, 0)
    other, _ = _side("m", 7 - 3 * -before, 7 + 3 * after, PROMPTS, 0)
    assert other.gain.value == pytest.approx(one.gain.value)
    assert other.gain.low == pytest.approx(one.gain.low)


def test_a_model_that_tells_nothing_apart_is_refused() -> None:
    with pytest.raises(DataError, match="m gives every response the same score"):
        _side("m", np.ones(4), np.array([1.0, 2, 3, 4]), ["p", "q"], 0)


def test_the_share_that_is_agreed_on() -> None:
    """Half of it on every prompt, whichever prompts are drawn; the means' ratio, not the ratios' mean."""
    gains = np.linspace(0.5, 2, 40)
    result = measures.ratio(gains / 2, gains, PROMPTS, seed=0)
    assert (result.value, result.low, result.high) == pytest.approx((0.5, 0.5, 0.5))
    assert measures.ratio(np.array([1.0, 1]), np.array([1.0, 3]), ["p", "q"], seed=0).value == 0.5


def test_the_interval_is_that_of_a_mean() -> None:
    """Standard error 1 / sqrt(n) where the deviation is 1: 1.96 of them on either side."""
    numbers = np.random.default_rng(1).normal(size=400)
    numbers = (numbers - numbers.mean()) / numbers.std()
    result = measures.mean(numbers, [str(i) for i in range(400)], seed=0)
    assert result.value == pytest.approx(0, abs=1e-12)
    assert (result.low, result.high) == pytest.approx((-1.96 / 20, 1.96 / 20), abs=0.012)


def recipe(path: Path) -> Any:
    path.write_text('{"question": "Who are you?"}\n{"question": "And I?"}\n')
    settings = SimpleNamespace(path=str(path), column="question", split=None, chat=False)
    return SimpleNamespace(settings=SimpleNamespace(prompts=settings))


def test_what_the_run_was_trained_on_is_left_out(tmp_path: Path) -> None:
    """Whatever its case and blanks; a prompt that stands twice is asked once."""
    held_out = tmp_path / "held_out.jsonl"
    asked = ["who are  YOU?", "New?", "New?", "", "Newer?", "Newest?"]
    held_out.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
    run = recipe(tmp_path / "prompts.jsonl")
    prompts, notes = held_out_prompts(run, str(held_out), "prompt")
    assert prompts == ["New?", "Newer?", "Newest?"]
    assert notes == ["prompts left out, since the run was trained on them: 1"]
    assert held_out_prompts(run, str(held_out), "prompt", 2)[0] == ["New?", "Newer?"]
    with pytest.raises(DataError, match="has no column 'promt'; it has 'prompt'"):
        held_out_prompts(run, str(held_out), "promt")
    held_out.write_text('{"prompt": "And I?"}\n{"prompt": "New?"}\n')
    with pytest.raises(DataError, match="trained on 1 of its 2 prompts"):
        held_out_prompts(run, str(held_out), "prompt")


def gain_of(low: float | None, agreed: Estimate | None) -> Gain:
    first = Side("a", 0.0, 0.5, 0.5, Estimate(1.0, low, 2.0))
    return Gain("run", 40, 4, first, replace(first, model="b\x1b[31m"), agreed, 0.01, 0.2, 20, 21, ["a note"])


def test_what_a_person_is_told() -> None:
    gain = gain_of(0.5, Estimate(0.62, 0.41, 0.8))
    assert agreement(gain) == "The gold reward model agrees with 62 % of the gain (41 to 80 %)."
    assert "not certainly gained" in agreement(gain_of(-0.1, None))
    overview, sides, moved = gain_sections(gain)
    assert ("note", "a note") in overview.rows
    assert sides.rows[0] == ("reward: a", "0.000", "0.500", "+1.000", "0.500 to 2.000")
    assert "\x1b" not in sides.rows[1][0], "a folder's name may be anything"
    assert ("KL, nats per response", "0.200") in moved.rows


@pytest.mark.parametrize(
    ("one", "other", "independent"),
    [
        (("r.csv", "a"), ("r.csv", "b"), True),
        (("r.csv", "a"), ("r.csv", "a"), False),
        (("r.csv", "a"), ("s.csv", "b"), False),
        (("r.csv", None), ("r.csv", "b"), False),
        (None, ("r.csv", "b"), False),
    ],
)
def test_only_the_halves_of_one_file_have_no_rater_in_common(
    tmp_path: Path, one: tuple[str, str | None] | None, other: tuple[str, str | None], independent: bool
) -> None:
    for name, report in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        if report is not None:
            report_dict = {"source": report[0], "settings": {"half": report[1]}}
            (tmp_path / name / "report.json").write_text(json.dumps(report_dict))
    assert _two_halves(_fitted_to(tmp_path / "one"), _fitted_to(tmp_path / "other")) is independent
