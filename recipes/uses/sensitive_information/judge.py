"""What the recipe is judged by: the F1 of what each answer names."""

from ppokit.plugin import EvaluationView, Options
from recipes.uses.sensitive_information.rewards import spans


def f1(answer, reference):
    """Of pairs of kind and text. Where nothing is to be found, 1 for naming nothing."""
    named, expected = spans(answer), spans(reference)
    if named is None:
        return 0.0
    if not named and not expected:
        return 1.0
    return 2 * len(named & expected) / (len(named) + len(expected))


class SpanF1(Options):
    """F1 of greedy answers to the held-out messages, per message."""

    def evaluate(self, view: EvaluationView, step: int):
        rollout = view.generate()
        answers = zip(rollout.responses, rollout.rows, strict=True)
        view.record(rollout, {"f1": [f1(answer, row["reference"]) for answer, row in answers]})
        return {}
