"""The harmonic mean of precision and recall of labels, numbers or texts; computed by scikit-learn.

A number of a whole set of labels: there is none per response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from sklearn.metrics import f1_score

KINDS = (datasets.Value("int32"), datasets.Value("string"))


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
        """F1 in [0, 1]; an array of one per label where `average` is None."""
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
