"""The ten uses of recipes/uses: what each is judged by, and what must not suffer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RECIPES = REPOSITORY / "recipes" / "uses"


@dataclass(frozen=True)
class Use:
    """A use.

    Attributes:
        name: its folder in recipes/uses.
        title: in tables.
        judge: the number that it is judged by, `<evaluator>/<name>` as under `eval/`. Higher is better, the
            evaluator records it per held-out prompt, and no reward of the recipe is the same measure.
        measure: that number in words, with its range.
        answers: the evaluator whose answers the README shows.
        beside: a second number of the same evaluator, and its words, where the first alone can mislead.
    """

    name: str
    title: str
    judge: str
    measure: str
    answers: str = "judge"
    beside: tuple[str, str] | None = None

    @property
    def folder(self) -> Path:
        return RECIPES / self.name


LIKELIHOOD = ("judge/logprob_per_token", "by the log-likelihood of the right words, in nats per token")
USES = {
    use.name: use
    for use in (
        Use("chatbots", "Chatbots", "judge/score", "chrF, 0 to 100"),
        Use(
            "autocomplete",
            "Autocomplete",
            "judge/next_word_accuracy",
            "next words right, 0 to 1",
            "suggestions",
            LIKELIHOOD,
        ),
        Use("customer_service", "Customer service", "judge/score", "chrF, 0 to 100"),
        Use("translation", "Translation", "judge/score", "BLEU, 0 to 100"),
        Use(
            "predictive_text",
            "Predictive text",
            "judge/next_word_accuracy",
            "next words right, 0 to 1",
            "suggestions",
            LIKELIHOOD,
        ),
        Use("marketing", "Marketing copy", "judge/rougeL", "ROUGE-L, 0 to 1"),
        Use("summarisation", "Summarisation", "judge/rougeL", "ROUGE-L, 0 to 1"),
        Use("virtual_assistants", "Virtual assistants", "judge/score", "chrF, 0 to 100"),
        Use(
            "sensitive_information",
            "Sensitive information",
            "judge/f1",
            "F1 of what is named, 0 to 1",
            beside=("judge/f1_where_some", "of messages that have something to find"),
        ),
        Use(
            "social_media",
            "Social media",
            "judge/persona",
            "p(persona) by a second classifier, 0 to 1",
            beside=("judge/persona_by_words", "by a third classifier, of words"),
        ),
    )
}

BOUND = 0.05
"""By which share a guard may worsen, see guards.py."""
SEEDS = (0, 1, 2)
