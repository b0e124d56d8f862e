"""Checks that only one kind has: padding and gradients, an engine's seeds, an evaluator's calls, odd runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ppokit.plugin.protocols import AdvantageWeighting
from ppokit.testing.calls import (
    call,
    close,
    fresh,
    generate,
    history,
    loss_numbers,
    need_equal,
    request,
    sample,
)
from ppokit.testing.checks import Fault, check
from ppokit.testing.fakes import FakeView, model_and_tokenizer
from ppokit.testing.samples import loss_inputs
from ppokit.testing.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor


@check("padding", "advantages")
def padding(subject: Subject) -> None:
    """Numbers on padding change nothing."""
    import torch

    rollout = sample(subject)
    mask = rollout.loss_mask

    def garbage(numbers: Tensor | None) -> Tensor | None:
        return None if numbers is None else numbers.where(mask, torch.tensor(1e6))

    spoiled = replace(
        rollout,
        sampler_logprobs=rollout.sampler_logprobs.where(mask, torch.tensor(-1e6)),
        old_logprobs=garbage(rollout.old_logprobs),
        ref_logprobs=garbage(rollout.ref_logprobs),
        values=garbage(rollout.values),
    )
    need_equal(
        fresh(subject, rollout),
        fresh(subject, spoiled),
        "where other numbers stand on padding; use masked_mean, or multiply by rollout.loss_mask",
    )


@check("padding_of_losses", "losses")
def padding_of_losses(subject: Subject) -> None:
    """Numbers on padding change neither losses nor gradients, and gradients are finite."""
    import torch

    built = subject.build()
    inputs = loss_inputs(sample(subject), subject.component.needs)
    mask = inputs.mask

    def garbage(numbers: Tensor) -> Tensor:
        changed = numbers.detach().where(mask, torch.tensor(50.0))
        return changed.requires_grad_(numbers.requires_grad)

    changes: dict[str, Any] = {
        name: garbage(value)
        for name, value in vars(inputs).items()
        if name != "mask" and isinstance(value, torch.Tensor) and value.shape == mask.shape
    }
    need_equal(
        loss_numbers(subject, built, inputs),
        loss_numbers(subject, built, replace(inputs, **changes)),
        "where other numbers stand on padding; use inputs.mask in every mean and sum",
    )


@check("gradient", "losses")
def gradient(subject: Subject) -> None:
    """The losses have a gradient, finite on every token, with respect to what the component trains."""
    import torch

    built = subject.build()
    if isinstance(built.instance, AdvantageWeighting):
        return
    inputs = loss_inputs(sample(subject), subject.component.needs)
    leaves = {
        name: tensor
        for name in ("new_logprobs", "values", "entropy")
        if (tensor := getattr(inputs, name)) is not None
    }
    if not leaves:
        raise Fault(
            "its needs name neither new_logprobs nor values nor entropy, so that it trains nothing; add one"
        )
    tokens = built.instance.token_losses(inputs).token_losses
    advice = "compute it from inputs.new_logprobs, inputs.values or inputs.entropy without detach()"
    if not tokens.requires_grad:
        raise Fault(f"its token losses have no gradient, and nothing would be trained; {advice}")
    derivatives = torch.autograd.grad(tokens.sum(), list(leaves.values()), allow_unused=True)
    gradients = [g for g in derivatives if g is not None]
    if not any(bool(g.abs().sum() > 0) for g in gradients):
        raise Fault(f"its gradient is 0 everywhere; {advice}")
    for name, g in zip(leaves, derivatives, strict=True):
        if g is not None and not bool(g.isfinite().all()):
            raise Fault(
                f"the gradient of {name} is not finite; avoid log(0), x / 0 and sqrt(0), on padding too"
            )


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

    model = model_and_tokenizer()[0]

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


@check("same_calls", "evaluators")
def same_calls(subject: Subject) -> None:
    """Every process asks the view for the same things in the same order: each is work for all of them."""
    calls = []
    for is_main in (True, False):
        built = subject.build()
        view = FakeView(subject.component.needs, subject.row, is_main=is_main)
        built.instance.evaluate(view, 1)
        calls.append(view.calls)
        close(built)
    if calls[0] != calls[1]:
        raise Fault(
            f"on the main process it asks for {calls[0] or 'nothing'}, on another for "
            f"{calls[1] or 'nothing'}; the "
            "run would wait for ever: ask on every process, and use view.is_main for what is written alone"
        )


@check("odd_runs", "observers")
def odd_runs(subject: Subject) -> None:
    """A run that ends before its first step, or by an error, is heard of without failing."""
    from ppokit.run.components import RunComponent
    from ppokit.run.events import EventHooks

    start, *_, end = history(sample(subject), 1)
    failed = ("on_run_end", {"step": 0, "error": "RewardError: the judge is down"})
    for events in ([start, failed], [end], [failed]):
        built = subject.build()
        hooks = EventHooks([RunComponent(subject.name, subject.where, built.instance)])
        for name, values in events:
            hooks.emit(name, **values)
        close(built)


@check("small_groups", "advantages")
def small_groups(subject: Subject) -> None:
    """Groups of one response, and one whole group, are taken."""
    for texts, group in ((("Yes.", "No.", "Well"), 1), (("Yes.", "No.", "Well", "So"), 4)):
        built = subject.build()
        call(subject, built, sample(subject, texts, group=group))
        close(built)
