"""What a judge's number is worth.

Three things beside it: what answers get that tell nothing of a prompt; how far an answer is nearer to its own
prompt's reference than to those of others, since an answer in the right style is near to all of them; and of
BLEU, which is a number of a whole set, the counts that it is made of.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from statistics import mean
from types import SimpleNamespace
from typing import Any

import sacrebleu
from rows import Row, read_lines

from ppokit_metrics.finding import OF_WHOLE_SETS
from ppokit_metrics.loading import Metric
from uses import REPOSITORY, Use

sys.path.append(str(REPOSITORY))  # judges of the recipes' own

OTHERS = 20
"""Other prompts' references that an answer is compared with."""


@dataclass(frozen=True)
class Judge:
    """A judge that is a metric against references.

    Attributes:
        metric: the metric.
        evaluator: whose rows of an evaluation have the answers.
        number: the one of its numbers that counts.
    """

    metric: Metric
    evaluator: str
    number: str

    def of_set(self, answers: Sequence[str], rows: Sequence[Row]) -> float:
        references = [row["reference"] for row in rows]
        if self.metric.name in OF_WHOLE_SETS:
            return float(self.metric.compute(answers, references)[self.number])
        return mean(self.of_each(answers, references))

    @property
    def is_bleu(self) -> bool:
        return self.metric.name == "sacrebleu"

    def of_each(self, answers: Sequence[str], references: Sequence[Any]) -> list[float]:
        """The number of each answer alone."""
        return self.metric.per_response(answers, references)[self.number]


@dataclass(frozen=True)
class OwnJudge:
    """A judge of the recipe's own, `module:component`.

    Attributes:
        evaluator: what it builds.
        number: the one of its numbers that counts.
    """

    evaluator: Any
    number: str

    def of_set(self, answers: Sequence[str], rows: Sequence[Row]) -> float:
        recorded: dict[str, list[float]] = {}
        view = SimpleNamespace(
            generate=lambda n=None: SimpleNamespace(responses=answers, rows=rows),
            record=lambda rollout, numbers: recorded.update(numbers),
        )
        with chdir(REPOSITORY):
            self.evaluator.evaluate(view, 0)
        return mean(recorded[self.number])


def judge_of(use: Use, recipe: Mapping[str, Any]) -> Judge | OwnJudge | None:
    """The use's judge; None where nothing that is answered counts."""
    evaluator, _, number = use.judge.partition("/")
    evaluators = recipe["evaluation"]["evaluators"]
    (own,) = [entry for entry in evaluators if entry.get("name", entry["use"]) == evaluator]
    if own["use"] == "metric":
        metric = Metric(own["metric"], own.get("config"), own.get("arguments") or {})
        return Judge(metric, evaluator, number)
    module, _, attribute = own["use"].partition(":")
    if not attribute:
        return None
    component = getattr(importlib.import_module(module), attribute)
    keys = {key: value for key, value in own.items() if key not in ("use", "name")}
    return OwnJudge(component.options(**keys), number)


def trivial(
    judge: Judge | OwnJudge | None, held_out: Sequence[Row], train: Sequence[Row]
) -> dict[str, float] | None:
    """What answers get on the held-out prompts that tell nothing of them; None where no answer counts.

    Returns:
        `prompt`, for answers that repeat the prompt; `fixed`, for one answer to all prompts, which is the
        first reference of a row that is trained on: the mean over these rows; `best`, the best of them.
    """
    if judge is None:
        return None
    known = [row["reference"] for row in train]
    fixed = dict.fromkeys(own if isinstance(own, str) else own[0] for own in known)
    scores = [judge.of_set([text] * len(held_out), held_out) for text in fixed]
    return {
        "prompt": judge.of_set([row["prompt"] for row in held_out], held_out),
        "fixed": mean(scores),
        "best": max(scores),
    }


def rows_of(section: Mapping[str, Any]) -> list[Row]:
    """Those that a recipe's section of prompts takes."""
    return read_lines(REPOSITORY / section["path"])[: section.get("limit")]


def of_its_own(judge: Judge, rows: Sequence[Row]) -> dict[int, float]:
    """By held-out prompt: an answer's number with its reference, minus the mean with those of other prompts.

    Args:
        rows: of an evaluation.
    """
    own = [row for row in rows if row["evaluator"] == judge.evaluator]
    answers = [row["response"] for row in own]
    references = {row["group"]: json.loads(row["row"])["reference"] for row in own}
    groups = sorted(references)
    index = {group: i for i, group in enumerate(groups)}
    steps = range(1, len(groups), max(1, (len(groups) - 1) // OTHERS))[:OTHERS]

    def shifted(by: int) -> list[float]:
        others = [references[groups[(index[row["group"]] + by) % len(groups)]] for row in own]
        return judge.of_each(answers, others)

    numbers = shifted(0)
    elsewhere = [mean(column) for column in zip(*map(shifted, steps), strict=True)]
    by_group: dict[int, list[float]] = defaultdict(list)
    for row, number, other in zip(own, numbers, elsewhere, strict=True):
        by_group[row["group"]].append(number - other)
    return {group: mean(by_group[group]) for group in groups}


def bleu_counts(judge: Judge, rows: Sequence[Row]) -> list[list[int]]:
    """By held-out prompt, what BLEU is made of.

    Args:
        rows: of an evaluation.

    Returns:
        [prompts, 10]: right and all runs of one to four words, and the words of answer and reference.
    """
    counts = []
    for row in sorted(rows, key=lambda row: row["group"]):
        if row["evaluator"] == judge.evaluator:
            score = sacrebleu.corpus_bleu([row["response"]], [[json.loads(row["row"])["reference"]]])
            counts.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return counts


def bleu(counts: Sequence[int]) -> float:
    """BLEU of the sums of such counts."""
    right, of, (words, expected) = list(counts[:4]), list(counts[4:8]), counts[8:]
    return float(sacrebleu.BLEU.compute_bleu(right, of, words, expected, smooth_method="exp").score)
