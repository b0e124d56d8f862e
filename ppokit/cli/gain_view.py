"""What `ppokit reward gain` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppokit.cli.sections import Section, interval
from ppokit.errors import printable

if TYPE_CHECKING:
    from ppokit.reward_models.gain import Gain


def gain_sections(result: Gain) -> list[Section]:
    """A measured gain as sections."""
    asked = f"{result.prompts:,} that it was not trained on, {result.responses} responses per policy to each"
    overview = [("run", printable(result.run)), ("prompts", asked)]
    overview += [("note", printable(note)) for note in result.notes]
    sides = [
        (
            f"{name}: {printable(side.model)}",
            f"{side.before:.3f}",
            f"{side.after:.3f}",
            f"{side.gain.value:+.3f}",
            interval(side.gain.low, side.gain.high),
        )
        for name, side in (("reward", result.reward), ("gold", result.gold))
    ]
    cost = [
        ("KL, nats per token", f"{result.kl_token:.4f}"),
        ("KL, nats per response", f"{result.kl_response:.3f}"),
        ("tokens per response", f"{result.length_before:.1f} -> {result.length_after:.1f}"),
    ]
    return [
        Section("", ("", ""), overview, text_columns=2),
        Section(
            "Gain, in standard deviations of the untrained policy's scores",
            ("", "untrained", "trained", "gain", "95 % interval"),
            sides,
            after=agreement(result),
        ),
        Section("How far the policy has moved", ("", ""), cost),
    ]


def agreement(result: Gain) -> str:
    """How much of the gain the gold reward model sees."""
    if result.agreed is None:
        return "The reward itself has not certainly gained: there is nothing to agree with."
    low, high = result.agreed.low, result.agreed.high
    sure = "" if low is None or high is None else f" ({100 * low:.0f} to {100 * high:.0f} %)"
    return f"The gold reward model agrees with {100 * result.agreed.value:.0f} % of the gain{sure}."
