"""One call of a provider: what its method takes, what it returned or what it failed of."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any, cast

from ppokit.errors import PluginError, PpokitError, excerpt_of, plugin_call
from ppokit.plugin.reward_output import RewardOutput, Scored, Value
from ppokit.plugin.scoring import Sample
from ppokit.plugin.types import Rollout

_GRACE_S = 1.0  # for what a coroutine does when it is cancelled


def score_method(provider: object, where: str) -> tuple[Callable[..., Any], bool]:
    """The method by which a provider is asked, and whether it is asked for one response at a time.

    Raises:
        PluginError: it has none.
    """
    for name in ("score", "score_one"):
        if callable(method := getattr(provider, name, None)):
            return method, name == "score_one"
    raise PluginError(
        f"{where} built a {type(provider).__name__}; expected an object with a method score(rollout) or "
        "score_one(sample)."
    )


def takes_context(method: Callable[..., Any], where: str) -> bool:
    """Whether a method has a second argument, for the context.

    Raises:
        PluginError: it needs others.
    """
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):  # some built-ins tell nothing
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    more = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    variable = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(required) > 2 or more or (not positional and not variable):
        names = ", ".join(p.name for p in parameters)
        raise PluginError(
            f"{where}: {getattr(method, '__name__', 'its method')}({names}) cannot be called; expected one "
            "argument for the responses, and perhaps one for the context."
        )
    return len(positional) > 1 and (len(required) == 2 or positional[1].name == "context")


def sample_of(piece: Rollout) -> Sample:
    """The one response of a rollout."""
    return Sample(
        id=piece.ids[0],
        group=int(piece.group_ids[0]),
        prompt=piece.prompts[0],
        response=piece.responses[0],
        row=piece.rows[0],
        outcome=piece.outcomes[0],
    )


def output_of_one(value: Any, piece: Rollout, where: str) -> RewardOutput:
    """What a provider returned of one response, as an output of one.

    Raises:
        PluginError: it is no number.
    """
    scored = value if isinstance(value, Scored) else Scored(value)
    for field in ("parts", "notes"):
        if not isinstance(given := getattr(scored, field), Mapping):
            raise PluginError(
                f"{where} returned {excerpt_of(given)} as {field} of sample {piece.ids[0]}; expected a "
                "mapping."
            )
    number = _plain(scored.value, "", piece, where)
    parts = {
        name: [_plain(part, f" as the part {name!r}", piece, where)] for name, part in scored.parts.items()
    }
    notes = {name: [note] for name, note in scored.notes.items()}
    if number is None and parts:
        return RewardOutput.from_parts(parts, notes=notes)
    if number is None and scored.spans:
        return replace(RewardOutput.of_spans([scored.spans]), notes=notes)
    output = RewardOutput.from_values([number], parts=parts, notes=notes)
    return replace(output, spans=[scored.spans]) if scored.spans else output


def _plain(value: Any, what: str, piece: Rollout, where: str) -> Value:
    """A number, None or an exception; also of a tensor or an array of one number.

    Args:
        what: it is, for the error, where it is not the score.

    Raises:
        PluginError: it is none of these.
    """
    if getattr(value, "shape", None) == ():
        value = value.item()
    if not (value is None or isinstance(value, BaseException) or _is_number(value)):
        raise PluginError(
            f"{where} returned {excerpt_of(value)} ({type(value).__name__}){what} for sample {piece.ids[0]}; "
            "expected a number, None to abstain, an exception to fail, or Scored(...)."
        )
    return cast(Value, value)


def _is_number(value: object) -> bool:
    """Whether it is one that a float can hold, or would be infinite."""
    try:
        return isinstance(value, Real) and isinstance(float(value), float)
    except OverflowError:
        return False


def attempt(where: str, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a provider's call returned, or what it failed of; one of the two.

    Raises:
        PluginError: the provider said itself that its contract is broken.
    """
    try:
        with plugin_call(where, "score"):
            return call(), None
    except PpokitError as error:
        return None, _failure(error)


async def attempt_async(
    where: str,
    call: Callable[[], Any],
    timeout: float | None,
    on_hung: Callable[[asyncio.Future[Any]], None] = lambda task: None,
) -> tuple[Any, BaseException | None]:
    """As `attempt`, of a coroutine, which is cancelled where it takes longer than `timeout`.

    Args:
        on_hung: is given a call that goes on though it was cancelled.

    Raises:
        PluginError: the provider said itself that its contract is broken.
    """
    task = asyncio.ensure_future(_attempted(where, call))
    try:
        await asyncio.wait({task}, timeout=timeout)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE_S)
    except asyncio.CancelledError:
        task.cancel()
        raise
    late = f"no answer in {timeout:g} s"
    if not task.done():
        on_hung(task)
        late += ", and it goes on though it was cancelled"
    elif not task.cancelled():
        task.exception()  # is looked at: else asyncio complains of it
    return None, TimeoutError(late)


class _Guarded:
    """A coroutine, each of whose steps leaves the process's settings as they were, as `plugin_call` says.

    Whether torch computes gradients may differ within the coroutine from one step to the next.
    """

    def __init__(self, where: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.where, self.coroutine = where, coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        import torch

        step, value, gradients = self.coroutine.send, None, torch.is_grad_enabled()
        while True:
            awaited, ended = None, None
            with plugin_call(self.where, "score"), torch.set_grad_enabled(gradients):
                try:
                    awaited = step(value)
                except BaseException as error:  # is raised as it is
                    ended = error
                gradients = torch.is_grad_enabled()
            if isinstance(ended, StopIteration):
                return ended.value
            if ended is not None:
                raise ended
            try:
                step, value = self.coroutine.send, (yield awaited)
            except BaseException as error:  # such as that it is cancelled
                step, value = self.coroutine.throw, error


async def _attempted(where: str, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return await _Guarded(where, call()), None
    except PluginError as error:
        raise (error if where in str(error) else PluginError(f"{where}: {error}")) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # nobody waits for it any more
            raise
        return None, error
    except BaseException as error:  # whatever it is, it is the provider's own
        return None, error


def _failure(error: PpokitError) -> BaseException:
    cause = error.__cause__ or error
    if isinstance(cause, PluginError):
        raise error
    return cause
