"""BLEU, with the tokenization that makes results comparable.

Papineni et al. 2002, https://aclanthology.org/P02-1040; Post 2018, arXiv:1804.08771; computed by sacrebleu.
Scores in [0, 100].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import BLEU

TEXT = datasets.Value("string")


def parallel(references: Sequence[Any]) -> list[list[str]]:
    """References of each text, as lists of first references, of second ones and so on.

    Raises:
        ValueError: texts have different numbers of them.
    """
    lists = [[reference] if isinstance(reference, str) else list(reference) for reference in references]
    numbers = sorted({len(own) for own in lists})
    if len(numbers) > 1:
        raise ValueError(f"texts have {numbers[0]} to {numbers[-1]} references; expected as many for each")
    return [list(row) for row in zip(*lists, strict=True)]


class Sacrebleu(evaluate.Metric):
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
        smooth_method: str = "exp",
        smooth_value: float | None = None,
        force: bool = False,
        lowercase: bool = False,
        tokenize: str | None = None,
        use_effective_order: bool = False,
        use_aggregator: bool = True,
    ) -> dict[str, Any]:
        """The score of the corpus, with what it is made of.

        Args:
            use_aggregator: without it, the score of each text as a corpus of its own, with the n-gram orders
                that it is long enough for.
        """
        bleu = BLEU(
            lowercase=lowercase,
            force=force,
            tokenize=tokenize,
            smooth_method=smooth_method,
            smooth_value=smooth_value,
            effective_order=use_effective_order or not use_aggregator,
        )
        rows = parallel(references)
        if not use_aggregator:
            pairs = zip(predictions, zip(*rows, strict=True), strict=True)
            return {"score": [bleu.sentence_score(text, own).score for text, own in pairs]}
        output = bleu.corpus_score(list(predictions), rows)
        return {
            "score": output.score,
            "counts": output.counts,
            "totals": output.totals,
            "precisions": output.precisions,
            "bp": output.bp,
            "sys_len": output.sys_len,
            "ref_len": output.ref_len,
        }
