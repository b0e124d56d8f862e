"""Checks of single calls: on awkward batches, in another order, cut otherwise, repeated."""

from __future__ import annotations

import copy
import time
from dataclasses import fields, is_dataclass
from typing import Any

from ppokit.plugin.needs import only_needed
from ppokit.plugin.types import LossInputs, Rollout
from ppokit.testing.calls import arguments, call, close, fresh, need_equal, raw, sample, tell
from ppokit.testing.checks import Fault, check
from ppokit.testing.reward_calls import whole_groups
from ppokit.testing.samples import TEXTS
from ppokit.testing.subject import Subject

_TEXTS_MATTER = ("rewards", "rollout", "observers")
_NEEDED = ("old_logprobs", "new_logprobs", "ref_logprobs", "values", "old_values", "entropy", "greedy")


@check("ragged_batch")
def ragged_batch(subject: Subject) -> None:
    """Responses of different lengths get an answer of the right length, shape and type, all of it finite."""
    fresh(subject, sample(subject))


@check("one_response")
def one_response(subject: Subject) -> None:
    """A batch of one response is answered: a process's share may be one."""
    fresh(subject, sample(subject, TEXTS["one"]))


@check("empty_responses", *_TEXTS_MATTER, "advantages", "losses")
def empty_responses(subject: Subject) -> None:
    """Responses without text are answered, or abstained from: a policy does write them."""
    fresh(subject, sample(subject, TEXTS["empty"]))


@check("unicode", *_TEXTS_MATTER)
def unicode(subject: Subject) -> None:
    """Any Unicode is taken: combining marks, other directions, a null character."""
    fresh(subject, sample(subject, TEXTS["unicode"]))


@check("long_responses", "rewards", "observers", "advantages", "losses")
def long_responses(subject: Subject) -> None:
    """A response of 10,000 characters is answered within ten times the time of a call."""
    rollout = sample(subject, TEXTS["long"])
    began = time.perf_counter()
    fresh(subject, rollout)
    _in_time(
        time.perf_counter() - began,
        10 * subject.seconds,
        "three responses, of which two have 10,000 characters",
    )


@check("special_tokens", *_TEXTS_MATTER)
def special_tokens(subject: Subject) -> None:
    """Texts that look like special tokens or templates are texts."""
    fresh(subject, sample(subject, TEXTS["special"]))


@check("order", "rewards", "losses")
def order(subject: Subject) -> None:
    """An answer does not depend on where in the batch a response stands."""
    rollout = sample(subject)
    backward = list(range(len(rollout)))[::-1]
    forward = fresh(subject, rollout)
    reversed_ = fresh(subject, rollout.select(backward))
    need_equal(
        forward,
        [reversed_[i] for i in backward],
        "where the batch is in the given order and reversed; let each response's answer come from it alone",
    )


@check("group_order", "advantages")
def group_order(subject: Subject) -> None:
    """Advantages do not depend on the order of the groups in the batch."""
    rollout = sample(subject)
    groups = [list(range(i, i + 2)) for i in range(0, len(rollout), 2)][::-1]
    indices = [i for group in groups for i in group]
    moved = fresh(subject, rollout.select(indices))
    back = [moved[indices.index(i)] for i in range(len(rollout))]
    need_equal(fresh(subject, rollout), back, "where the groups come in another order; do not use positions")


@check("batch_cuts", "rewards", "losses")
def batch_cuts(subject: Subject) -> None:
    """An answer does not depend on what else is in the batch: processes and micro-batches cut it."""
    rollout = sample(subject)
    whole = fresh(subject, rollout)
    built = subject.build()
    cut = 2 if whole_groups(built) else 1
    close(built)
    cuts = (range(cut), range(cut, len(rollout)))
    parts = [row for part in cuts for row in fresh(subject, rollout.select(part))]
    need_equal(
        whole,
        parts,
        "in the whole batch and in a part of it; do not use the batch's mean, maximum or size: processes "
        "and micro-batches cut it anywhere",
    )


@check("repeats")
def repeats(subject: Subject) -> None:
    """The same call gives the same answer, of the same object and of one that is built anew."""
    rollout = sample(subject)
    built = subject.build()
    first, second = call(subject, built, rollout), call(subject, built, rollout)
    close(built)
    what = "draw from a generator that is seeded by the context, and change no state in the call"
    if subject.kind != "observers":
        need_equal(first, second, f"in two calls of one object; {what}")
        need_equal(first, fresh(subject, rollout), f"by two objects of the same seed; {what}")


