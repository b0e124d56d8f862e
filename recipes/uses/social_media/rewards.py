"""How much a post sounds like the persona that its prompt asks for.

    score = max(-4, log p(persona | post))

p is a logistic regression on the mean hidden states of the policy's base, of half a of the file's posts.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from sklearn.linear_model import LogisticRegression

from ppokit.plugin import BuildContext, Options, PluginError, RewardOutput, Rollout

LOWEST = -4.0


class Voice:
    class Options(Options):
        posts: str

    def __init__(self, options: Any, context: BuildContext) -> None:
        if context.base is None:
            raise PluginError(
                "Voice reads the policy's base, which there is only in a run; expected no timeout"
            )
        self.base = context.base
        self.posts, self.personas = posts_of(options.posts, "a")
        self.classifier: LogisticRegression | None = None

    def score(self, rollout: Rollout) -> RewardOutput:
        if self.classifier is None:  # now the base is loaded
            states = self.base.embed(self.posts).numpy()
            self.classifier = LogisticRegression(C=30.0, max_iter=1000).fit(states, self.personas)
        logs = self.classifier.predict_log_proba(self.base.embed(rollout.responses).numpy())
        column = {persona: i for i, persona in enumerate(self.classifier.classes_)}
        asked = [column[row["persona"]] for row in rollout.rows]
        return RewardOutput.from_values(
            [max(LOWEST, float(own[i])) for own, i in zip(logs, asked, strict=True)]
        )


def posts_of(path: str, half: str) -> tuple[list[str], list[str]]:
    """The posts of a half of the file, and whose they are.

    Raises:
        PluginError: there is no such file, or it has no posts of this half by two personas.
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("half") == half]
        posts, personas = [row["post"] for row in rows], [row["persona"] for row in rows]
    except OSError as error:
        raise PluginError(f"{path} cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise PluginError(f"{path} has no column {error}; expected persona, post and half") from None
    if len(set(personas)) < 2:
        raise PluginError(
            f"{path} has posts of {len(set(personas))} personas in half {half}; expected the columns "
            "persona, post and half (a for the reward, b for the judge), and two personas or more"
        )
    return posts, personas
