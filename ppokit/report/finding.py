"""Something that a person should look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        level: `warning` where what was learned may be wrong, `note` where it is good to know.
        text: a sentence.
        link: where on the page the evidence stands.
    """

    level: Literal["warning", "note"]
    text: str
    link: str
