"""How near an answer is to its reference, and no nearer to the references of other messages.

    score = e(answer) . (e(reference) - mean over the file's references of e),   |e| = 1

e are sentence embeddings. What could be said to any customer is near to all references, and scores about 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ppokit.plugin import BuildContext, Options, RewardOutput, Rollout
from ppokit_rewards.encoder import Encoder


class Relevance:
    class Options(Options):
        path: str
        encoder: str

    def __init__(self, options: Any, context: BuildContext) -> None:
        lines = Path(options.path).read_text(encoding="utf-8").splitlines()
        self.references = [json.loads(line)["reference"] for line in lines]
        self.encoder = Encoder(options.encoder, context.device)
        self.mean: Any = None

    def score(self, rollout: Rollout) -> RewardOutput:
        if self.mean is None:
            self.mean = self.encoder(self.references).mean(dim=0)
        answers = self.encoder(rollout.responses)
        own = self.encoder([row["reference"] for row in rollout.rows])
        return RewardOutput.from_values(((own - self.mean) * answers).sum(dim=1).tolist())
