"""What the recipe is judged by: whether a post is written as the persona that its prompt asks for writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ppokit.plugin import CheckContext, Component, EvaluationView, Options, PluginError
from recipes.uses.social_media.rewards import posts_of

# Capitals and marks count in both: some voices are made of them.
CHARACTERS: dict[str, Any] = {"analyzer": "char", "ngram_range": (1, 4), "sublinear_tf": True}
WORDS: dict[str, Any] = {"token_pattern": r"\w+|[^\w\s]"}


class Persona(Options):
    """p(persona | post) of two posts per topic, by logistic regressions on half b of the posts.

    `persona` reads runs of one to four characters, `persona_by_words` words and marks.
    """

    posts: str

    def evaluate(self, view: EvaluationView, step: int) -> dict[str, float]:
        posts, personas = posts_of(self.posts, "b")
        rollout = view.generate(n=2)
        numbers = {}
        for name, features in (("persona", CHARACTERS), ("persona_by_words", WORDS)):
            runs = TfidfVectorizer(lowercase=False, **features)
            classifier = make_pipeline(runs, LogisticRegression(C=30.0, max_iter=1000)).fit(posts, personas)
            shares = classifier.predict_proba(list(rollout.responses))
            column = {persona: i for i, persona in enumerate(classifier.classes_)}
            asked = [column[row["persona"]] for row in rollout.rows]
            numbers[name] = [float(own[i]) for own, i in zip(shares, asked, strict=True)]
        view.record(rollout, numbers)
        return {}


def check(options: Persona, context: CheckContext) -> Iterable[str]:
    """Before a run: what the file of posts or the held-out prompts lack."""
    try:
        _, personas = posts_of(options.posts, "b")
    except PluginError as error:
        yield f"posts: {error}"
        return
    yield from context.without_column("persona", "persona", of="held-out prompts")
    if unknown := [(row, cell) for row, cell in context.cells("persona") if cell not in personas]:
        row, cell = unknown[0]
        yield (
            f"persona: the held-out prompts have {cell!r} in row {row}; expected one of those of "
            f"{options.posts}: {', '.join(sorted(set(personas)))}"
        )


persona = Component("persona", options=Persona, check=check)
