"""What `ppokit reward gain` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppokit.cli.reward_view import interval
from ppokit.cli.sections import Section, printable

if TYPE_CHECKING:
    from ppokit.reward_models.gain import Gain


def gain_sections(found: Gain) -> list[Section]:
    """A measured gain as sections."""
    asked = f"{found.prompts:,} that it was not trained on, {found.responses} responses per policy to each"
    overview = [("run", printable(found.run)), ("prompts", asked)]
    overview += [("note", printable(note)) for note in found.notes]
    sides = [
        (
            f"{name}: {printable(side.model)}",
            f"{side.before:.3f}",
            f"{side.after:.3f}",
            f"{side.gain.value:+.3f}",
            interval(side.gain.low, side.gain.high),
        )
        for name, side in (("reward", found.first), ("second opinion", found.second))
    ]
    cost = [
        ("KL, nats per token", f"{found.kl_token:.4f}"),
        ("KL, nats per response", f"{found.kl_response:.3f}"),
        ("tokens per response", f"{found.length_before:.1f} -> {found.length_after:.1f}"),
    ]
    return [
        Section("", ("", ""), overview, text_columns=2),
        Section(
            "Gain, in standard deviations of the untrained policy's scores",
            ("", "untrained", "trained", "gain", "95 % interval"),
            sides,
            after=agreement(found),
        ),
        Section("How far the policy has moved", ("", ""), cost),
    ]


def agreement(found: Gain) -> str:
    """What the second opinion says of the gain."""
    if found.agreed is None:
        return "The reward itself has not certainly gained: there is nothing to agree with."
    low, high = found.agreed.low, found.agreed.high
    sure = "" if low is None or high is None else f" ({100 * low:.0f} to {100 * high:.0f} %)"
    return f"The second opinion agrees with {100 * found.agreed.value:.0f} % of the gain{sure}."
