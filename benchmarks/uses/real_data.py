"""The real data of ../shared/data as each use's recipe reads it: written below runs/, not here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from uses import REPOSITORY, Use

SHARED = REPOSITORY.parent / "shared" / "data"
TRAINED = 120
HELD_OUT = 100
"""Prompts that are trained on, and that are held out, at most."""
Row = dict[str, Any]
Mapped = tuple[list[Row], list[str]]


def mapped(use: Use, folder: Path) -> tuple[list[Path], list[str]]:
    """The files that the recipe reads in place of its own, and the keys that name them.

    Args:
        folder: where the files are written.
    """
    rows, keys = MAPPINGS[use.name](folder)
    distinct = list({row["prompt"]: row for row in rows}.values())
    parts = {"train": distinct[HELD_OUT:][:TRAINED], "held_out": distinct[:HELD_OUT]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        write(folder / f"{name}.jsonl", part)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return files, [
        f"prompts.path={folder / 'train.jsonl'}",
        f"evaluation.prompts.path={folder / 'held_out.jsonl'}",
        *keys,
    ]


def read(name: str) -> list[Row]:
    """The rows of a file of ../shared/data/prompts."""
    lines = (SHARED / "prompts" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def translation(folder: Path) -> Mapped:
    """Captions of pictures, English and German, which are longer than the recipe's own sentences."""
    rows = read("translation_multi30k_val")
    return [
        {"prompt": f"English: {row['prompt']}\nGerman:", "reference": row["reference"]} for row in rows
    ], ["rollout.max_new_tokens=40"]


def summarisation(folder: Path) -> Mapped:
    """News without summaries: the first sentence, which is not shown, stands for one of the rest."""
    rows = []
    for row in read("summarisation_xsum_qags"):
        first, _, rest = row["prompt"].partition(". ")
        text = " ".join(rest.split()[:60])
        if 6 <= len(first.split()) <= 25 and len(text.split()) == 60:
            rows.append({"prompt": f"{text}\nIn one sentence:", "reference": f"{first}."})
    return rows, ["rollout.max_new_tokens=36", "rewards.1.target=18"]


def sensitive_information(folder: Path) -> Mapped:
    """Made-up messages. Of the kinds that the source marks, those that the recipe asks for are looked for."""
    kinds = {"PERSON": "name", "PHONE_NUMBER": "phone", "EMAIL_ADDRESS": "email", "STREET_ADDRESS": "address"}
    rows = []
    for row in read("sensitive_info_presidio"):
        literal_or_kind = re.split(r"\{\{(\w+)\}\}", row["masked"])
        pattern = "".join(
            "(.+?)" if index % 2 else re.escape(part) for index, part in enumerate(literal_or_kind)
        )
        match = re.fullmatch(pattern, row["prompt"], re.DOTALL)
        if match is None or len(row["prompt"]) > 150:
            continue
        named: dict[str, list[str]] = {}
        for source, text in zip(literal_or_kind[1::2], match.groups(), strict=True):
            if source in kinds:
                named.setdefault(kinds[source], []).append(" ".join(text.split()))
        ordered = {kind: named[kind] for kind in kinds.values() if kind in named}
        message = " ".join(row["prompt"].split())
        prompt = f"{message}\nPersonal data (name, phone, email, address) as JSON:"
        rows.append({"prompt": prompt, "reference": json.dumps(ordered, ensure_ascii=False)})
    return rows, ["rollout.max_new_tokens=48"]


def autocomplete(folder: Path) -> Mapped:
    """Speeches of Shakespeare's: the twelve words that come next."""
    rows = read("autocomplete_shakespeare")
    return [
        {"prompt": row["prompt"], "reference": " ".join(row["reference"][len(row["prompt"]) :].split()[:12])}
        for row in rows
    ], []


def predictive_text(folder: Path) -> Mapped:
    """Requests to a voice assistant, the first words and the rest."""
    return [
        {"prompt": row["prompt"], "reference": row["target"]} for row in read("predictive_text_clinc_prefix")
    ], []


MAPPINGS: dict[str, Callable[[Path], Mapped]] = {
    "autocomplete": autocomplete,
    "translation": translation,
    "predictive_text": predictive_text,
    "summarisation": summarisation,
    "sensitive_information": sensitive_information,
}
"""Of each use: its rows, those held out first, and further keys of the recipe."""
