"""What a language model suggests to someone who types a text, from its logits along the text's own tokens.

The policy suggests how the word at hand goes on: greedy decoding from all that was typed, where only tokens
count that agree with the letters of the word that are there (Trnka and McCoy 2008,
https://aclanthology.org/P08-2066: the vocabulary is filtered by the word's prefix). Let r be what was typed
of the text from a token's beginning. Tokens agree with r if they begin with it, or it with them; so fewer
agree the longer r is, and a token t has one number,

    letters(t) = the shortest |r| for which t is the likeliest that agrees;   0 if it is the likeliest of all

and a suggestion is right once that holds for each of the word's tokens. It takes one forward pass over the
text, where asking after each letter would take one per letter. Differs from asking: a word that would be
written by other tokens than those of the text counts as wrong.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppokit.plugin import decode_responses

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"
_LAST = "\U0010ffff"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model as text.

    Attributes:
        texts: of each id, behind a letter; empty for special tokens and parts of characters.
        order: [n] ids of those with a text, by their texts.
        in_order: these texts.
    """

    texts: Sequence[str]
    order: Tensor
    in_order: Sequence[str]

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        letter = list(tokenizer("a", add_special_tokens=False)["input_ids"])[-1:]
        ids = range(len(tokenizer))
        decoded = decode_responses(tokenizer, [letter] * len(ids), [[token] for token in ids])
        return Vocabulary.from_texts(
            ["" if "\N{REPLACEMENT CHARACTER}" in text else text for text in decoded]
        )

    @staticmethod
    def from_texts(texts: Sequence[str]) -> Vocabulary:
        """From the text of each id."""
        import torch

        order = sorted((token for token, text in enumerate(texts) if text), key=texts.__getitem__)
        return Vocabulary(texts, torch.tensor(order), [texts[token] for token in order])

    def beginning_with(self, text: str) -> Tensor:
        """[n] ids of the tokens that begin with a text."""
        return self.order[bisect_left(self.in_order, text) : bisect_left(self.in_order, text + _LAST)]

    def equal_to(self, text: str) -> Tensor:
        """[n] ids of the tokens that are a text."""
        return self.order[bisect_left(self.in_order, text) : bisect_left(self.in_order, text + "\0")]


@dataclass(frozen=True)
class SpelledText:
    """A text and its tokens.

    Attributes:
        text: what the tokens are.
        ends: of each token, where it ends in the text; a token of the end of sequence is left out.
        whole: of each token, whether it ends with a whole character.
    """

    text: str
    ends: Sequence[int]
    whole: Sequence[bool]

    @staticmethod
    def of(
        tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], tokens: Sequence[int], text: str
    ) -> SpelledText:
        """Of the tokens of a response, behind its prompt.

        Args:
            text: what was encoded; another one where the tokenizer changes texts.
        """
        prefixes = [list(tokens[:count]) for count in range(1, len(tokens) + 1)]
        decoded = decode_responses(tokenizer, [list(prompt)] * len(prefixes), prefixes)
        if decoded and not decoded[-1].startswith(text):
            text = decoded[-1]
        ends: list[int] = []
        whole: list[bool] = []
        for prefix in decoded:
            end = max(_common(prefix, text), ends[-1] if ends else 0)
            ends.append(end)
            whole.append(prefix == text[:end])
        count = next((index + 1 for index, end in enumerate(ends) if end == len(text) and whole[index]), 0)
        return SpelledText(text, ends[:count], whole[:count])

    def start(self, token: int) -> int:
        """Where a token begins in the text."""
        return self.ends[token - 1] if token else 0

    def words(self) -> Iterator[Word]:
        """Its words and their tokens."""
        for start, end in word_spans(self.text):
            first = next(token for token, own in enumerate(self.ends) if own > start)
            while first and not self.whole[first - 1]:
                first -= 1
            last = next(token for token, own in enumerate(self.ends) if own >= end)
            yield Word(start, end, first, last)

    def letters(self, token: int, until: int, logits: Tensor, target: int, vocabulary: Vocabulary) -> int:
        """The token's number of letters, see above; more than there are where none are enough.

        Args:
            until: where its word ends.
            logits: [V] that predict it.
            target: its id.
        """
        start = self.start(token)
        if not self.whole[token] or (token and not self.whole[token - 1]):
            # A part of a character: it is typed with the character, or predicted without it.
            done = next(later for later in range(token, len(self.ends)) if self.whole[later])
            return self.ends[done] - start
        return letters_needed(self.text[start:until], logits, target, vocabulary)


@dataclass(frozen=True)
class Word:
    """A word of a text: where it begins and ends, and its first and last token."""

    start: int
    end: int
    first: int
    last: int


def letters_needed(rest: str, logits: Tensor, target: int, vocabulary: Vocabulary) -> int:
    """Length of the least beginning of `rest` for which a token is the likeliest that agrees; or |rest| + 1.

    Args:
        rest: the text from the token's beginning to the end of its word.
        logits: [V].
        target: the token, which is not the likeliest of all.
    """
    own = logits[target]
    for typed in range(1, len(rest) + 1):
        if bool((logits[vocabulary.equal_to(rest[:typed])] > own).any()):
            break  # whatever comes after it, that token agrees
        if not bool((logits[vocabulary.beginning_with(rest[:typed])] > own).any()):
            return typed
    return len(rest) + 1


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where words begin and end: runs of letters, digits, marks and underscores, with apostrophes inside."""
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for index in range(len(text) + 1):
        inside = index < len(text) and (
            _is_letter(text[index]) or (start is not None and _goes_on(text[index : index + 2]))
        )
        if inside and start is None:
            start = index
        elif not inside and start is not None:
            spans.append((start, index))
            start = None
    return spans


def _goes_on(text: str) -> bool:
    """Whether a text behind a word is more of it."""
    if text[:1] and text[0] in _APOSTROPHES:
        text = text[1:]
    return bool(text) and _is_letter(text[0])


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")


def _common(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def letters_typed(
    spelled: SpelledText, word: Word, letters: Sequence[int], likeliest: Sequence[int], vocabulary: Vocabulary
) -> int | None:
    """Letters of a word after which the suggestion is right, 0 before the first; None where it never is.

    Args:
        letters: of each of the text's tokens, see above.
        likeliest: of each token and of what comes after the last, the likeliest id in its place.
    """
    typed = max(
        max(0, spelled.start(token) + letters[token] - word.start) if letters[token] else 0
        for token in range(word.first, word.last + 1)
    )
    after = word.last + 1
    ends = spelled.ends[word.last] > word.end or after == len(likeliest)
    if not ends and _goes_on(vocabulary.texts[likeliest[after]]):  # what is suggested is a longer word
        return None
    return typed if typed < word.end - word.start else None
