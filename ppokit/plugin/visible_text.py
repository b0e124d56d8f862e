"""Text that a model wrote, so that every character of it can be seen and none of it acts."""

from __future__ import annotations

import re
import unicodedata

# Controls but tab and newline; what joins, reorders or hides characters; halves of surrogate pairs; tags;
# and what is no character.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufdd0-\ufdef\ufff0-\ufffc\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff"
    + "".join(chr(plane + end) for plane in range(0x10000, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF))
    + "]"
)
_JOINED = re.compile("[\u200c\u200d\ufe0e\ufe0f]")
_COMBINING = 8  # marks on one character; more of them draw over the lines above and below
_MANY_MARKS = re.compile(
    rf"((?:[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]){{{_COMBINING}}})"
    r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]+"
)


def visible(text: str, longest: int | None = None) -> str:
    """A text in which what cannot be seen is named, as in `⟨U+202E⟩`.

    Tabs and newlines stay. Variation selectors and joiners within emoji stay; elsewhere they are named.

    Args:
        longest: characters that are kept; what follows is counted in its place.
    """
    left_out = 0
    if longest is not None and len(text) > longest:
        text, left_out = text[:longest], len(text) - longest
    text = _HIDDEN.sub(_named, text)
    text = _MANY_MARKS.sub(lambda match: match[1] + "⟨more marks⟩", text)
    return f"{text}⟨{left_out:,} characters left out⟩" if left_out else text


def one_line(text: str, longest: int) -> str:
    """The beginning of a text on one line; white space is one space each."""
    flat = " ".join(text[: 4 * longest].split())
    shown = visible(flat[:longest])
    return shown + "…" if len(flat) > longest or len(text) > 4 * longest else shown


def _named(match: re.Match[str]) -> str:
    character, text = match[0], match.string
    if _JOINED.match(character) and match.start() and _is_symbol(text[match.start() - 1]):
        return character
    return f"⟨U+{ord(character):04X}⟩"


def _is_symbol(character: str) -> bool:
    """Whether an emoji may go on after it."""
    return unicodedata.category(character) in ("So", "Sk") or character in "\ufe0f\u200d"
