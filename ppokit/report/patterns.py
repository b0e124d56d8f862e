"""What the best responses have in common: word sequences and near-duplicates, where gaming shows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

WORDS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[^\w\s]", re.UNICODE)
LONGEST_TEXT = 4000  # characters of a response that are looked at
LONGEST_WORD = 40
MOST_TEXTS = 300
SHOWN = 12
ALIKE = 0.8


@dataclass(frozen=True)
class Phrase:
    """A sequence of words, and the share of responses that have it.

    Attributes:
        best, first: shares among the best of the last steps, and among all of the first.
    """

    text: str
    best: float
    first: float


@dataclass(frozen=True)
class Cluster:
    """Responses that are almost the same.

    Attributes:
        members: their positions; the first one is shown.
    """

    members: tuple[int, ...]


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return [word[:LONGEST_WORD].lower() for word in WORDS.findall(text[:LONGEST_TEXT])]


def common_phrases(best: Sequence[tuple[str, str]], first: Sequence[tuple[str, str]]) -> list[Phrase]:
    """Sequences of one to four words and marks that many of the best responses have, and few of the first.

    By the difference of the two shares. What a response repeats of its own prompt does not count, nor what
    the best responses to one prompt alone have: that is its subject. Of sequences within each other that are
    as frequent the longest stays.

    Args:
        best, first: prompts with responses to them.
    """
    among_best, among_first = _shares(best, of_several=True), _shares(first)
    fewest = max(2, 0.1 * len(best)) / max(1, len(best))
    phrases = [
        (share - among_first.get(phrase, 0.0), len(phrase), phrase, share)
        for phrase, share in among_best.items()
        if share >= fewest and phrase[0][0].isalnum() and phrase[-1][0].isalnum()
    ]
    phrases.sort(key=lambda each: (-each[0], -each[1], each[2]))
    kept: list[tuple[tuple[str, ...], float]] = []
    for difference, _, phrase, share in phrases:
        if difference <= 0 or len(kept) == SHOWN:
            break
        if not any(_within(phrase, other) and share <= s * 1.1 for other, s in kept):
            kept.append((phrase, share))
    return [Phrase(" ".join(p), share, among_first.get(p, 0.0)) for p, share in kept]


def near_duplicates(texts: Sequence[str]) -> list[Cluster]:
    """Groups of texts whose sets of three-word sequences overlap by four fifths (Jaccard), the largest first.

    Each text joins the first group whose first text it is like.
    """
    shingles = [_shingles(words(text)) for text in texts[:MOST_TEXTS]]
    clusters: list[list[int]] = []
    for index, own in enumerate(shingles):
        for cluster in clusters:
            other = shingles[cluster[0]]
            shorter, longer = sorted((len(own), len(other)))
            if shorter >= ALIKE * longer and len(own & other) >= ALIKE * len(own | other):
                cluster.append(index)
                break
        else:
            clusters.append([index])
    alike = [Cluster(tuple(c)) for c in clusters if len(c) > 1]
    return sorted(alike, key=lambda cluster: -len(cluster.members))[:SHOWN]


def _shares(answers: Sequence[tuple[str, str]], *, of_several: bool = False) -> dict[tuple[str, ...], float]:
    """Share of the responses that have a sequence which their own prompt lacks.

    Args:
        of_several: whether only those count that stand in responses to more than one prompt.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    prompts: dict[tuple[str, ...], set[str]] = {}
    known = {prompt: _sequences(prompt) for prompt, _ in answers}
    for prompt, text in answers:
        own = _sequences(text) - known[prompt]
        counts.update(own)
        for phrase in own if of_several else ():
            prompts.setdefault(phrase, set()).add(prompt)
    several = not of_several or len(known) < 2
    return {
        phrase: count / len(answers)
        for phrase, count in counts.items()
        if (several or len(prompts[phrase]) > 1) and (count > 1 or len(answers) < 4)
    }


def _sequences(text: str) -> set[tuple[str, ...]]:
    own = words(text)
    return {tuple(own[i : i + n]) for n in (1, 2, 3, 4) for i in range(len(own) - n + 1)}


def _within(phrase: tuple[str, ...], other: tuple[str, ...]) -> bool:
    n = len(phrase)
    return any(other[i : i + n] == phrase for i in range(len(other) - n + 1))


def _shingles(text: Sequence[str]) -> frozenset[tuple[str, ...]]:
    size = min(3, len(text))
    return frozenset(tuple(text[i : i + size]) for i in range(len(text) - size + 1)) if size else frozenset()
