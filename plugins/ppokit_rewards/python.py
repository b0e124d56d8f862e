"""Any Python function, named by its dotted path: texts and data-set columns in, one number per response out.

    function(prompts=[...], responses=[...], <column>=[...] for each column, **arguments) -> sequence
    function(prompt=..., response=..., <column>=... for each column, **arguments) -> number

Everything is passed by keyword, each list with one entry per response. A function gets only what its
signature accepts: `def reward(responses)` and `def reward(responses, answer, **columns)` are both
fine, and `def reward(response)` is asked for one response at a time. It returns numbers (True counts as 1),
in a list, tuple, or 1-D array or tensor; None abstains, and an exception in place of a number fails that
response. `async def` is awaited. A parameter `reward_context` gets the `RewardContext`.

TRL's reward functions look alike (prompts, completions, columns as keywords). Differs: the responses
are called `responses`, and what comes back is checked: a wrong length, a NaN or anything that is not
a number is an error that names the function and the sample.

The working directory can be imported from, as with pytest and gunicorn. `ppokit validate` imports the
function's module, so that a mistake shows before a model loads: what the module does when it is
imported is done then.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from pydantic import Field, field_validator

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    Options,
    PluginError,
    RewardContext,
    RewardOutput,
    Rollout,
    Sample,
    Value,
    hookimpl,
    import_attribute,
    is_coroutine_function,
)
from ppokit_rewards.function_values import values_of, what

_TEXTS = ("prompts", "responses")
_TEXT = ("prompt", "response")
_CONTEXT = "reward_context"


def python(
    function: Callable[..., Any],
    rollout: Rollout,
    arguments: Mapping[str, Any],
    *,
    name: str,
    context: RewardContext | None = None,
) -> list[Value]:
    """Call the function on a rollout and check what comes back.

    Args:
        function: as the module's docstring says.
        rollout: B responses, with the columns of the data set in `rows`.
        arguments: further keyword arguments.
        name: what to call the function in an error.
        context: what it gets as `reward_context`.

    Returns: per response a number, None where the function abstains, or what it failed of.

    Raises:
        PluginError: a column cannot be passed, or what is returned is not one number per response.
    """
    if len(rollout) == 0:
        return []
    return values_of(function(**_keywords(function, rollout, arguments, name, context)), rollout, name)


def _keywords(
    function: Callable[..., Any],
    rollout: Rollout,
    arguments: Mapping[str, Any],
    name: str,
    context: RewardContext | None,
) -> dict[str, Any]:
    columns = list(rollout.rows[0])
    for problem in _clashes(columns, arguments):
        raise PluginError(f"reward function {name}: {problem}")
    keywords: dict[str, Any] = {"prompts": list(rollout.prompts), "responses": list(rollout.responses)}
    keywords |= {column: [row.get(column) for row in rollout.rows] for column in columns}
    accepted, _ = _parameters(function)
    if accepted is not None:
        keywords = {key: value for key, value in keywords.items() if key in accepted}
        if _CONTEXT in accepted:
            keywords[_CONTEXT] = context
    return {**keywords, **arguments}


def _clashes(
    columns: Iterable[str], arguments: Mapping[str, Any], texts: tuple[str, ...] = _TEXTS
) -> Iterable[str]:
    """One sentence for each name that would be passed twice."""
    for name in texts:
        if name in arguments:
            yield f"arguments.{name} clashes with the {name} that every function is given; rename it"
    for column in columns:
        if column in texts and column != "prompt":  # mostly the prompts' own column
            yield f"the data set's column {column!r} clashes with the {column} of the rollout; rename it"
        if column in arguments:
            yield f"arguments.{column} clashes with the data set's column {column!r}; rename one of them"


def _parameters(function: Callable[..., Any]) -> tuple[set[str] | None, set[str]]:
    """Names that the function accepts as keywords, None for any; and those that it cannot do without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-ins tell nothing
        return None, set()
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = {p.name for p in by_name if p.default is p.empty}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None, required
    return {p.name for p in by_name}, required


def _find(path: str) -> Callable[..., Any]:
    """The callable at a dotted path; the error is one sentence."""
    try:
        function = import_attribute(path)
    except PluginError as error:
        raise PluginError(f"function {error}") from error
    if not callable(function):
        raise PluginError(f"function {path!r} is {what(function)}; expected a function")
    return cast(Callable[..., Any], function)


