"""Numbers of a whole set of responses, such as BLEU, as means of one number per response."""

from __future__ import annotations

from collections.abc import Sequence


def jackknife_shares(whole: float, left_out: Sequence[float]) -> list[float]:
    """What each response adds to a number of all n of them: the mean of the shares is that number.

        t_i = t + (n - 1) (mean over j of t_-j - t_-i)

    The jackknife's pseudo-values (Efron and Tibshirani 1993, chapter 11), moved to have the mean t: by them
    differences of such a number have intervals. Where it is a mean, they are what it is the mean of.

    Args:
        whole: t, the number of all responses.
        left_out: t_-i, the number of all without response i.
    """
    mean = sum(left_out) / len(left_out)
    return [whole + (len(left_out) - 1) * (mean - value) for value in left_out]
