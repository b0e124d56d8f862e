"""Checks of what a component keeps from call to call, and of a run that is resumed."""

from __future__ import annotations

import pickle
from typing import Any

from ppokit.errors import PpokitError
from ppokit.plugin.protocols import Stateful
from ppokit.testing.calls import arguments, call, close, fresh, need_equal, raw, sample, tell
from ppokit.testing.checks import Fault, check
from ppokit.testing.samples import TEXTS
from ppokit.testing.states import decoded, plain, state_of
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
        state_of(built)
    close(built)


@check("state_in_calls", "rewards", "advantages", "losses")
def state_in_calls(subject: Subject) -> None:
    """A call changes no state: processes are each called with a share, and must stay the same."""
    built = subject.build()
    rollout, other = sample(subject), sample(subject, TEXTS["special"])
    before = plain(state_of(built)) if isinstance(built.instance, Stateful) else None
    first = call(subject, built, rollout)
    call(subject, built, other)
    after = plain(state_of(built)) if isinstance(built.instance, Stateful) else None
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
        other_instance.load_state_dict(decoded(state_of(built)))
        if plain(state_of(other)) != plain(state_of(built)):
            raise Fault("state_dict gives something else after load_state_dict; take all that it gives")
        what = "by an object and by one that was given its state; give all that matters in state_dict"
    else:
        what = (
            "after two steps and before them; what it learns in on_step is lost where a run is resumed: "
            "give it "
            "in state_dict and take it in load_state_dict"
        )
    if subject.kind not in ("observers", "rollout"):
        need_equal(call(subject, built, later), call(subject, other, later), what)
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


@check("second_process")
def second_process(subject: Subject) -> None:
    """Another process of the run, with hashes of its own and from the same state, answers the same."""
    from ppokit.testing.second_process import ask

    built, later = subject.build(), sample(subject, TEXTS["special"])
    first = fresh(subject, sample(subject))
    tell(subject, built, sample(subject), steps=2)
    state = state_of(built) if isinstance(built.instance, Stateful) else None
    second = call(subject, built, later)
    close(built)
    try:
        answers = ask(subject, state)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Fault(
            f"another process cannot build it: {error}; check it by what a recipe names, such as "
            "module:attribute, or define it at the top of a module"
        ) from error
    except (PpokitError, ChildProcessError) as error:
        raise Fault(f"in another process it fails: {error}") from error
    advice = (
        "use neither hash(), the order of a set, the process's id or rank, nor what only this process has; "
        "keep what it learns in the object, and give it in state_dict"
    )
    need_equal(first, answers.first, f"here and in another process; {advice}")
    need_equal(second, answers.with_state, f"here and in another process, from the same state; {advice}")
