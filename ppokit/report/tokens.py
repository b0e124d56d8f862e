"""What each token of a response looks like: white space, special tokens, parts of characters are visible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ppokit.plugin.visible_text import visible

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST = 80  # characters of one token
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TokenTexts:
    """Texts of tokens by id, each looked up once.

    Args:
        decode: ids to text, special tokens included.
        name: an id's entry in the vocabulary.
        special: ids of special tokens.
        anchor: an ordinary token, behind which each is decoded: some decoders drop a space at the beginning.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        name: Callable[[int], str | None],
        special: frozenset[int],
        anchor: int | None,
    ) -> None:
        self._decode, self._name, self._special, self._anchor = decode, name, special, anchor
        self._before = "" if anchor is None else decode([anchor])
        self._known: dict[int, tuple[str, bool]] = {}

    def __call__(self, token: int) -> tuple[str, bool]:
        """Its visible text, and whether it is a special token or stands for no text of its own."""
        if token not in self._known:
            self._known[token] = self._look_up(token)
        return self._known[token]

    def _look_up(self, token: int) -> tuple[str, bool]:
        name = self._name(token)
        if token in self._special or name is None:
            return visible(name or f"token {token}", LONGEST), True
        text = self._decode([token] if self._anchor is None else [self._anchor, token])
        behind = text.startswith(self._before)
        text = text[len(self._before) :] if behind else self._decode([token])
        if not text or REPLACEMENT in text:
            return visible(name, LONGEST), True
        return visible(text, LONGEST), False


def unknown_texts() -> TokenTexts:
    """Where no tokenizer can be read: each token is its number."""
    return TokenTexts(lambda ids: "", lambda token: None, frozenset(), None)


def texts_of(tokenizer: PreTrainedTokenizerBase) -> TokenTexts:
    """By a tokenizer of transformers."""
    size = len(tokenizer)

    def name(token: int) -> str | None:
        return str(tokenizer.convert_ids_to_tokens(token)) if 0 <= token < size else None

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    anchor = tokenizer.encode("a", add_special_tokens=False)
    special = frozenset(int(token) for token in tokenizer.all_special_ids)
    return TokenTexts(decode, name, special, anchor[-1] if anchor else None)


def texts_of_run(folder: Path, model: str = "") -> TokenTexts | None:
    """By the tokenizer that a run has saved with its policy, or that of the model that it began with.

    Args:
        model: its name; nothing is fetched for it.

    Returns: None where neither can be read on this machine.
    """
    try:
        if (folder / "policy" / "tokenizer.json").is_file():
            return _fast_texts(folder / "policy" / "tokenizer.json")
        if (folder / "policy" / "tokenizer_config.json").is_file():
            return texts_of(_loaded(str(folder / "policy")))
        return texts_of(_loaded(model)) if model else None
    except Exception:  # tokenizers raises Exception itself, and each kind has errors of its own
        return None


def _loaded(name: str) -> PreTrainedTokenizerBase:
    from ppokit.models.loading import find_model, load_tokenizer

    return load_tokenizer(find_model(name), local_files_only=True)


def _fast_texts(path: Path) -> TokenTexts:
    """Without transformers, whose import takes longer than the rest of a page."""
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(str(path))
    special = frozenset(i for i, token in fast.get_added_tokens_decoder().items() if token.special)
    anchor = fast.encode("a", add_special_tokens=False).ids
    return TokenTexts(
        lambda ids: str(fast.decode(ids, skip_special_tokens=False)),
        fast.id_to_token,
        special,
        anchor[-1] if anchor else None,
    )
