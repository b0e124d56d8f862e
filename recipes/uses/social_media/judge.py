"""What the recipe is judged by: whether a post is written as the persona that its prompt asks for writes."""

from __future__ import annotations

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ppokit.plugin import EvaluationView, Options
from recipes.uses.social_media.rewards import posts_of


class Characters(Options):
    """p(persona | post) of greedy posts, by a logistic regression on runs of one to four characters.

    Fitted to half b of the posts. Capitals and marks count: some voices are made of them.
    """

    posts: str

    def evaluate(self, view: EvaluationView, step: int) -> dict[str, float]:
        posts, personas = posts_of(self.posts, "b")
        runs = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), lowercase=False, sublinear_tf=True)
        classifier = make_pipeline(runs, LogisticRegression(C=30.0, max_iter=1000)).fit(posts, personas)
        rollout = view.generate()
        column = {persona: i for i, persona in enumerate(classifier.classes_)}
        shares = classifier.predict_proba(list(rollout.responses))
        asked = [column[row["persona"]] for row in rollout.rows]
        view.record(rollout, {"persona": [float(own[i]) for own, i in zip(shares, asked, strict=True)]})
        return {}
