"""What the recipe is judged by: whether a post has the words of the persona that its prompt asks for."""

from __future__ import annotations

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ppokit.plugin import EvaluationView, Options
from recipes.uses.social_media.rewards import posts_of


class Words(Options):
    """p(persona | post) of greedy posts, by a logistic regression on the words and marks of half b."""

    posts: str

    def evaluate(self, view: EvaluationView, step: int) -> dict[str, float]:
        posts, personas = posts_of(self.posts, "b")
        # Marks count as words do, and so do capitals: some voices are made of them.
        tokens = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", lowercase=False)
        classifier = make_pipeline(tokens, LogisticRegression(C=30.0)).fit(posts, personas)
        rollout = view.generate()
        column = {persona: i for i, persona in enumerate(classifier.classes_)}
        shares = classifier.predict_proba(list(rollout.responses))
        asked = [column[row["persona"]] for row in rollout.rows]
        view.record(rollout, {"persona": [float(own[i]) for own, i in zip(shares, asked, strict=True)]})
        return {}