@check("leaves_its_input")
def leaves_its_input(subject: Subject) -> None:
    """What is given is not changed."""
    built, rollout = subject.build(), sample(subject)
    if subject.kind == "observers":
        kept = copy.deepcopy(rollout)
        tell(subject, built, rollout)
        changed = _difference(kept, rollout, "rollout")
    elif subject.kind == "evaluators":
        given = arguments(subject, rollout)
        kept_rows = copy.deepcopy([given[0].rows, given[0].training_rows])
        raw(subject, built, given)
        changed = _difference(kept_rows, [given[0].rows, given[0].training_rows], "the view's rows")
    else:
        given = arguments(subject, rollout)
        watched = [value for value in given if is_dataclass(value) and hasattr(value, "__len__")]
        watched += [value for value in given if isinstance(value, LossInputs)]
        before = [copy.deepcopy(_plain(value)) for value in watched]
        raw(subject, built, given)
        pairs = zip(before, watched, strict=True)
        changed = next(
            filter(None, (_difference(one, _plain(other), type(other).__name__) for one, other in pairs)), ""
        )
    close(built)
    if changed:
        raise Fault(f"it changes {changed} of what it is given; copy it first: others read it too")


@check("needs", "rewards", "advantages", "losses")
def needs(subject: Subject) -> None:
    """Only what `needs` names is read: all else is None in a run."""
    built, component = subject.build(), subject.component
    touched: set[str] = set()
    given = [_watched(value, component.needs, touched) for value in arguments(subject, sample(subject))]
    error: Exception | None = None
    try:
        raw(subject, built, tuple(given))
    except Exception as raised:
        error = raised
    undeclared = sorted(touched - _readable(component.needs))
    if undeclared:
        raise Fault(
            f"it reads {', '.join(undeclared)}, which its needs do not name, so that a run gives None "
            "for it; "
            f"add it to needs (now {sorted(component.needs) or 'none'})"
        ) from error
    if error is not None:
        raise error
    close(built)


@check("time")
def takes_its_time(subject: Subject) -> None:
    """A call on twelve short responses takes no longer than the limit of the kit."""
    built, rollout = subject.build(), sample(subject)
    call(subject, built, rollout)  # what is loaded at the first call is not counted
    began = time.perf_counter()
    call(subject, built, rollout)
    took = time.perf_counter() - began
    close(built)
    _in_time(took, subject.seconds * (10 if subject.kind == "rollout" else 1), "twelve short responses")


def _in_time(took: float, limit: float, what: str) -> None:
    if took > limit:
        raise Fault(
            f"a call on {what} takes {took:.1f} s; expected at most {limit:g} s: make it faster, "
            "allow more by --seconds (seconds= of conformance), or waive `time` and `long_responses` and "
            "say why"
        )


def _readable(needed: frozenset[str]) -> set[str]:
    return {*needed, *({"old_values"} if "values" in needed else ())}


def _watched(value: Any, needed: frozenset[str], touched: set[str]) -> Any:
    """A rollout or a loss's inputs that record which of the needed fields are read, but for copies of all."""
    import sys

    if not isinstance(value, Rollout | LossInputs):
        return value
    hidden: Any = value
    value = only_needed(hidden, needed)

    quiet = {"dataclasses", "copy", "copyreg", "pickle", "ppokit.plugin.types", "ppokit.plugin.needs"}

    def read(self: Any, name: str) -> Any:
        if name in _NEEDED and sys._getframe(1).f_globals.get("__name__") not in quiet:
            touched.add(name)
        return object.__getattribute__(self, name)

    kind = type(type(value).__name__, (type(value),), {"__getattribute__": read})
    copied: Any = object.__new__(kind)
    copied.__dict__.update(vars(value))
    return copied


def _plain(value: Any) -> Any:
    """A dataclass as a mapping of what it holds; tensors without their graphs."""
    import torch

    return {
        field.name: content.detach()
        if isinstance(content := getattr(value, field.name), torch.Tensor)
        else content
        for field in fields(value)
    }


def _difference(before: Any, after: Any, name: str) -> str:
    """Where two values differ; empty where they do not."""
    import torch

    if type(before) is not type(after):
        return name
    if isinstance(before, torch.Tensor):
        equal = before.shape == after.shape and torch.equal(before.nan_to_num(7.25), after.nan_to_num(7.25))
        return "" if equal else name
    if is_dataclass(before):
        before, after = _plain(before), _plain(after)
    if isinstance(before, dict):
        if before.keys() != after.keys():
            return name
        return next(filter(None, (_difference(before[k], after[k], f"{name}.{k}") for k in before)), "")
    if isinstance(before, list | tuple):
        if len(before) != len(after):
            return name
        pairs = zip(before, after, strict=True)
        return next(filter(None, (_difference(a, b, name) for a, b in pairs)), "")
    return "" if before == after else name
