"""What every evaluation reports of the responses that its evaluators asked for.

    length         tokens that the policy wrote
    kl             mean over them of KL(policy || reference) where each was chosen, in nats, over the whole
                   vocabulary at the sampling temperature
    ref_logprob    mean over them of ln p(token) under the reference at that temperature: exp(-ref_logprob) is
                   the response's perplexity under the model that training began with
    repetition     share of its runs of three words that it has said before
    distinct_2     of all responses together, the share of pairs of neighbouring words that are different

Words are separated by white space, in lower case. Repetition and distinct-2: see `ppokit.plugin.ngram`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ppokit.config.evaluation_settings import GREEDY, SAMPLED
from ppokit.plugin.ngram import distinct_ngrams

if TYPE_CHECKING:
    from ppokit.evaluation.view import HeldOutView
    from ppokit.plugin.types import Rollout


def measure_responses(answered: Mapping[int | None, Rollout], view: HeldOutView) -> dict[str, float]:
    """Record the numbers of each response, and return those of all.

    Args:
        answered: by how many per prompt were asked for, None for a greedy one; of several, the most count.
    """
    metrics: dict[str, float] = {}
    by_number = sorted(answered.items(), key=lambda asked: asked[0] or 0)
    for name, rollout in {GREEDY if n is None else SAMPLED: own for n, own in by_number}.items():
        lengths = rollout.lengths.tolist()
        words = [text.lower().split() for text in rollout.responses]
        distinct = [distinct_ngrams([own], 3) for own in words]
        values: dict[str, list[float | None]] = {
            "length": [float(length) for length in lengths],
            "repetition": [None if share is None else 1 - share for share in distinct],
        }
        if view.has_reference:
            sums = view.collector.beside_reference(rollout).double().sum(dim=1).tolist()
            for index, key in enumerate(("kl", "ref_logprob")):
                values[key] = [
                    own[index] / length if length else None for own, length in zip(sums, lengths, strict=True)
                ]
        for index, failed in enumerate(rollout.failed.tolist()):
            if failed:  # its text says why, and is no response
                words[index] = []
                for numbers in values.values():
                    numbers[index] = None
        replace(view, evaluator=name).record(rollout, values)
        if (share := distinct_ngrams(words, 2)) is not None:
            metrics[f"eval/{name}/distinct_2"] = share
    return metrics
