"""What every evaluation reports of the responses that its evaluators asked for.

    length         tokens that the policy wrote
    kl             mean over them of KL(policy || reference) where each was chosen, in nats, over the whole
                   vocabulary at the sampling temperature
    ref_logprob    mean over them of ln p(token) under the reference at that temperature: exp(-ref_logprob) is
                   the response's perplexity under the model that training began with
    repetition     share of its runs of three words that it has said before
    distinct_2     of all responses together, the share of pairs of neighbouring words that are different; a
                   response is recorded with its share of it by the jackknife

Words are separated by white space, in lower case. Repetition and distinct-2: see `ppokit.plugin.ngram`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ppokit.config.evaluation_settings import GREEDY, SAMPLED
from ppokit.plugin.jackknife import jackknife_shares
from ppokit.plugin.ngram import distinct_ngrams, ngrams

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
        if (share := distinct_ngrams(words, 2)) is not None:
            metrics[f"eval/{name}/distinct_2"] = share
            values["distinct_2"] = _distinct_shares(words, 2, share)
        replace(view, evaluator=name).record(rollout, values)
    return metrics


def _distinct_shares(texts: Sequence[Sequence[str]], n: int, whole: float) -> list[float | None]:
    """What each text adds to the share of different n-grams; None where it has none or is alone with some."""
    counts = [Counter(ngrams(units, n)) for units in texts]
    total = sum(counts, Counter())
    numbers = [own.total() for own in counts]
    if max(numbers) == total.total():
        return [None] * len(texts)
    left_out = [
        (len(total) - sum(count == total[run] for run, count in own.items())) / (total.total() - number)
        for own, number in zip(counts, numbers, strict=True)
        if number
    ]
    shares = iter(jackknife_shares(whole, left_out))
    return [next(shares) if number else None for number in numbers]
