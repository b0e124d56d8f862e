"""How near an answer is to its reference, and no nearer to the references of other messages.

    score = e(answer) . (e(reference) - mean over the file's references of e),   |e| = 1

e are sentence embeddings. What could be said to any customer is near to all references, and scores about 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ppokit.plugin import BuildContext, Options, PluginError, RewardOutput, Rollout
from ppokit_rewards.encoder import Encoder


class Relevance:
    class Options(Options):
        path: str
        encoder: str

    def __init__(self, options: Any, context: BuildContext) -> None:
        self.references = references_of(options.path)
        self.encoder = Encoder(options.encoder, context.device)
        self.mean: Any = None

    def score(self, rollout: Rollout) -> RewardOutput:
        if self.mean is None:
            self.mean = self.encoder(self.references).mean(dim=0)
        answers = self.encoder(rollout.responses)
        own = self.encoder([row["reference"] for row in rollout.rows])
        return RewardOutput.from_values(((own - self.mean) * answers).sum(dim=1).tolist())


def references_of(path: str) -> list[str]:
    """The references of the file's rows.

    Raises:
        PluginError: it cannot be read, has no row, or a line is no row with a reference.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            lines = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    except (OSError, ValueError) as error:
        raise PluginError(f"{path} cannot be read: {error}") from error
    references = []
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("reference"), str):
            raise PluginError(
                f"{path} line {number} is {line.strip()[:60]!r}; expected JSON lines, an object with prompt "
                "and reference on each, as in train.jsonl"
            )
        references.append(row["reference"])
    if not references:
        raise PluginError(f"{path} has no row; expected the rows that are trained on, as in train.jsonl")
    return references
