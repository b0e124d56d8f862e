"""What is suggested to someone who types, against a person who asks after each letter."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from ppokit_evaluators.word_prediction import (
    SpelledText,
    Vocabulary,
    Word,
    letters_needed,
    letters_typed,
    word_spans,
)

TEXTS = ["", " c", " cat", "s", " dog", "at", " ", "cat", " cart"]
VOCABULARY = Vocabulary.from_texts(TEXTS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat sat.", ["The", "cat", "sat"]),
        ("  don't, can\N{RIGHT SINGLE QUOTATION MARK}t 'so' ab_1-c", None),
        ("", []),
        ("...", []),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("e\N{COMBINING ACUTE ACCENT}t 日本語", ["e\N{COMBINING ACUTE ACCENT}t", "日本語"]),
    ],
)
def test_words(text: str, words: list[str] | None) -> None:
    expected = ["don't", "can\N{RIGHT SINGLE QUOTATION MARK}t", "so", "ab_1", "c"] if words is None else words
    assert [text[start:end] for start, end in word_spans(text)] == expected


@pytest.mark.parametrize(
    ("logits", "letters"),
    [
        ({" dog": 3, " cat": 2}, 2),  # " " agrees with " dog", " c" no more
        ({" dog": 3, " cat": 2, "s": 9}, 2),
        ({" cart": 3, " cat": 2}, 4),  # " ca" agrees with both
        ({" c": 3, " cat": 2}, 5),  # " c" agrees with all that begins with " c": never
        ({" ": 3, " cat": 2}, 5),
        ({"at": 3, "cat": 4, " cat": 2}, 1),  # neither begins with a space
    ],
)
def test_letters_until_a_token_is_the_likeliest_that_agrees(logits: dict[str, float], letters: int) -> None:
    numbers = torch.tensor([float(logits.get(text, 0)) for text in TEXTS])
    assert letters_needed(" cat", numbers, TEXTS.index(" cat"), VOCABULARY) == letters


def test_keys_of_a_word_of_several_tokens() -> None:
    """In "the cats sat", " cat" needs three characters, so two letters of "cats"."""
    text = SpelledText("the cats sat", [3, 7, 8, 12], [True] * 4)
    the, cats, sat = text.words()
    assert (the, cats, sat) == (Word(0, 3, 0, 0), Word(4, 8, 1, 2), Word(9, 12, 3, 3))
    likeliest = [TEXTS.index(name) for name in (" dog", " dog", " dog", " cat", " ")]
    letters = [0, 3, 0, 0]

    def typed(word: Word) -> int | None:
        return letters_typed(text, word, letters, likeliest, VOCABULARY)

    assert [typed(word) for word in (the, cats, sat)] == [0, 2, 0]
    likeliest[3] = TEXTS.index("s")  # the suggestion would be "catss"
    assert typed(cats) is None
    letters[2] = 1  # "s" comes once it is typed
    assert typed(cats) is None
    letters[1:3] = [5, 0]  # never
    likeliest[3] = 0
    assert typed(cats) is None


def asked_after_each_letter(
    words: list[str], tokens: list[list[int]], table: torch.Tensor
) -> list[int | None]:
    """Letters of each word until greedy decoding, filtered by them, writes the word's tokens and ends."""
    result: list[int | None] = []
    for index, word in enumerate(words):
        before = [token for own in tokens[:index] for token in own]
        result.append(None)
        for typed in range(len(word)):
            rest, written = f" {word[:typed]}", list(before)
            while len(written) < len(before) + 9:
                logits = table[written[-1] if written else 0]
                agree = [
                    (float(logits[token]), token)
                    for token, text in enumerate(TEXTS)
                    if not rest or (text and (text.startswith(rest) or rest.startswith(text)))
                ]
                if not agree:  # other tokens than the word's led to where none goes on
                    break
                token = max(agree)[1]
                own = written[len(before) :]
                if not rest and own and (not TEXTS[token] or TEXTS[token].startswith(" ")):
                    break
                written.append(token)
                rest = rest[len(TEXTS[token]) :]
            if written[len(before) :] == tokens[index]:
                result[-1] = typed
                break
    return result


def test_as_if_it_was_asked_after_each_letter() -> None:
    """Of 200 tables of random logits by the token before."""
    random.seed(1)
    spellings = {
        "cat": [2],
        "cats": [2, 3],
        "dog": [4],
        "dogs": [4, 3],
        "cart": [8],
        "carts": [8, 3],
        "cs": [1, 3],
    }
    seen: set[int | None] = set()
    for seed in range(200):
        table = torch.randn(len(TEXTS), len(TEXTS), generator=torch.Generator().manual_seed(seed))
        words = random.choices(list(spellings), k=3)
        tokens = [spellings[word] for word in words]
        flat = [token for own in tokens for token in own]
        ends = [sum(len(TEXTS[token]) for token in flat[: count + 1]) for count in range(len(flat))]
        text = SpelledText("".join(f" {word}" for word in words), ends, [True] * len(flat))
        until = {t: word.end for word in text.words() for t in range(word.first, word.last + 1)}
        rows = [table[before] for before, _ in pairwise([0, *flat, 0])]
        likeliest = [int(row.argmax()) for row in rows]
        letters = [
            0 if likeliest[i] == token else text.letters(i, until[i], rows[i], token, VOCABULARY)
            for i, token in enumerate(flat)
        ]
        typed = [letters_typed(text, word, letters, likeliest, VOCABULARY) for word in text.words()]
        assert typed == asked_after_each_letter(words, tokens, table)
        seen.update(typed)
    assert {None, 0, 1, 3} <= seen
