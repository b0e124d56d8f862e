"""ROUGE: n-grams and common subsequences that a text shares with its reference.

Lin 2004, https://aclanthology.org/W04-1013; computed by rouge_score. F-measures, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
from rouge_score import rouge_scorer, scoring

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
TEXT = datasets.Value("string")


class _Tokenizer:
    """A function as rouge_score wants it."""

    def __init__(self, tokenize: Callable[[str], list[str]]) -> None:
        self.tokenize = tokenize


class Rouge(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description="predictions: texts. references: a text each, or several; the best counts.",
            features=[
                datasets.Features({"predictions": TEXT, "references": datasets.Sequence(TEXT)}),
                datasets.Features({"predictions": TEXT, "references": TEXT}),
            ],
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Any],
        rouge_types: Sequence[str] | None = None,
        use_aggregator: bool = True,
        use_stemmer: bool = False,
        tokenizer: Callable[[str], list[str]] | None = None,
    ) -> dict[str, Any]:
        """F-measures by type.

        Args:
            use_aggregator: the median of 1,000 bootstrap samples' means, as on the hub; without it, one
                number per prediction.
        """
        types = list(rouge_types or TYPES)
        own = None if tokenizer is None else _Tokenizer(tokenizer)
        scorer = rouge_scorer.RougeScorer(types, use_stemmer=use_stemmer, tokenizer=own)
        scores = [
            scorer.score(reference, prediction)
            if isinstance(reference, str)
            else scorer.score_multi(reference, prediction)
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        if not use_aggregator:
            return {name: [score[name].fmeasure for score in scores] for name in types}
        aggregator = scoring.BootstrapAggregator()
        for score in scores:
            aggregator.add_scores(score)
        return {name: float(score.mid.fmeasure) for name, score in aggregator.aggregate().items()}
