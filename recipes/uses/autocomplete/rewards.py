"""Rewards of suggestions: what a typist saves by them, and whether they are likely English."""

from typing import ClassVar

from ppokit.plugin import Options, RewardOutput, Rollout, masked_mean


def keystrokes(response, reference):
    """Share of the reference that need not be typed where a suggestion is taken as far as it is right."""
    saved = 0
    for suggested, meant in zip(response.split(), reference.split(), strict=False):
        if suggested != meant:
            break
        saved += len(meant) + 1  # and the space
    return saved / (len(" ".join(reference.split())) + 1)


class Likelihood(Options):
    """Mean log-probability of a suggestion's tokens under the untrained model, in nats, from -10 on."""

    needs: ClassVar = {"ref_logprobs"}

    def score(self, rollout: Rollout) -> RewardOutput:
        rows = zip(rollout.ref_logprobs, rollout.loss_mask, strict=True)
        means = [float(masked_mean(logprobs, mask)) if mask.any() else -10.0 for logprobs, mask in rows]
        return RewardOutput.from_values([max(mean, -10.0) for mean in means])
