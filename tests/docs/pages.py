"""The documentation's pages as what they hold: fenced blocks, and the commands in blocks and in sentences.

A fenced block says what it is:

    python    code that is run, each page's blocks in order; or the content of a file, below
    yaml      keys of a recipe, which are checked; or the content of a file
    toml      the content of a file
    sh        commands, one per line
    text      what a command prints, or a tree of files: not checked

A block is the content of a file where the line before it ends in the file's name: "`my_rewards.py`:".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
KINDS = {"python", "yaml", "toml", "sh", "text"}
PROGRAMS = ("ppokit", "make", "pip", "accelerate", "torchrun")

_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
_FILE = re.compile(r"`([\w/.-]+\.\w+)`:\n\n\Z")
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    kind: str
    text: str
    file: str | None

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}:\n{self.text}"


@dataclass(frozen=True)
class Command:
    """A command, and whether a reader is to type it (in a block) or it is spoken of (in a sentence)."""

    page: str
    line: int
    text: str
    in_block: bool


def blocks_of(page: str, text: str) -> list[Block]:
    blocks = []
    for match in _FENCE.finditer(text):
        named = _FILE.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        blocks.append(Block(page, line, match[1], match[2], named[1] if named else None))
    return blocks


def commands_of(page: str, text: str) -> Iterator[Command]:
    """In the order of the page, without comments and without the path of a virtual environment."""
    for block in blocks_of(page, text):
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            command = re.sub(r"\s+#.*", "", line).strip()
            if block.kind == "sh" and command:
                yield Command(page, number, command.removeprefix(".venv/bin/"), True)
    prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for span in _SPAN.finditer(prose):
        command = re.sub(r"\A(\w+=\S+ )*", "", " ".join(span[1].split())).removeprefix(".venv/bin/")
        if command.split(" ")[0] in PROGRAMS and " " in command:
            yield Command(page, prose.count("\n", 0, span.start()) + 1, command, False)


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")
