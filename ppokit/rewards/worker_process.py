"""The process of a reward with a `timeout`: it builds the provider and answers the trainer's requests.

Started by `timed_worker`, which says what for.
"""

from __future__ import annotations

import fcntl
import inspect
import os
import pickle  # between a process and the one that it started; nothing else is unpickled
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any

from ppokit import errors
from ppokit.errors import PluginError, PpokitError, plugin_call, reason_of
from ppokit.plugin.coroutines import is_coroutine_function
from ppokit.plugin.event_methods import event_methods
from ppokit.plugin.protocols import BuildContext, Stateful
from ppokit.plugin.reward_output import RewardOutput, Scored
from ppokit.plugin.scoring import RewardContext
from ppokit.rewards.attempts import attempt, attempt_async, score_method, takes_context
from ppokit.rewards.call_sizes import CallSizes
from ppokit.rewards.event_loop import EventLoop
from ppokit.rewards.limits import SentFailureError


def main() -> None:
    """The process: build the provider, then answer requests until the trainer closes its end."""
    connection, lifeline = Connection(int(sys.argv[2])), int(sys.argv[3])
    # When the last writer of the pipe has gone the kernel sends SIGIO, which ends the group.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    try:
        kind, use, options, context, where, disabled = pickle.loads(connection.recv_bytes())
        provider = _build(kind, use, options, context, where, disabled)
        events = event_methods(provider, where)
        score, one_at_a_time = score_method(provider, where)
        sizes = CallSizes.of(provider, where, one_at_a_time=one_at_a_time)
        asked = _Asked(score, where, context.tokenizer)
    except PpokitError as error:  # of a class that the trainer may not know
        text = str(error) if where in str(error) else f"{where}: {error}"
        connection.send_bytes(pickle.dumps((_class_name(error), text, None)))
        return
    name = "score_one" if one_at_a_time else "score"
    about = (name, asked.loop is not None, sizes, isinstance(provider, Stateful), events)
    _reply(connection, "", about, provider, where)
    while True:
        try:
            method, arguments = pickle.loads(connection.recv_bytes())
        except (EOFError, ConnectionError):
            _close(provider, where, asked.loop)
            return
        kind = ""
        try:
            if method in ("score", "score_one"):
                value, failure = asked(*arguments)
                if failure is not None:
                    kind, value = "failure", SentFailureError.of(failure)
            else:
                if (
                    method != "load_state_dict"
                ):  # an event's metrics refuse changes, as in the trainer's process
                    arguments = [MappingProxyType(a) if isinstance(a, dict) else a for a in arguments]
                value, failure = attempt(where, lambda: getattr(provider, method)(*arguments))  # noqa: B023
                if failure is not None:
                    kind, value = "PluginError", f"{method} failed: {reason_of(failure)}"
        except PluginError as error:
            kind, value = "PluginError", str(error)
        _reply(connection, kind, value, provider, where)
        sys.stdout.flush()


class _Asked:
    """Asks the provider, a coroutine on an event loop of this process; failures become texts, to be sent."""

    def __init__(self, method: Callable[..., Any], where: str, tokenizer: Any) -> None:
        self.method, self.where, self.tokenizer = method, where, tokenizer
        self.with_context = takes_context(method, where)
        self.loop = EventLoop() if is_coroutine_function(method) else None

    def __call__(self, given: Any, context: RewardContext) -> tuple[Any, BaseException | None]:
        context = replace(context, tokenizer=self.tokenizer)
        arguments = (given, context) if self.with_context else (given,)

        def call() -> Any:
            return self.method(*arguments)

        if self.loop is None:
            value, failure = attempt(self.where, call)
        else:
            value, failure = self.loop.run(attempt_async(self.where, call, None))
        if isinstance(value, BaseException):
            return None, value
        if isinstance(value, Scored):
            value = replace(value, value=_sendable(value.value))
            if isinstance(value.parts, Mapping):
                value = replace(value, parts={name: _sendable(part) for name, part in value.parts.items()})
        if isinstance(value, RewardOutput):
            value = replace(
                value,
                failures={i: _sendable(reason) for i, reason in value.failures.items()},
                part_failures={
                    name: {i: _sendable(reason) for i, reason in reasons.items()}
                    for name, reasons in value.part_failures.items()
                },
            )
        return value, failure


def _sendable(value: Any) -> Any:
    """An exception, which may be of any class, as one that every process knows."""
    return SentFailureError.of(value) if isinstance(value, BaseException) else value


def _build(
    kind: str,
    use: str,
    options: Mapping[str, Any],
    context: BuildContext,
    where: str,
    disabled: Sequence[str],
) -> Any:
    import torch

    from ppokit.config.registry import PluginRegistry

    torch.manual_seed(context.seed)
    with plugin_call(where, "build"):
        component, _ = PluginRegistry(disabled).component(kind, use)
        return component.build(component.options.model_validate(options), context)


def _close(provider: Any, where: str, loop: EventLoop | None) -> None:
    try:
        with plugin_call(where, "close"):
            if callable(close := getattr(provider, "close", None)):
                closing = close()
                if inspect.iscoroutine(closing):
                    (loop or EventLoop()).run(closing)
    except PpokitError as error:  # nobody waits for an answer any more
        print(f"ppokit: warning: {error}", file=sys.stderr)


def _class_name(error: PpokitError) -> str:
    """Of the nearest class in ppokit.errors that is built of a text alone, as the trainer builds it."""
    known = (own for own in type(error).__mro__ if own.__module__ == errors.__name__)
    return next(own.__name__ for own in known if "__init__" not in vars(own))


def _reply(connection: Connection, kind: str, value: object, provider: Any, where: str) -> None:
    try:
        with plugin_call(where, "state_dict"):
            state = provider.state_dict() if isinstance(provider, Stateful) else None
        message = pickle.dumps((kind, value, state))
    except Exception as error:
        text = str(error) if isinstance(error, PluginError) else f"its answer cannot be sent: {error}"
        message = pickle.dumps(("PluginError", text, None))
    connection.send_bytes(message)
