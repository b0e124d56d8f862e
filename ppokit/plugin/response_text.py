"""Responses as text and as tokens, in the context of their prompts.

    tokens of a response    those of prompt + response, behind the prompt's
    text of a response      that of prompt + response, behind the prompt's

A tokenizer of SentencePiece's kind reads a text's first blank as part of its first word and drops it when it
decodes that word first: alone, " time" becomes two blanks and "time" comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTEXT = 16  # tokens of the prompt that the first token of a response is read behind
_BYTES = 4  # tokens that one character may be
_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"


def encode_response(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], text: str) -> list[int]:
    """Token ids of a text that follows a prompt, without an end-of-sequence token.

    Where the tokenizer would join the prompt's last token and the text's first, the prompt keeps its own,
    since it is given, and the text is read behind a line break.
    """

    def read(before: str, text: str) -> list[int]:
        return list(tokenizer(before + text, add_special_tokens=False, verbose=False)["input_ids"])

    context = _context(tokenizer, prompt_ids)
    before = tokenizer.decode(context, skip_special_tokens=False)
    for anchor, last in ((before, context[-1:]), ("\n", None)):
        known, whole = read(anchor, ""), read(anchor, text)
        # The first token of a context, cut out of its prompt, may be read otherwise; the last one must not.
        if known and whole[: len(known)] == known and last in (None, known[-1:]):
            return whole[len(known) :]
    return read("", text)


def decode_responses(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    response_ids: Sequence[Sequence[int]],
) -> list[str]:
    """Texts of responses without special tokens, one prompt for each."""
    contexts = [_context(tokenizer, ids) for ids in prompt_ids]
    before = tokenizer.batch_decode(contexts, skip_special_tokens=True)
    whole = tokenizer.batch_decode(
        [[*context, *ids] for context, ids in zip(contexts, response_ids, strict=True)],
        skip_special_tokens=True,
    )
    texts: list[str] = []
    for text, prefix, ids in zip(whole, before, response_ids, strict=True):
        if text.startswith(prefix) and not prefix.endswith(_NO_CHARACTER):
            texts.append(text.removeprefix(prefix))
        else:  # the prompt ends within a character, whose other bytes are the response's
            texts += tokenizer.batch_decode([list(ids)], skip_special_tokens=True)
    return texts


def _context(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int]) -> list[int]:
    """The prompt's last tokens, from where a character begins.

    Bytes that SentencePiece writes a character as are read in one run: half a character at its beginning
    makes all of the run unreadable, the response's part of it too.
    """
    ids = list(prompt_ids)
    cut = ids[-_CONTEXT:]
    for length in range(_CONTEXT, min(len(ids), _CONTEXT + _BYTES - 1) + 1):
        if _NO_CHARACTER not in tokenizer.decode(ids[-length:], skip_special_tokens=True):
            return ids[-length:]
    return cut
