"""The share of texts that are their reference, letter by letter, but for what is left out of both."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

TEXT = datasets.Value("string")


class ExactMatch(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description="predictions: texts. references: a text each.",
            features=datasets.Features({"predictions": TEXT, "references": TEXT}),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        regexes_to_ignore: Sequence[str] | None = None,
        ignore_case: bool = False,
        ignore_punctuation: bool = False,
        ignore_numbers: bool = False,
        use_aggregator: bool = True,
    ) -> dict[str, Any]:
        """The share in [0, 1].

        Args:
            regexes_to_ignore: what is left out first, in this order.
            use_aggregator: without it, 1.0 or 0.0 per text.
        """
        left_out = (string.punctuation if ignore_punctuation else "") + (
            string.digits if ignore_numbers else ""
        )
        table = str.maketrans("", "", left_out)

        def compared(text: str) -> str:
            for pattern in regexes_to_ignore or ():
                text = re.sub(pattern, "", text)
            return (text.lower() if ignore_case else text).translate(table)

        matches = [
            float(compared(prediction) == compared(reference))
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"exact_match": sum(matches) / len(matches) if use_aggregator else matches}