class PythonOptions(Options):
    function: str = Field(
        description="Path of the function: package.module:name or package.module.name; the working "
        "directory can be imported from."
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Further keyword arguments of the function, the same in each call."
    )

    @field_validator("function")
    @classmethod
    def _is_a_path(cls, value: str) -> str:
        module, colon, name = value.partition(":")
        parts = [*module.split("."), *(name.split(".") if colon else [])]
        if len(parts) < 2 or not all(part.isidentifier() for part in parts):
            raise ValueError(
                f"{value!r} is not a path of a function; expected package.module:name, such as rewards:brief"
            )
        return value


class _Calls:
    """What calls a function, and has its attributes that say how calls are cut."""

    def __init__(self, options: PythonOptions, function: Callable[..., Any]) -> None:
        self.options, self.function = options, function
        self.whole_groups = getattr(function, "whole_groups", False)
        self.responses_per_call = getattr(function, "responses_per_call", None)


class Python(_Calls):
    """A plain function of all responses."""

    def score(self, rollout: Rollout, context: RewardContext | None = None) -> RewardOutput:
        options = self.options
        values = python(self.function, rollout, options.arguments, name=options.function, context=context)
        return RewardOutput.from_values(values)


class AsyncPython(Python):
    """A coroutine of all responses."""

    async def score(self, rollout: Rollout, context: RewardContext | None = None) -> RewardOutput:  # type: ignore[override]
        options = self.options
        if len(rollout) == 0:
            return RewardOutput.from_values([])
        keywords = _keywords(self.function, rollout, options.arguments, options.function, context)
        return RewardOutput.from_values(values_of(await self.function(**keywords), rollout, options.function))


class PerResponse(_Calls):
    """A plain function of one response."""

    def score_one(self, sample: Sample, context: RewardContext | None = None) -> Any:
        return self.function(**self._keywords(sample, context))

    def _keywords(self, sample: Sample, context: RewardContext | None = None) -> dict[str, Any]:
        options = self.options
        for problem in _clashes(sample.row, options.arguments, _TEXT):
            raise PluginError(f"reward function {options.function}: {problem}")
        given = {**sample.row, "prompt": sample.prompt, "response": sample.response}
        accepted, _ = _parameters(self.function)
        if accepted is not None:
            given = {key: value for key, value in given.items() if key in accepted}
            if _CONTEXT in accepted:
                given[_CONTEXT] = context
        return {**given, **options.arguments}


class AsyncPerResponse(PerResponse):
    """A coroutine of one response."""

    async def score_one(self, sample: Sample, context: RewardContext | None = None) -> Any:
        return await self.function(**self._keywords(sample, context))


def build(options: PythonOptions, context: BuildContext) -> Python | PerResponse:
    """What calls the function as its signature wants it."""
    function = _find(options.function)
    awaited = is_coroutine_function(function)
    if _is_per_response(function):
        return (AsyncPerResponse if awaited else PerResponse)(options, function)
    return (AsyncPython if awaited else Python)(options, function)


def _is_per_response(function: Callable[..., Any]) -> bool:
    """Whether it names `response`, and not `responses`."""
    accepted, required = _parameters(function)
    names = required if accepted is None else accepted
    return "response" in names and "responses" not in names


def _waits(options: PythonOptions) -> bool:
    """Whether the function is a coroutine: the core then needs no process to end it."""
    try:
        return is_coroutine_function(_find(options.function))
    except PluginError:  # said by the check
        return False


def _module(function: str) -> str:
    """The module of a path, `package.module:name` or `package.module.name`."""
    module, colon, _ = function.partition(":")
    return module if colon else module.rpartition(".")[0]


def check(options: PythonOptions, context: CheckContext) -> Iterable[str]:
    try:
        accepted, required = _parameters(_find(options.function))
    except PluginError as error:
        yield str(error)
        return
    name = options.function
    texts = _TEXT if _is_per_response(_find(name)) else _TEXTS
    if accepted is not None:
        if not {"response", "responses"} & accepted:
            yield (
                f"function {name!r} has no parameter `responses`; expected one, for the list of responses "
                "(or `response`, for one at a time)"
            )
        for unknown in sorted(set(options.arguments) - accepted):
            yield f"arguments.{unknown}: function {name!r} has no such parameter"
    yield from _clashes(context.columns or (), options.arguments, texts)
    if context.columns is not None:
        given = {*texts, _CONTEXT, *context.columns, *options.arguments}
        for missing in sorted(required - given):
            yield (
                f"function {name!r} needs {missing!r}, which is neither a column of the data set "
                f"({', '.join(context.columns)}) nor in arguments"
            )


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    return [
        Component(
            "python",
            build,
            options=PythonOptions,
            check=check,
            waivers={"names_examples": "the recipe's function decides what is better"},
            awaited=_waits,
            imports=lambda options: {_module(options.function): None},
        )
    ]
