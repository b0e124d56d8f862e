"""The batches that components are checked on: rollouts with all that the core can compute, losses' inputs.

Texts and numbers are the same in every run. A token stands for a word, so that lengths differ as texts do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppokit.plugin.reward_output import Outcome
from ppokit.plugin.types import LossInputs, ResponseOutcome, Rewards, Rollout
from ppokit.seeds import seed_from

if TYPE_CHECKING:
    from torch import Tensor

PROMPT = "Tell me what you would do."
RAGGED = (
    "Yes.",
    "I would thank the clerk, and then ask again, please.",
    "No",
    "The answer is 42.",
    "Sorry, I cannot say more about it than that.",
    "First, add 1 and 2. That gives 3, which is right.",
    "Well",
    "A short story: Tom saw a cat. The cat ran away!",
    '{"answer": "yes"}',
    "<answer>42</answer>",
    "It is good. It is very good.",
    "Bad, bad, bad.",
)
EMPTY = ("", " ", "\n", "Yes.")
UNICODE = (
    "Grüße aus Köln",
    "\N{GRINNING FACE}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}\N{ZERO WIDTH JOINER}\N{WOMAN}",
    "e\N{COMBINING ACUTE ACCENT}\N{COMBINING DIAERESIS}",
    "日本語の文。",
    "שלום \N{RIGHT-TO-LEFT OVERRIDE}abc",
    "a\N{NO-BREAK SPACE}b\N{REPLACEMENT CHARACTER}\x00c",
)
SPECIAL = ("<|im_end|>", "</s>", "<eos> <pad>", "[INST] x [/INST]", "{{ x }} {% y %}", "%s %d \\1 $&")
LONG = ("word " * 2000, "a" * 10_000, "Yes.")

_ALL = ("old_logprobs", "ref_logprobs", "values")

TEXTS: dict[str, tuple[str, ...]] = {
    "ragged": RAGGED,
    "one": ("I would thank the clerk.",),
    "empty": EMPTY,
    "unicode": UNICODE,
    "long": LONG,
    "special": SPECIAL,
}
"""Responses by the name of the batch."""


def rollout_of(
    responses: Sequence[str],
    *,
    prompt: str = PROMPT,
    row: Mapping[str, Any] | None = None,
    group: int = 2,
    needs: Sequence[str] | frozenset[str] = (),
    greedy: bool = True,
    width: int | None = None,
) -> Rollout:
    """A rollout of these responses; what no need names is None.

    Args:
        row: columns of the data set, the same for each response.
        group: responses per prompt.
        greedy: whether it gets greedy responses where `needs` names them.
        width: R; that of the longest response, if not given.
    """
    import torch

    count = len(responses)
    lengths = [max(1, len(text.split())) for text in responses]
    longest = width or max(lengths, default=1)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    outcomes: list[ResponseOutcome] = ["truncated" if i % 5 == 4 else "finished" for i in range(count)]
    loss_mask = mask.clone()
    if longest > 4:
        loss_mask[:, 2] = False  # a tool's token
    groups = torch.arange(count) // group

    def drawn(name: str, low: float, high: float) -> Tensor:
        rows = []
        for text in responses:  # by the text, so that a response has the same numbers in every batch
            generator = torch.Generator().manual_seed(seed_from(hash_of(text), len(name)))
            rows.append(low + (high - low) * torch.rand(longest, generator=generator))
        return torch.stack(rows).where(loss_mask, torch.zeros(())) if rows else torch.zeros(0, longest)

    return Rollout(
        ids=[f"sample-{i}" for i in range(count)],
        group_ids=groups,
        prompts=[prompt] * count,
        responses=list(responses),
        rows=[dict(row or {}) for _ in responses],
        prompt_ids=[[1, 2, 3]] * count,
        response_ids=torch.stack(
            [(torch.arange(longest) * 7 + hash_of(text)) % 50 + 3 for text in responses]
        ).where(mask, torch.zeros((), dtype=torch.int64)),
        response_mask=mask,
        loss_mask=loss_mask,
        outcomes=outcomes,
        policy_version=torch.zeros(count, dtype=torch.int64),
        sampler_logprobs=drawn("sampler", -3.0, 0.0),
        old_logprobs=drawn("old", -3.0, 0.0) if "old_logprobs" in needs else None,
        ref_logprobs=drawn("reference", -3.0, 0.0) if "ref_logprobs" in needs else None,
        values=drawn("values", -1.0, 1.0) if "values" in needs else None,
        greedy=_greedy(responses, prompt, row, group, needs) if greedy and "greedy" in needs else None,
    )


def _greedy(
    responses: Sequence[str],
    prompt: str,
    row: Mapping[str, Any] | None,
    group: int,
    needs: Sequence[str] | frozenset[str],
) -> Rollout:
    """One response to each prompt of a rollout."""
    first = [responses[i] for i in range(0, len(responses), group)]
    return rollout_of(first, prompt=prompt, row=row, group=1, needs=needs, greedy=False)


def hash_of(text: str) -> int:
    """A number of a text that is the same in every process."""
    number = 0
    for character in text[:200]:
        number = (number * 31 + ord(character)) % 1_000_003
    return number


def rewards_of(rollout: Rollout) -> Rewards:
    """Scores that differ within each group, on the last token that the policy wrote."""
    import torch

    scores = torch.tensor([hash_of(text) % 97 / 50 - 1 for text in rollout.responses])
    tokens = torch.zeros(rollout.loss_mask.shape)
    for index, own in enumerate(rollout.loss_mask):
        tokens[index, own.nonzero().max()] = scores[index]
    known: list[Outcome] = ["scored"] * len(rollout)
    scored = torch.ones(len(rollout), dtype=torch.bool)
    greedy = None
    if rollout.greedy is not None:
        by_group = dict(
            zip(rollout.greedy.group_ids.tolist(), rewards_of(rollout.greedy).scores, strict=True)
        )
        greedy = torch.stack([by_group[group] for group in rollout.group_ids.tolist()])
    return Rewards(
        token_rewards=tokens,
        scores=scores,
        breakdown={"kit": scores.clone()},
        outcomes={"kit": tuple(known)},
        scored=scored,
        trained=scored.clone(),
        greedy_returns=greedy,
    )


def loss_inputs(rollout: Rollout, needs: frozenset[str]) -> LossInputs:
    """What a loss sees of a rollout as one micro-batch, with gradients to what is of the trained policy."""
    mask = rollout.loss_mask
    whole = rollout_of(rollout.responses, needs=_ALL, greedy=False, width=mask.shape[1])
    old, ref, values = whole.old_logprobs, whole.ref_logprobs, whole.values
    assert old is not None
    assert values is not None
    numbers = rewards_of(rollout).scores[:, None] * mask
    new = (old - 0.5 * numbers).clamp(max=0.0)
    return LossInputs(
        mask=mask,
        advantages=numbers,
        returns=numbers * 0.5 if "values" in needs else None,
        sampler_logprobs=rollout.sampler_logprobs,
        new_logprobs=new.detach().requires_grad_() if "new_logprobs" in needs else None,
        old_logprobs=old if "old_logprobs" in needs else None,
        ref_logprobs=ref if "ref_logprobs" in needs else None,
        values=(values + 0.1).requires_grad_() if "values" in needs else None,
        old_values=values if "values" in needs else None,
        entropy=(-new).detach().requires_grad_() if "entropy" in needs else None,
        group_ids=rollout.group_ids,
        sample_ids=tuple(rollout.ids),
    )
