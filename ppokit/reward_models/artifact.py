"""What the folder of a fitted reward model says of itself, in `ppokit_reward.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ppokit.errors import ModelError, first_line

VERSION = 2
SETTINGS, HEADS = "ppokit_reward.json", "heads.safetensors"
"""Files: the settings; weight [heads, features] and bias [heads] of the heads."""


@dataclass(frozen=True)
class FittedSettings:
    """What `ppokit_reward.json` says.

    Attributes:
        version: of this form of folder.
        base: the model that was fitted, as the user named it; an absolute path where that was a folder.
        kind: `encoder` or `causal`.
        template: the text that is scored, or the pair of texts, with `{prompt}` and `{response}`.
        max_length: tokens of a text that are read.
        score: what a score means, in words.
        layers: of an encoder, which of them the heads read; see `ppokit.reward_models.encoder`.
    """

    version: int
    base: str
    kind: str
    template: list[str]
    max_length: int
    score: str
    layers: list[int]

    def write(self, folder: Path) -> None:
        """Into the folder."""
        (folder / SETTINGS).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_settings(folder: Path) -> FittedSettings | None:
    """A folder's settings; None where it has none, as that of any other model.

    Raises:
        ModelError: they cannot be read, or were written by a ppokit that made other folders.
    """
    try:
        content = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        version = content["version"]
        settings = FittedSettings(**content) if version == VERSION else None
        if settings is not None and not (
            isinstance(settings.template, list)
            and 1 <= len(settings.template) <= 2
            and all(isinstance(text, str) for text in settings.template)
            and type(settings.max_length) is int
        ):
            raise ValueError("template is a list of one or two texts, and max_length a number")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"reward model {str(folder)!r}: its {SETTINGS} cannot be read ({first_line(error)}); expected a "
            "folder that ppokit reward fit wrote."
        ) from error
    if settings is None:
        raise ModelError(
            f"reward model {str(folder)!r} is of version {version}; this ppokit reads version {VERSION}. Fit "
            "the model again."
        )
    return settings


def need_settings(folder: Path) -> FittedSettings:
    """A folder's settings.

    Raises:
        ModelError: it has none, or see `read_settings`.
    """
    settings = read_settings(folder)
    if settings is None:
        raise ModelError(f"{folder}: no {SETTINGS} there; expected a folder that ppokit reward fit wrote.")
    return settings
