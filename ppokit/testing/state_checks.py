"""Checks of what a component keeps from call to call, and of a run that is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ppokit.config.components import BuiltComponent
from ppokit.errors import PluginError
from ppokit.plugin.protocols import Stateful
from ppokit.testing.calls import Numbers, arguments, call, close, need_equal, raw, sample, tell
from ppokit.testing.checks import Fault, check
from ppokit.testing.samples import TEXTS
from ppokit.testing.subject import Subject

_METHODS = ("state_dict", "load_state_dict")


@check("state_methods")
def state_methods(subject: Subject) -> None:
    """Who gives state also takes it, and gives a mapping that JSON and tensors can hold."""
    built = subject.build()
    has = [name for name in _METHODS if callable(getattr(built.instance, name, None))]
    if len(has) == 1:
        (missing,) = set(_METHODS) - set(has)
        raise Fault(f"it has {has[0]} without {missing}; a checkpoint needs both")
    if has:
        tell(subject, built, sample(subject))
        _stored(_state(built))
    close(built)


@check("state_in_calls", "rewards", "advantages", "losses")
def state_in_calls(subject: Subject) -> None:
    """A call changes no state: processes are each called with a share, and must stay the same."""
    built = subject.build()
    rollout, other = sample(subject), sample(subject, TEXTS["special"])
    before = _stored(_state(built)) if isinstance(built.instance, Stateful) else None
    first = call(subject, built, rollout)
    call(subject, built, other)
    after = _stored(_state(built)) if isinstance(built.instance, Stateful) else None
    if before != after:
        raise Fault("its state changes in a call; change it in on_step, which sees the whole rollout")
    need_equal(
        first,
        call(subject, built, rollout),
        "before and after a call with another batch; keep nothing from call to call, or change it in on_step "
        "and give it in state_dict",
    )
    close(built)


@check("resumes")
def resumes(subject: Subject) -> None:
    """An object that is given the state of another goes on as that one does."""
    built, other = subject.build(), subject.build()
    rollout, later = sample(subject), sample(subject, TEXTS["special"])
    tell(subject, built, rollout, steps=2)
    if isinstance(built.instance, Stateful):
        other_instance: Any = other.instance
        other_instance.load_state_dict(_loaded(_state(built)))
        if _stored(_state(other)) != _stored(_state(built)):
            raise Fault("state_dict gives something else after load_state_dict; take all that it gives")
        what = "by an object and by one that was given its state; give all that matters in state_dict"
    else:
        what = (
            "after two steps and before them; what it learns in on_step is lost where a run is resumed: "
            "give it "
            "in state_dict and take it in load_state_dict"
        )
    if subject.kind not in ("observers", "rollout"):
        need_equal(_answer(subject, built, later), _answer(subject, other, later), what)
    close(built)
    close(other)


@check("closes")
def closes(subject: Subject) -> None:
    """It can be closed right after it was built, and after calls."""
    close(subject.build())
    built = subject.build()
    if subject.kind != "observers":
        raw(subject, built, arguments(subject, sample(subject)))
    close(built)


def _answer(subject: Subject, built: BuiltComponent, rollout: Any) -> Numbers:
    return call(subject, built, rollout)


def _state(built: BuiltComponent) -> Mapping[str, Any]:
    state = built.instance.state_dict()
    if not isinstance(state, Mapping):
        raise Fault(f"state_dict gives a {type(state).__name__}; expected a mapping")
    return state


def _encoded(state: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    from ppokit.run.component_state import encode

    tensors: dict[str, Any] = {}
    try:
        return json.dumps(encode(state, "state", tensors)), tensors
    except PluginError as error:
        raise Fault(f"{error}; give plain numbers and texts") from error


def _stored(state: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A state as a checkpoint holds it, to be compared."""
    text, tensors = _encoded(state)
    return text, {name: tensor.tolist() for name, tensor in tensors.items()}


def _loaded(state: Mapping[str, Any]) -> Any:
    """A state as it comes out of a checkpoint."""
    from ppokit.run.component_state import decode

    text, tensors = _encoded(state)
    return decode(json.loads(text), tensors)
