from ppokit.plugin import Advantages, LossInputs, LossOutput, Options, Rewards, Rollout, broadcast_to_tokens


def brief(responses, limit: int = 80):
    """A reward: 1 for a response of at most `limit` characters."""
    return [float(len(text) <= limit) for text in responses]


def centred(rollout: Rollout, rewards: Rewards) -> Advantages:
    """An advantage estimator: each response's score minus the batch's mean, on every token."""
    scores = rewards.scores - rewards.scores.mean()
    return Advantages(broadcast_to_tokens(scores, rollout.loss_mask))


class Unclipped(Options):
    """A loss: importance ratio times advantage, without a clip."""

    needs = {"new_logprobs", "old_logprobs"}
    strength: float = 1.0

    def token_losses(self, inputs: LossInputs) -> LossOutput:
        ratio = (inputs.new_logprobs - inputs.old_logprobs).exp()
        return LossOutput(-self.strength * ratio * inputs.advantages)
