"""A metric and the references of a recipe, tried before a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ppokit.plugin import PluginError
from ppokit_metrics.finding import is_here, is_offline, own_name, problems
from ppokit_metrics.loading import Metric

_TRIED, _TRIED_OF_OTHERS = 200, 8
"""References that are looked at; other people's metrics may take their time."""


def trial(
    name: str,
    config: str | None,
    arguments: Mapping[str, Any],
    references: Sequence[Any] | None,
    *,
    per_response: bool,
) -> Iterator[str]:
    """What a metric says to these references, with texts of them in the place of responses.

    Nothing of one that would be fetched from the hub.

    Args:
        references: None where the recipe names no column; empty where they are not known.
        per_response: whether each response is to have a number.
    """
    if any(problems(name)) or not (is_here(name) or is_offline()):
        return
    try:
        metric = Metric(name, config, arguments)
        metric.check_references(references is not None)
    except PluginError as error:
        yield f"metric: {error}"
        return
    if references:
        count = _TRIED if own_name(name) else _TRIED_OF_OTHERS
        # Of those beyond, one of each number of texts.
        lengths = {len(own): own for own in references[count:] if isinstance(own, list | tuple)}
        tried = [*references[:count], *lengths.values(), references[0]]
        texts = [str(own[0] if isinstance(own, list | tuple) and own else own) for own in tried]
        # Some right and some wrong: of right ones alone, the number of a set is the mean of single ones. And
        # no number or label alone: a policy writes other things too.
        texts = [text + " and more" if i % 2 else text for i, text in enumerate(texts[:-1])]
        texts.append(f"no {texts[0]}")
        try:
            (metric.per_response if per_response else metric.compute)(texts, tried)
        except PluginError as error:
            yield f"metric: tried before the run, {error!s}"
