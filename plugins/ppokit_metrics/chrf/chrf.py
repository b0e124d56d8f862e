"""chrF: the F-score of n-grams of characters; with `word_order: 2` chrF++.

Popović 2015, https://aclanthology.org/W15-3049; computed by sacrebleu. Scores in [0, 100].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import CHRF

TEXT = datasets.Value("string")


class Chrf(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description="predictions: texts. references: a text each, or as many for each.",
            features=[
                datasets.Features({"predictions": TEXT, "references": datasets.Sequence(TEXT)}),
                datasets.Features({"predictions": TEXT, "references": TEXT}),
            ],
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Any],
        char_order: int = CHRF.CHAR_ORDER,
        word_order: int = CHRF.WORD_ORDER,
        beta: int = CHRF.BETA,
        lowercase: bool = False,
        whitespace: bool = False,
        eps_smoothing: bool = False,
        use_aggregator: bool = True,
    ) -> dict[str, Any]:
        """The score of the corpus.

        Args:
            use_aggregator: without it, the score of each text as a corpus of its own.
        """
        chrf = CHRF(char_order, word_order, beta, lowercase, whitespace, eps_smoothing)
        lists = [[own] if isinstance(own, str) else list(own) for own in references]
        if not use_aggregator:
            pairs = zip(predictions, lists, strict=True)
            return {"score": [chrf.sentence_score(text, own).score for text, own in pairs]}
        if len({len(own) for own in lists}) > 1:
            raise ValueError("texts have different numbers of references; expected as many for each")
        output = chrf.corpus_score(list(predictions), [list(row) for row in zip(*lists, strict=True)])
        return {
            "score": output.score,
            "char_order": output.char_order,
            "word_order": output.word_order,
            "beta": output.beta,
        }
