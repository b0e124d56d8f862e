"""Checks of rollout engines: seeds, greedy responses, log-probabilities, the policy's model."""

from __future__ import annotations

from dataclasses import replace

from ppokit.plugin.generation import Generation, GenerationRequest
from ppokit.testing.calls import close, fresh, generate, need_equal, raw, request, sample
from ppokit.testing.checks import Fault, check
from ppokit.testing.fakes import fake_model, fake_policy
from ppokit.testing.subject import Subject

_TOLERANCE = 1e-3  # nats: of a softmax in float32, far below what another prompt or position changes


@check("seeds", "rollout")
def seeds(subject: Subject) -> None:
    """A response depends on its own seed and prompt, not on what else is asked in the call."""
    built, rollout = subject.build(), sample(subject)
    whole = request(rollout)
    assert whole.seeds is not None
    parts = []
    for share in (range(4), range(4, len(rollout))):
        part = replace(whole, prompts=whole.prompts.select(share), seeds=replace(whole.seeds, share=share))
        parts.extend(generate(subject, built, part))
    need_equal(
        generate(subject, built, whole),
        parts,
        "where a call asks for all prompts and for a share of them; draw by request.seeds, which knows "
        "the share",
    )
    close(built)


@check("greedy", "rollout")
def greedy(subject: Subject) -> None:
    """Without seeds the likeliest tokens are given, the same in each call."""
    built, asked = subject.build(), request(sample(subject), greedy=True)
    need_equal(
        generate(subject, built, asked), generate(subject, built, asked), "in two greedy calls; draw nothing"
    )
    close(built)


@check("leaves_the_model", "rollout")
def leaves_the_model(subject: Subject) -> None:
    """The policy's weights and settings stay as they were."""
    import torch

    model = fake_model()

    def read() -> list[tuple[str, float, bool]]:
        return [
            (n, float(p.detach().double().abs().sum()), p.requires_grad) for n, p in model.named_parameters()
        ]

    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    before, training = read(), model.training
    try:
        fresh(subject, sample(subject))
        after = read()
        switched = model.training != training
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(True)
                parameter.copy_(kept[name])
        model.train(training)
    if before != after or switched:
        changed = next((a[0] for a, b in zip(before, after, strict=True) if a != b), "training mode")
        raise Fault(f"it changes the policy's model ({changed}), which trains; read it only")


@check("draws", "rollout")
def draws(subject: Subject) -> None:
    """Other seeds give other responses."""
    rollout, answers = sample(subject), []
    built = subject.build()
    for seed in (1, 2):
        asked = request(rollout, seed=seed)
        answers.append(raw(subject, built, (fake_policy(), asked)).response_ids)
    close(built)
    pairs = list(zip(*answers, strict=True))
    if all(list(one) == list(other) for one, other in pairs):
        raise Fault(
            "its responses are the same by other seeds, so that none is better than another and nothing "
            "is learned; draw by request.seeds, or waive `draws` and say why it does not draw"
        )


@check("ends", "rollout")
def ends(subject: Subject) -> None:
    """A response that finished ends with an end token: only so does the policy learn to end."""
    built, policy, asked = subject.build(), fake_policy(), request(sample(subject))
    generation = raw(subject, built, (policy, asked))
    close(built)
    for index, (outcome, ids) in enumerate(zip(generation.outcomes, generation.response_ids, strict=True)):
        if outcome == "finished" and ids[-1] not in policy.end_ids:
            raise Fault(
                f"response {index} is finished and its last token, {ids[-1]}, is none of policy.end_ids "
                f"{sorted(policy.end_ids)}; keep the token that ended it, or call the response truncated"
            )


@check("logprobs", "rollout")
def logprobs(subject: Subject) -> None:
    """The log-probabilities that it gives are the policy's, by a plain forward of prompt and response."""
    asked = request(sample(subject))
    asked = replace(asked, sampling=asked.sampling.model_copy(update={"temperature": 0.7}))
    built, policy = subject.build(), fake_policy()
    generation = raw(subject, built, (policy, asked))
    close(built)
    for name in ("policy_logprobs", "sampler_logprobs"):
        rows = getattr(generation, name)
        if rows is None:
            continue
        for index, row in enumerate(rows):
            expected_row = _plain_logprobs(asked, generation, index)
            own = [True] * len(row) if generation.loss_mask is None else generation.loss_mask[index]
            for position, (value, expected) in enumerate(zip(row, expected_row, strict=True)):
                if own[position] and value == value and abs(value - expected) > _TOLERANCE:
                    raise Fault(
                        f"{name} of response {index} is {value:.4f} at token {position}, and {expected:.4f} "
                        "by the policy at the temperature asked for; give the log-probability of this token "
                        "behind its own prompt at that temperature, or NaN where it is not known"
                    )


def _plain_logprobs(asked: GenerationRequest, generation: Generation, index: int) -> list[float]:
    """Of each token of a response, by the policy's model at the temperature."""
    import torch

    model = fake_model()
    prompt, ids = asked.prompts.prompt_ids[index // asked.n], list(generation.response_ids[index])
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].float()
    table = (logits / asked.sampling.temperature).log_softmax(dim=-1)
    numbers: list[float] = table.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
    return numbers
