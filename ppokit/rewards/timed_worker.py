"""A reward provider in a process of its own (`isolate: process`), ended where a call outlasts its `timeout`.

A thread cannot be stopped, and code in C that holds the interpreter's lock, such as a regular expression
that backtracks, also keeps the main thread from hearing of signals. The process (`worker_process`) builds the
provider from what the recipe names, as every process of a run does, and hears of the run's events. It never
outlives the trainer: however that ends, the kernel ends the process. After a time-out the next call starts a
new one, with the state of the last call that returned. There are as many processes as the recipe wants calls
at once, each with an object of its own.
"""

from __future__ import annotations

import inspect
import pickle  # between a process and the one that it started; nothing else is unpickled
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from ppokit.errors import PluginError
from ppokit.plugin.hookspecs import Events, hookimpl
from ppokit.plugin.protocols import BuildContext
from ppokit.plugin.scoring import RewardContext
from ppokit.rewards.worker_pool import WorkerPool

if TYPE_CHECKING:
    from ppokit.config.components import SelectedComponent

_NO_CONTEXT = RewardContext()


def in_worker(
    reward: SelectedComponent, context: BuildContext, disabled: Sequence[str] = ()
) -> WorkerProvider | None:
    """The provider that a recipe names, in a process of its own.

    Returns: None of a coroutine, which is cancelled at its timeout, unless the recipe wants a process for it.

    Args:
        reward: the recipe's; its timeout is of calls, building is not limited.
        context: for the component's `build`; a base cannot be shared with another process.
        disabled: plugins that `use` does not mean.

    Raises:
        PpokitError: it cannot be built.
    """
    options, where = reward.options.model_dump(by_alias=True), reward.where
    count = reward.settings.concurrency or 1
    try:
        spec = pickle.dumps((reward.kind, reward.settings.use, options, context, where, tuple(disabled)))
    except Exception as error:
        raise PluginError(f"{where}: its options cannot be sent to a process of its own: {error}") from error
    pool = WorkerPool(spec)
    first = pool.first
    if first.awaited and reward.settings.isolate is None:
        pool.end()
        return None
    try:
        if first.stateful and count > 1:
            raise PluginError(
                f"{where} keeps state (state_dict), and {reward.key}.concurrency is {count}: each of its "
                "processes would have a state of its own; leave concurrency out, or set isolate: thread."
            )
        pool.grow(count)
    except BaseException:
        pool.end(kill=True)
        raise
    base = StatefulWorkerProvider if first.stateful else WorkerProvider
    members: dict[str, Any] = {event: _forward(event, names) for event, names in first.events.items()}
    members[first.method] = _ask(first.method)
    provider: WorkerProvider = type(base.__name__, (base,), members)(pool, reward.settings.timeout)
    return provider


def _ask(method: str) -> Callable[..., Any]:
    """The provider's one method, as it has it: `score` or `score_one`."""

    def ask(self: WorkerProvider, given: Any, context: RewardContext = _NO_CONTEXT) -> Any:
        """As the provider's.

        Raises:
            TimeoutError: no answer in time.
            ChildProcessError: the process ended.
            PpokitError: what the provider raised.
        """
        # The process has the tokenizer of its build: sending one takes as long as most rewards do.
        return self.pool.call(method, [given, replace(context, tokenizer=None)], self.timeout)

    return ask


def _forward(event: str, names: Sequence[str]) -> Callable[..., None]:
    """A method that passes an event on with the arguments that the provider's own method names."""
    specification = getattr(Events, event)
    given = list(inspect.signature(specification).parameters)[1:]

    @wraps(specification)
    def forward(self: WorkerProvider, *values: Any) -> None:
        # A mapping that refuses changes cannot be sent.
        sent = {k: dict(v) if isinstance(v, Mapping) else v for k, v in zip(given, values, strict=True)}
        self.pool.tell(event, [sent[name] for name in names], self.timeout)

    method: Callable[..., None] = hookimpl(forward)
    return method


class WorkerProvider:
    """Passes calls on to the provider in its processes, with its method `score` or `score_one`."""

    def __init__(self, pool: WorkerPool, timeout: float | None) -> None:
        self.pool = pool
        self.timeout = timeout
        self.whole_groups, self.responses_per_call = pool.first.sizes

    def close(self) -> None:
        """End the processes."""
        self.pool.end()


class StatefulWorkerProvider(WorkerProvider):
    """One whose provider keeps state from step to step."""

    def state_dict(self) -> Mapping[str, Any]:
        """After the last call that returned."""
        return self.pool.first.state or {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As the provider's."""
        self.pool.call("load_state_dict", [state], self.timeout)
