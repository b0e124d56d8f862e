"""The harmonic mean of precision and recall of labels, numbers or texts; computed by scikit-learn.

A number of a whole set of labels: there is none per response.

Differs: `average: binary` takes labels of more than two kinds, of which those that are not `pos_label` are
alike, since a policy may write anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from sklearn.metrics import f1_score

KINDS = (datasets.Value("string"), datasets.Value("int32"))  # the first that fits: "1" stays a text


class F1(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description="predictions, references: a label each.",
            features=[datasets.Features({"predictions": kind, "references": kind}) for kind in KINDS],
        )

    def _compute(
        self,
        predictions: Sequence[Any],
        references: Sequence[Any],
        labels: Sequence[Any] | None = None,
        pos_label: Any = 1,
        average: str | None = "binary",
        sample_weight: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """F1 in [0, 1]; an array of one per label where `average` is None.

        Raises:
            ValueError: no label is `pos_label`.
        """
        if average == "binary":
            if len(set(references)) > 1 and pos_label not in {*references, *predictions}:
                raise ValueError(
                    f"no label is {pos_label!r}, which pos_label says; expected arguments: "
                    f"{{pos_label: LABEL}} for the F1 of one label, such as {references[0]!r}, or "
                    "{average: macro} for the mean of all"
                )
            references, predictions = (
                [own == pos_label for own in side] for side in (references, predictions)
            )
            pos_label = True
        score = f1_score(
            references,
            predictions,
            labels=labels,
            pos_label=pos_label,
            average=average,
            sample_weight=sample_weight,
            zero_division=0.0,
        )
        return {"f1": score if getattr(score, "size", 1) > 1 else float(score)}
