"""What the recipe is judged by: the F1 of what each answer names."""

from ppokit.plugin import Component, EvaluationView, Options
from recipes.uses.sensitive_information.rewards import expected_spans, spans


def f1(answer, reference):
    """Of pairs of kind and text. Where nothing is to be found, 1 for naming nothing."""
    named, expected = spans(answer), expected_spans(reference)
    if named is None:
        return 0.0
    if not named and not expected:
        return 1.0
    return 2 * len(named & expected) / (len(named) + len(expected))


class SpanF1(Options):
    """F1 of greedy answers to the held-out messages, per message.

    `f1` of all messages, `f1_where_some` of those that have something to find: to name nothing is no answer
    there.
    """

    def evaluate(self, view: EvaluationView, step: int):
        rollout = view.generate()
        references = [row["reference"] for row in rollout.rows]
        scores = [f1(answer, own) for answer, own in zip(rollout.responses, references, strict=True)]
        some = [score if spans(own) else None for score, own in zip(scores, references, strict=True)]
        view.record(rollout, {"f1": scores, "f1_where_some": some})
        return {}


def check(options, context):
    """Before a run: what the held-out messages lack."""
    yield from context.without_column("reference", "reference", of="held-out prompts")
    for row, reference in context.cells("reference"):
        if not isinstance(reference, str) or spans(reference) is None:
            yield (
                f"reference: the held-out prompts have {str(reference)[:60]!r} in row {row}; expected JSON "
                'of lists by kind, such as {"name": ["Ann Lee"]}, or {} where there is nothing to find'
            )
            return


span_f1 = Component("span_f1", options=SpanF1, check=check)
