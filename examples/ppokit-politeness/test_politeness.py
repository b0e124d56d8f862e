import torch

from ppokit.plugin import Rollout
from ppokit_politeness import Politeness


def rollout_of(texts: list[str]) -> Rollout:
    count = len(texts)
    mask = torch.ones(count, 4, dtype=torch.bool)
    return Rollout(
        ids=[f"sample-{i}" for i in range(count)],
        group_ids=torch.arange(count),
        prompts=["The clerk said:"] * count,
        responses=texts,
        rows=[{}] * count,
        prompt_ids=[[1]] * count,
        response_ids=torch.ones(count, 4, dtype=torch.int64),
        response_mask=mask,
        loss_mask=mask,
        outcomes=["finished"] * count,
        policy_version=torch.zeros(count, dtype=torch.int64),
        sampler_logprobs=torch.zeros(count, 4),
    )


def test_the_share_of_polite_words() -> None:
    output = Politeness().score(rollout_of(["Thank you, and sorry.", "No.", ""]))
    assert torch.allclose(output.scores, torch.tensor([2 / 3, 0.0, 0.0]))
    assert output.outcomes == ("scored", "scored", "abstained")
