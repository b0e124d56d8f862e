"""Components keep their contracts: tensors, advantages and metrics are checked where they enter."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from torch import Tensor

from ppokit.errors import PluginError, excerpt_of
from ppokit.plugin.reductions import Max, Mean, Reduction, Sum
from ppokit.plugin.types import Advantages, Rollout

CORE_METRICS = frozenset(
    {
        "step",
        "learning_rate",
        "grad_norm",
        "tokens_per_s",
        "advantages/mean",
        "advantages/std",
        "advantages/masked_truncated",
        "value/explained_variance",
        "value/mean",
        "value/return_mean",
        "policy/approx_kl",
        "policy/entropy",
        "policy/ratio_std_at_start",
    }
)
"""Names that no component may report under; beside them, all names that begin as `CORE_PREFIXES`."""

CORE_PREFIXES = (
    "reward/",
    "response/",
    "rollout/",
    "kl/",
    "loss/",
    "update/",
    "groups/",
    "eval/",
    "time/",
    "memory/",
)


def check_tensor(where: str, name: str, value: object, shape: list[int], axes: str) -> Tensor:
    """What a component returned as `name`, once it is a tensor of this shape; `where` is how errors name it.

    Raises:
        PluginError: it is not.
    """
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise PluginError(f"{where} returned {name} of type {kind}; expected a tensor {shape} ({axes}).")
    if list(value.shape) != shape:
        actual = list(value.shape)
        raise PluginError(f"{where} returned {name} of shape {actual}; expected {shape} ({axes}).")
    return value


def check_estimate(result: object, rollout: Rollout, where: str) -> None:
    """What an estimator returned is what was promised; `where` is how errors name it.

    Raises:
        PluginError: a wrong shape, or a number that is not finite.
    """
    if not isinstance(result, Advantages):
        raise PluginError(f"{where} returned a {type(result).__name__}; expected Advantages.")
    expected = list(rollout.response_ids.shape)
    trained = result.trained
    if trained is not None:
        actual = (
            f"shape {list(trained.shape)} and {trained.dtype}"
            if isinstance(trained, Tensor)
            else f"type {type(trained).__name__}"
        )
        if actual != f"shape {expected[:1]} and torch.bool":
            raise PluginError(
                f"{where} returned trained of {actual}; expected {expected[:1]} (responses) of torch.bool."
            )
    for name, numbers in (("advantages", result.advantages), ("returns", result.returns)):
        if numbers is None:
            continue
        check_tensor(where, name, numbers, expected, "responses, response tokens")
        bad = (~numbers.isfinite() & rollout.loss_mask).any(dim=1).nonzero().flatten().tolist()
        if bad:
            named = ", ".join(rollout.ids[row] for row in bad[:8])
            raise PluginError(
                f"{where} returned {name} that are not finite for the samples {named}; expected "
                "finite numbers."
            )


def component_metrics(
    metrics: object, where: str, *, responses: int, prefix: str = "", taken: Collection[str] = ()
) -> dict[str, Reduction]:
    """What a component reported, checked, each number with its reduction.

    Args:
        metrics: as the component returned them, by name.
        where: how errors name the component.
        responses: that it saw; the weight of a plain number, which is a mean.
        prefix: what the core puts before the names; with one, no name can be a core name.
        taken: names, prefix included, that the core or another component reports under.

    Raises:
        PluginError: no mapping, a name that is taken, or a value that is not one finite number.
    """
    if not isinstance(metrics, Mapping):
        raise PluginError(
            f"{where} returned metrics of type {type(metrics).__name__}; expected numbers by name."
        )
    checked: dict[str, Reduction] = {}
    for key, value in metrics.items():
        if not isinstance(key, str) or not key:
            raise PluginError(f"{where} returned a metric with the name {key!r}; expected a text.")
        check_metric_name(prefix + key, where, prefixed=bool(prefix), taken=taken)
        checked[prefix + key] = _reduction(key, value, where, responses)
    return checked


def check_metric_name(name: str, where: str, *, prefixed: bool = False, taken: Collection[str] = ()) -> None:
    """A component reports under a name of its own.

    Args:
        prefixed: whether the core put a prefix of the component's before the name.

    Raises:
        PluginError: the core or another component reports under this name.
    """
    core = not prefixed and (name in CORE_METRICS or name.startswith(CORE_PREFIXES))
    if core or name in taken:
        whose = "ppokit's own" if core else "taken"
        raise PluginError(f"{where} returned the metric {name!r}, a name that is {whose}; choose another.")


def _reduction(key: str, value: object, where: str, responses: int) -> Reduction:
    """One number with its reduction."""
    number = value.value if isinstance(value, Reduction) else value
    weight = value.weight if isinstance(value, Mean) else float(responses)
    try:
        if isinstance(number, str | bytes):
            raise TypeError
        number, weight = float(number), float(weight)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last by tensors of several elements
        number = math.nan
    if not (math.isfinite(number) and math.isfinite(weight) and weight >= 0):
        raise PluginError(
            f"{where} returned the metric {key!r} as {excerpt_of(value, 80)}; expected one "
            "finite number, or a Mean (of weight 0 or more), Sum or Max of one."
        )
    if isinstance(value, Sum | Max):
        return type(value)(number)
    return Mean(number, weight)
