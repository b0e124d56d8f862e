"""The share of labels, numbers or texts, that are right; computed by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from sklearn.metrics import accuracy_score

KINDS = (datasets.Value("string"), datasets.Value("int32"))  # the first that fits: "1" stays a text


class Accuracy(evaluate.Metric):
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
        normalize: bool = True,
        sample_weight: Sequence[float] | None = None,
        use_aggregator: bool = True,
    ) -> dict[str, Any]:
        """The share in [0, 1], or the number where `normalize` is off.

        Args:
            use_aggregator: without it, 1.0 or 0.0 per label.
        """
        if not use_aggregator:
            pairs = zip(predictions, references, strict=True)
            return {"accuracy": [float(prediction == reference) for prediction, reference in pairs]}
        share = accuracy_score(references, predictions, normalize=normalize, sample_weight=sample_weight)
        return {"accuracy": float(share)}
