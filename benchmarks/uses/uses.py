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
        beside: other numbers, and their words, since the first alone can mislead: of the same evaluator, or
            `ITS_OWN`.
    """

    name: str
    title: str
    judge: str
    measure: str
    answers: str = "judge"
    beside: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        return RECIPES / self.name


ITS_OWN = "its own"
"""The judge's number minus the mean of it against other prompts' references, see judging.py."""
OF_A_METRIC = ((ITS_OWN, "beyond that against other prompts' references"),)
OF_WORDS = (
    ("judge/logprob_per_token", "by the log-likelihood of the right words, in nats per token"),
    ("judge/keystrokes_saved", "by the share of keystrokes saved"),
)
USES = {
    use.name: use
    for use in (
        Use("chatbots", "Chatbots", "judge/score", "chrF, 0 to 100", beside=OF_A_METRIC),
        Use(
            "autocomplete",
            "Autocomplete",
            "judge/next_word_accuracy",
            "next words right, 0 to 1",
            "suggestions",
            OF_WORDS,
        ),
        Use("customer_service", "Customer service", "judge/score", "chrF, 0 to 100", beside=OF_A_METRIC),
        Use("translation", "Translation", "judge/score", "BLEU, 0 to 100"),
        Use(
            "predictive_text",
            "Predictive text",
            "judge/next_word_accuracy",
            "next words right, 0 to 1",
            "suggestions",
            OF_WORDS,
        ),
        Use("marketing", "Marketing copy", "judge/rougeL", "ROUGE-L, 0 to 1", beside=OF_A_METRIC),
        Use("summarisation", "Summarisation", "judge/rougeL", "ROUGE-L, 0 to 1", beside=OF_A_METRIC),
        Use("virtual_assistants", "Virtual assistants", "judge/score", "chrF, 0 to 100", beside=OF_A_METRIC),
        Use(
            "sensitive_information",
            "Sensitive information",
            "judge/f1",
            "F1 of what is named, 0 to 1",
            beside=(("judge/f1_where_some", "of messages that have something to find"),),
        ),
        Use(
            "social_media",
            "Social media",
            "judge/persona",
            "p(persona) by a second classifier, 0 to 1",
            beside=(("judge/persona_by_words", "by a third classifier, of words"),),
        ),
    )
}

BOUND = 0.05
"""By which share a guard may worsen, see guards.py."""
SEEDS = (0, 1, 2)
