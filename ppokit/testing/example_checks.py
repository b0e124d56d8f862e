"""Checks of a reward's examples: what must score higher than what, and that doing nothing does not win."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import BaseModel

from ppokit.plugin.examples import Example
from ppokit.testing.calls import close
from ppokit.testing.checks import Fault, check
from ppokit.testing.reward_calls import score_of
from ppokit.testing.samples import rollout_of
from ppokit.testing.subject import Subject


@dataclass(frozen=True)
class ScoredExample:
    """An example with what its reward makes of it: None where a response is not scored."""

    example: Example
    better: list[float | None]
    worse: list[float | None]
    nothing: float | None


def scored(subject: Subject, example: Example, options: BaseModel | None = None) -> ScoredExample:
    """Score an example with its own options beside those that were given, or with these alone."""
    own = {**subject.given, **example.options} if options is None else options.model_dump(by_alias=True)
    chosen = replace(subject, options=own)
    texts = [*example.better, *example.worse, example.nothing]
    rollout = rollout_of(
        texts, prompt=example.prompt, row=example.row, group=len(texts), needs=chosen.component.needs
    )
    built = chosen.build()
    try:
        values = score_of(built, rollout)
    finally:
        close(built)
    count = len(example.better)
    return ScoredExample(example, values[:count], values[count:-1], values[-1])


@check("names_examples", "rewards")
def names_examples(subject: Subject) -> None:
    """It names examples: responses of which some must score higher than others."""
    if not any(example.better for example in subject.examples):
        raise Fault(
            "it names no examples; add examples=[Example(better=('a good response',), worse=('a bad "
            "one',))] to "
            "its Component (or the attribute `examples` to a function or class)"
        )


@check("examples", "rewards")
def examples(subject: Subject) -> None:
    """Its better examples score higher than its worse ones."""
    for example in subject.examples:
        result = scored(subject, example)
        for text, value in zip(example.better, result.better, strict=True):
            if value is None:
                raise Fault(
                    f"its example {text[:60]!r}, one of the better, has no score; mend it or the example"
                )
            for other, low in zip(example.worse, result.worse, strict=True):
                if low is not None and low >= value:
                    raise Fault(
                        f"its better example {text[:60]!r} scores {value:g} and the worse {other[:60]!r} "
                        f"{low:g}; "
                        "expected less: mend the reward or the example"
                    )


@check("nothing_wins", "rewards")
def nothing_wins(subject: Subject) -> None:
    """An answer that does nothing scores below the better examples."""
    for example in subject.examples:
        result = scored(subject, example)
        best = max((value for value in result.better if value is not None), default=None)
        if result.nothing is not None and best is not None and result.nothing >= best:
            raise Fault(
                f"the answer of nothing, {example.nothing!r}, scores {result.nothing:g} and the best example "
                f"{best:g}: the policy would learn to say nothing; score what should be there, or "
                "abstain (None)"
            )
