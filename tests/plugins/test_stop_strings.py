"""Stop strings found in the last tokens' text, against every prefix decoded whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ppokit.plugin import decode_responses
from ppokit_rollouts.stop_strings import StopStrings


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    return tokenizer


def by_prefixes(
    tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], prompt: list[int], ids: list[int], known: int
) -> tuple[int, str] | None:
    """Oracle: the text of each prefix anew."""
    for end in range(known + 1, len(ids) + 1):
        (text,) = decode_responses(tokenizer, [prompt], [ids[:end]])
        positions = [text.index(stop) for stop in stops if stop in text]
        if positions:
            return end, text[: min(positions)]
    return None


@pytest.mark.parametrize("every", [1, 3, 16])
def test_every_stop_is_found_where_whole_texts_first_hold_it(
    tokenizer: PreTrainedTokenizerBase, every: int
) -> None:
    """Random texts, stop strings cut out of them anywhere, looked for every few tokens."""
    draw = torch.Generator().manual_seed(every)
    found = 0
    for trial in range(30):
        prompt, ids = (torch.randint(0, 512, (n,), generator=draw).tolist() for n in (20, 48))
        (text,) = decode_responses(tokenizer, [prompt], [ids])
        start = int(torch.randint(0, max(1, len(text) - 8), (), generator=draw))
        stops = ("never, never", text[start : start + 1 + trial % 8])
        for known in range(0, len(ids), every):
            now = min(known + every, len(ids))
            expected = by_prefixes(tokenizer, stops, prompt, ids[:now], known)
            assert StopStrings(tokenizer, stops).find(prompt, ids[:now], known) == expected
            if expected is not None:
                found += 1
                break
    assert found > 20


def test_a_stop_string_may_stand_on_both_sides_of_tokens_without_a_text(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    words = tokenizer(" cat dog", add_special_tokens=False)["input_ids"]
    (text,) = decode_responses(tokenizer, [[5]], [words])
    ids = [words[0], *[tokenizer.eos_token_id] * 40, *words[1:]]
    stop = text[2:]
    expected = len(ids), text[:2]
    assert StopStrings(tokenizer, (stop,)).find([5], ids, len(ids) - 1) == expected


def test_little_is_decoded_of_a_long_response(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    whole = type(tokenizer).batch_decode

    def counted(self: object, rows: list[list[int]], **options: object) -> object:
        decoded.extend(map(len, rows))
        return whole(self, rows, **options)

    monkeypatch.setattr(type(tokenizer), "batch_decode", counted)
    ids = tokenizer(" the cat and the dog sat" * 40, add_special_tokens=False)["input_ids"]
    assert StopStrings(tokenizer, ("xyz!",)).find([5], ids, len(ids) - 4) is None
    assert len(ids) > 200
    assert max(decoded) < 40
