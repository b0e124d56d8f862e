"""A recipe's metric by its name: one of ppokit's own, of a package or a path, or of the hub.

    rouge                       ppokit's own, where there is one of that name
    package:my-metrics/politeness   a folder that an installed distribution ships
    ./politeness.py, ./politeness   a script, or a folder with one of its name
    bertscore, org/name         the hub, over the network, or from the cache after that

Texts are compared by `evaluate`'s own `compute`. `per_response` asks it for one number per response: by
`use_aggregator: false` where the metric has that argument, as ROUGE on the hub; else by the lists that it
returns; else for each response alone, where the mean of those numbers is that of all.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any

from ppokit.plugin import PluginError, first_line

_HERE = Path(__file__).parent
OWN = tuple(sorted(folder.name for folder in _HERE.iterdir() if (folder / f"{folder.name}.py").is_file()))
"""Names of the metrics that are part of ppokit."""
OF_WHOLE_SETS = ("chrf", "f1", "sacrebleu")
"""Those whose numbers are of a whole set, and no means of numbers of single responses."""
TAKE_LISTS = ("chrf", "rouge", "sacrebleu")
"""Those of them that take several references per response."""
_FEW = 8
"""Entries that a list may have for another reason than one per response."""


def _script(name: str) -> Path | None:
    """Where a metric's script is looked for on this machine; None for one of the hub.

    Raises:
        PluginError: a distribution is not installed, or its folder is not there.
    """
    if name in OWN:
        return _HERE / name / f"{name}.py"
    if name.startswith("package:"):
        package, _, inside = name.removeprefix("package:").partition("/")
        try:
            folder = Path(str(distribution(package).locate_file(inside))) if package and inside else None
        except PackageNotFoundError:
            raise PluginError(
                f"metric: {name!r} names the package {package!r}, which is not installed: "
                f"pip install {package}"
            ) from None
        if folder is None:
            raise PluginError(f"metric: got {name!r}; expected package:DISTRIBUTION/FOLDER")
        return folder if folder.suffix == ".py" else folder / f"{folder.name}.py"
    if name.endswith(".py") or name.startswith((".", "/", "~")) or Path(name).exists():
        path = Path(name).expanduser()
        return path if path.suffix == ".py" else path / f"{path.resolve().name}.py"
    return None


def is_here(name: str) -> bool:
    """Whether a metric's script is on this machine, and not on the hub."""
    return _script(name) is not None


def problems(name: str) -> Iterator[str]:
    """What keeps a metric from being loaded, as far as files tell."""
    try:
        script = _script(name)
    except PluginError as error:
        yield str(error)
        return
    if script is None:
        return
    if not script.is_file():
        yield f"metric: there is no file {script}"
        return
    missing = [module for module in _imports(script) if find_spec(module) is None]
    if missing and name in OWN:
        yield f"metric: {name} needs {', '.join(missing)}: pip install 'ppokit[metrics]'"
    elif missing:
        yield f"metric: {name} imports {', '.join(missing)}, which is not installed"


def _imports(script: Path) -> list[str]:
    """Top-level modules that a script imports, but for files beside it."""
    try:
        tree = ast.parse(script.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []  # loading says what is wrong
    modules: dict[str, None] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules.update(dict.fromkeys(alias.name.partition(".")[0] for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules[node.module.partition(".")[0]] = None
    beside = {path.stem for path in script.parent.glob("*.py")} - {script.stem}
    return [module for module in modules if module not in beside]


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
        script = _script(name)
        self.name, self.arguments = name, dict(arguments)
        evaluate = importlib.import_module("evaluate")
        try:
            self.module = evaluate.load(str(script or name), config, keep_in_memory=True)
        except Exception as error:  # of the hub, of datasets, or of the metric's own imports
            raise PluginError(
                f"the metric {name!r} cannot be loaded: {first_line(error)} One of the hub comes "
                f"over the network, and from the cache after that. {', '.join(OWN)} need no network; nor do "
                "a script's path and package:DISTRIBUTION/FOLDER. A missing module is a package it needs."
            ) from error
        self._aggregates = "use_aggregator" in inspect.signature(self.module._compute).parameters

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
        self, predictions: Sequence[Any], references: Sequence[Any] | None, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        texts: dict[str, Any] = {"predictions": list(predictions)}
        if references is not None:
            texts["references"] = list(references)
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

            t_i = t + (n - 1) (mean over j of t_-j - t_-i),   t_-i = the number without response i

        The jackknife's pseudo-values (Efron and Tibshirani 1993, chapter 11), moved to have the mean t: by
        them differences of a set's number have intervals. Sums, such as a count of words, and numbers that no
        response changes have none.

        Args:
            results: what `compute` gave of these.
        """
        count = len(predictions)
        if count < 2:
            return {}
        left_out = [
            numbers(
                self.compute(
                    [*predictions[:i], *predictions[i + 1 :]],
                    None if references is None else [*references[:i], *references[i + 1 :]],
                )
            )
            for i in range(count)
        ]
        shares: dict[str, list[float]] = {}
        for name, whole in numbers(results).items():
            values = [own[name] for own in left_out if name in own]
            mean = sum(values) / max(1, len(values))
            is_sum = math.isclose(mean, whole * (count - 1) / count, rel_tol=1e-9)
            if len(values) == count and len(set(values)) > 1 and not is_sum:
                shares[name] = [whole + (count - 1) * (mean - value) for value in values]
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
        single = [
            numbers(self.compute([text], None if references is None else [references[i]]))
            for i, text in enumerate(predictions)
        ]
        means = {
            name: sum(own[name] for own in single) / len(single)
            for name in numbers(whole)
            if all(name in own for own in single)
        }
        same = [name for name, mean in means.items() if math.isclose(mean, whole[name], abs_tol=1e-6)]
        if not same:
            raise PluginError(
                f"the metric {self.name!r} gives one number for a whole set of responses and none per "
                f"response: of these {len(predictions)}, {_shown(whole, means)}. Expected a metric of single "
                "responses, such as rouge, chrf, exact_match or accuracy."
            )
        return {name: [own[name] for own in single] for name in same}


def _shown(whole: Mapping[str, Any], means: Mapping[str, float]) -> str:
    if not means:
        return "it returned no number"
    name, mean = next(iter(means.items()))
    return f"{name} is {float(whole[name]):.4g}, and {mean:.4g} is the mean of {name} of each alone"


def _lists(results: Mapping[str, Any], length: int) -> dict[str, Sequence[Any]]:
    """Those that hold so many numbers."""
    result: dict[str, Sequence[Any]] = {}
    for name, value in results.items():
        own = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(own, list | tuple) and len(own) == length and all(isinstance(x, Real) for x in own):
            result[name] = own
    return result


def numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """The single numbers of what a metric returned; lists and texts are left out."""
    return {
        name: float(value)
        for name, value in results.items()
        if isinstance(value, Real) or getattr(value, "shape", None) == ()
    }
