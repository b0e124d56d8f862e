"""Checks that only some kinds have: padding and gradients, groups, an evaluator's calls, odd runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ppokit.plugin.protocols import AdvantageWeighting
from ppokit.testing.calls import (
    arguments,
    call,
    close,
    fresh,
    history,
    loss_numbers,
    need_equal,
    raw,
    sample,
)
from ppokit.testing.checks import Fault, check
from ppokit.testing.fakes import FakeView
from ppokit.testing.samples import loss_inputs
from ppokit.testing.subject import Subject

if TYPE_CHECKING:
    from torch import Tensor


@check("padding", "rewards", "advantages")
def padding(subject: Subject) -> None:
    """Neither numbers on padding nor more of it change anything."""
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
    plain = fresh(subject, rollout)
    advice = "use masked_mean, or multiply by rollout.loss_mask, and divide by no width"
    need_equal(plain, fresh(subject, spoiled), f"where other numbers stand on padding; {advice}")
    wider = sample(subject, width=mask.shape[1] + 5)
    need_equal(plain, fresh(subject, wider), f"where there is more padding; {advice}")


@check("padding_of_losses", "losses")
def padding_of_losses(subject: Subject) -> None:
    """Neither numbers on padding nor more of it change losses or gradients."""
    import torch

    built = subject.build()
    rollout = sample(subject)
    inputs = loss_inputs(rollout, subject.component.needs)
    mask = inputs.mask

    def garbage(numbers: Tensor) -> Tensor:
        changed = numbers.detach().where(mask, torch.tensor(50.0))
        return changed.requires_grad_(numbers.requires_grad)

    changes: dict[str, Any] = {
        name: garbage(value)
        for name, value in vars(inputs).items()
        if name != "mask" and isinstance(value, torch.Tensor) and value.shape == mask.shape
    }
    plain = loss_numbers(subject, built, inputs)
    need_equal(
        plain,
        loss_numbers(subject, built, replace(inputs, **changes)),
        "where other numbers stand on padding; use inputs.mask in every mean and sum",
    )
    wider = loss_inputs(sample(subject, width=mask.shape[1] + 5), subject.component.needs)
    need_equal(
        plain,
        loss_numbers(subject, built, wider),
        "where there is more padding; divide by the mask's sum, not by a width",
    )
    close(built)


@check("dtypes", "advantages", "losses")
def dtypes(subject: Subject) -> None:
    """Numbers come as exact as they were given, in float32 or float64."""
    import torch

    built = subject.build()
    output = raw(subject, built, arguments(subject, sample(subject)))
    close(built)
    names = ("advantages", "returns") if subject.kind == "advantages" else ("token_losses", "weights")
    for name in names:
        number = getattr(output, name, None)
        if number is not None and number.dtype not in (torch.float32, torch.float64):
            raise Fault(f"it returns {name} of {number.dtype}, in which digits are lost; compute in float32")


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
    if any(leaf.grad is not None for leaf in leaves.values()):
        raise Fault(
            "it calls backward() itself, so that its gradient counts twice; return the losses, and leave "
            "their gradient to the core"
        )
    derivatives = torch.autograd.grad(tokens.sum(), list(leaves.values()), allow_unused=True)
    gradients = [g for g in derivatives if g is not None]
    if not any(bool(g.abs().sum() > 0) for g in gradients):
        raise Fault(f"its gradient is 0 everywhere; {advice}")
    for name, g in zip(leaves, derivatives, strict=True):
        if g is not None and not bool(g.isfinite().all()):
            raise Fault(
                f"the gradient of {name} is not finite; avoid log(0), x / 0 and sqrt(0), on padding too"
            )


@check("same_calls", "evaluators")
def same_calls(subject: Subject) -> None:
    """Every process asks the view for the same things in the same order: each is work for all of them."""
    calls = []
    for is_main in (True, False):
        built = subject.build(rank=0 if is_main else 1)
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
    """Groups of one response, one whole group, and groups of several sizes are taken."""
    texts = ("Yes.", "No.", "Well", "So")
    whole = sample(subject, texts, group=4)
    uneven = sample(subject, (*texts, *texts), group=4).select(
        [0, 1, 2, 4]
    )  # of the others no score is known
    for rollout in (sample(subject, texts[:3], group=1), whole, uneven):
        built = subject.build()
        call(subject, built, rollout)
        close(built)
