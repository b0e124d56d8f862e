"""A metric of Hugging Face `evaluate`, and its numbers: of all responses, per response, and as shares.

Texts are compared by `evaluate`'s own `compute`. `per_response` asks it for one number per response: by
`use_aggregator: false` where the metric has that argument, as ROUGE on the hub; else by the lists that it
returns; else for each response alone, where the mean of those numbers is that of all.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from numbers import Real
from typing import Any

from ppokit.plugin import PluginError, first_line, jackknife_shares
from ppokit_metrics.finding import OF_WHOLE_SETS, own_name, problems, script_of, why_not

_FEW = 8
"""Entries that a list may have for another reason than one per response."""
_MANY = 64
"""Responses by which it shows whether a number is drawn."""


class Metric:
    """A metric of `evaluate`.

    Args:
        name: as in the recipe.
        config: configuration of the metric, such as a language.
        arguments: further ones of its `compute`.

    Raises:
        PluginError: it cannot be had.
    """

    def __init__(self, name: str, config: str | None, arguments: Mapping[str, Any]) -> None:
        for problem in problems(name):
            raise PluginError(problem)
        script = script_of(name)
        self.name, self.arguments, self._own = name, dict(arguments), own_name(name)
        evaluate = importlib.import_module("evaluate")
        try:
            self.module = evaluate.load(str(script or name), config, keep_in_memory=True)
        except Exception as error:  # of the hub, of datasets, or of the metric's own imports
            raise PluginError(f"the metric {name!r} cannot be loaded: {why_not(script, error)}") from error
        parameters = inspect.signature(self.module._compute).parameters
        self._aggregates = "use_aggregator" in parameters
        self._given = {name: self.arguments.get(name, own.default) for name, own in parameters.items()}

    def check_references(self, given: bool) -> None:
        """That the recipe names a column of references if the metric compares with some.

        Raises:
            PluginError: it names none.
        """
        features = self.module.features
        forms = features if isinstance(features, list) else [features]
        if not given and all("references" in form for form in forms):
            raise PluginError(
                f"the metric {self.name!r} compares with references; expected reference, the column that has "
                "them"
            )

    def compute(self, predictions: Sequence[Any], references: Sequence[Any] | None) -> dict[str, Any]:
        """What the metric returns of all of them.

        Raises:
            PluginError: it cannot compare these.
        """
        return self._compute(predictions, references, self.arguments)

    def _compute(
        self,
        predictions: Sequence[Any],
        references: Sequence[Any] | None,
        arguments: Mapping[str, Any],
        seed: int = 0,
    ) -> dict[str, Any]:
        texts: dict[str, Any] = {"predictions": list(predictions)}
        if references is not None:
            texts["references"] = list(references)
            if len(kinds := {kind_of(own): own for own in references if own != []}) > 1:
                shown = " and ".join(repr(own)[:60] for own in list(kinds.values())[:2])
                raise PluginError(f"references are of different kinds, such as {shown}; expected one kind")
        self.module.seed = seed  # of ROUGE's bootstrap: else another one in each process
        try:
            results = self.module.compute(**texts, **arguments)
        except Exception as error:  # the metric's code is anyone's
            shown = "" if references is None else f" with references such as {references[0]!r}"
            raise PluginError(
                f"the metric {self.name!r} failed on {len(predictions)} responses{shown}: {first_line(error)}"
            ) from error
        if not isinstance(results, dict):
            raise PluginError(f"the metric {self.name!r} gave {type(results).__name__}; expected a dict")
        return results

    def numbers(self, results: Mapping[str, Any]) -> dict[str, float]:
        """The single numbers of what `compute` gave: no lists, texts, or what is not finite.

        Nor arguments that are given back, as `beta` by chrF.
        """
        single = {
            name: float(value)
            for name, value in results.items()
            if isinstance(value, Real) or getattr(value, "shape", None) == ()
        }
        return {
            name: value
            for name, value in single.items()
            if math.isfinite(value) and not (name in self._given and value == self._given[name])
        }

    def contributions(
        self, predictions: Sequence[Any], references: Sequence[Any] | None, results: Mapping[str, Any]
    ) -> dict[str, list[float]]:
        """Of each number one per response whose mean it is, as far as there is one, and the metric's lists.

        BLEU and its like are numbers of a whole set: of them these are their `shares`, and the number of each
        response alone stands under `<number>/per_response`; so with others' aggregates that are no means.

        Args:
            results: what `compute` gave of these.
        """
        lists = self.lists(predictions, references, results)
        if self._own in OF_WHOLE_SETS:
            alone = {f"{name}/per_response": own for name, own in lists.items()}
            return alone | self.shares(predictions, references, results)
        whole = self.numbers(results)
        if lists:
            of_set = [
                name for name in lists if not self._averages(name, lists, whole, predictions, references)
            ]
            alone = {f"{name}/per_response": lists.pop(name) for name in of_set}
            same = {
                name: own
                for name, number in whole.items()
                for own in lists.values()
                if name not in lists and _is_mean(number, own)
            }
            lists |= same
        else:
            alone = {}
            with suppress(PluginError):  # some can say nothing of an empty response alone
                lists = self._means(self._alone(predictions, references), whole)
        if not whole.keys() <= lists.keys():
            with suppress(PluginError):
                lists = self.shares(predictions, references, results) | lists
        return alone | lists

    def _averages(
        self,
        name: str,
        lists: Mapping[str, Sequence[float]],
        whole: Mapping[str, float],
        predictions: Sequence[Any],
        references: Sequence[Any] | None,
    ) -> bool:
        """Whether a metric that has a list of this name makes one number of it as a mean, if it makes one.

        A number that is drawn, as ROUGE's median of bootstrap means, counts as their mean.
        """
        if name not in whole or self._own == "rouge" or _is_mean(whole[name], lists[name]):
            return True
        copies = -(-_MANY // len(predictions))  # of a few, draws may have the same median
        texts = [*predictions] * copies
        more = None if references is None else [*references] * copies
        try:
            draws = [self._compute(texts, more, self.arguments, seed)[name] for seed in (1, 2)]
        except PluginError:  # an argument has an entry per response, such as its weight
            return False
        return bool(draws[0] != draws[1])

    def lists(
        self, predictions: Sequence[Any], references: Sequence[Any] | None, results: Mapping[str, Any]
    ) -> dict[str, list[float]]:
        """The numbers per response that the metric returns by itself; none where it returns none.

        Args:
            results: what `compute` gave of these.
        """
        if self._aggregates:
            results = self._compute(predictions, references, {**self.arguments, "use_aggregator": False})
        lists = _lists(results, len(predictions))
        if lists and not self._aggregates and len(predictions) <= _FEW:
            # What has as many entries by chance, as BLEU's four precisions, has as many for more texts too.
            more = None if references is None else [*references, references[0]]
            again = _lists(self.compute([*predictions, predictions[0]], more), len(predictions) + 1)
            lists = {name: own for name, own in lists.items() if name in again}
        return {name: list(map(float, own)) for name, own in lists.items()}

    def shares(
        self, predictions: Sequence[Any], references: Sequence[Any] | None, results: Mapping[str, Any]
    ) -> dict[str, list[float]]:
        """What each response adds to numbers of a whole set: the mean of its shares is the set's number.

        See `jackknife_shares`. Sums, such as a count of words, have none.

        Args:
            results: what `compute` gave of these.
        """
        count = len(predictions)
        if count < 2:
            return {}
        left_out = [
            self.numbers(
                self.compute(
                    [*predictions[:i], *predictions[i + 1 :]],
                    None if references is None else [*references[:i], *references[i + 1 :]],
                )
            )
            for i in range(count)
        ]
        shares: dict[str, list[float]] = {}
        for name, whole in self.numbers(results).items():
            values = [own[name] for own in left_out if name in own]
            if len(values) < count:
                continue
            is_sum = math.isclose(sum(values) / count, whole * (count - 1) / count, rel_tol=1e-9)
            if whole == 0 or not is_sum:
                shares[name] = jackknife_shares(whole, values)
        return shares

    def per_response(
        self, predictions: Sequence[Any], references: Sequence[Any] | None
    ) -> dict[str, list[float]]:
        """One number per response, by the metric's names.

        Raises:
            PluginError: the metric's number is one of a whole set.
        """
        whole = {} if self._aggregates else self.compute(predictions, references)
        if lists := self.lists(predictions, references, whole):
            return lists
        alone = self._alone(predictions, references)
        if same := self._means(alone, self.numbers(whole)):
            return same
        raise PluginError(
            f"the metric {self.name!r} gives one number for a whole set of responses and none per "
            f"response: of these {len(predictions)}, {_shown(whole, alone)}. Expected a metric of single "
            "responses, such as rouge, chrf, exact_match or accuracy."
        )

    def _alone(self, predictions: Sequence[Any], references: Sequence[Any] | None) -> dict[str, list[float]]:
        """The numbers of each response as a set of its own."""
        single = [
            self.numbers(self.compute([text], None if references is None else [references[i]]))
            for i, text in enumerate(predictions)
        ]
        return {
            name: [own[name] for own in single] for name in single[0] if all(name in own for own in single)
        }

    @staticmethod
    def _means(alone: Mapping[str, Sequence[float]], whole: Mapping[str, float]) -> dict[str, list[float]]:
        """Those whose mean is the number of the whole set."""
        return {
            name: list(own) for name, own in alone.items() if name in whole and _is_mean(whole[name], own)
        }


def _is_mean(number: float, of: Sequence[float]) -> bool:
    return math.isclose(sum(of) / len(of), number, abs_tol=1e-6)


def _shown(whole: Mapping[str, Any], alone: Mapping[str, Sequence[float]]) -> str:
    name, own = next(((name, own) for name, own in alone.items() if name in whole), (None, ()))
    if name is None:
        return "it returned no number"
    mean = sum(own) / len(own)
    return f"{name} is {float(whole[name]):.4g}, and {mean:.4g} is the mean of {name} of each alone"


def _lists(results: Mapping[str, Any], length: int) -> dict[str, Sequence[Any]]:
    """Those that hold so many numbers."""
    result: dict[str, Sequence[Any]] = {}
    for name, value in results.items():
        own = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(own, list | tuple) and len(own) == length and all(isinstance(x, Real) for x in own):
            result[name] = own
    return result


def kind_of(reference: Any) -> str:
    """What a reference is, as far as a metric cares: `evaluate` makes texts of lists, and lists of texts."""
    if isinstance(reference, list | tuple):
        return f"list of {' and '.join(sorted(set(map(kind_of, reference))))}"
    return "number" if isinstance(reference, Real) else type(reference).__name__
