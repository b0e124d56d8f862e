"""How near a response's meaning is to that of a reference: the cosine of their sentence embeddings.

    score = max over references of  e(response) . e(reference),   |e| = 1

Reimers and Gurevych 2019, arXiv:1908.10084. From -1 to 1; an empty response, which has no meaning, scores -1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    Example,
    Options,
    RewardOutput,
    Rollout,
    hookimpl,
)
from ppokit_metrics.references import Name, Reference, columns_of
from ppokit_rewards.encoder import Encoder, encoder_problems

if TYPE_CHECKING:
    from torch import Tensor


class SimilarityOptions(Options):
    encoder: Name = Field(
        description="Encoder of sentences: hub id, such as sentence-transformers/all-MiniLM-L6-v2, folder, "
        "or package:DISTRIBUTION/FOLDER."
    )
    reference: Reference = Field(
        description="Column of texts to compare with, each one or a list, or several columns: the nearest "
        "counts."
    )
    batch_size: int = Field(64, gt=0, description="Texts that are encoded at a time.")


class Similarity:
    def __init__(self, options: SimilarityOptions, context: BuildContext) -> None:
        self.options = options
        self.encoder = Encoder(options.encoder, context.device)
        self._known: dict[str, Tensor] = {}  # references come again in every epoch

    def score(self, rollout: Rollout) -> RewardOutput:
        references = [self._references(row) for row in rollout.rows]
        new = dict.fromkeys(text for own in references for text in own if text not in self._known)
        texts = [*new, *rollout.responses]
        vectors = self.encoder(texts, self.options.batch_size)
        # Copies: a view would keep the responses' vectors with it.
        self._known.update(zip(new, vectors[: len(new)].clone(), strict=True))
        values: list[float | BaseException | None] = []
        for response, own, vector in zip(rollout.responses, references, vectors[len(new) :], strict=True):
            if not own:
                values.append(ValueError(f"its row has no text in {self.options.reference!r}"))
            elif not response.strip():
                values.append(-1.0)
            else:
                values.append(max(float(vector @ self._known[text]) for text in own))
        return RewardOutput.from_values(values)

    def _references(self, row: Any) -> list[str]:
        cells = [row[column] for column in columns_of(self.options.reference)]
        given = [one for cell in cells for one in (cell if isinstance(cell, list | tuple) else [cell])]
        return [str(text) for text in given if text is not None and str(text).strip()]


def check(options: SimilarityOptions, context: CheckContext) -> Iterable[str]:
    yield from context.without_column("reference", *columns_of(options.reference), of="prompts")
    yield from encoder_problems(options.encoder)


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    answer = "The train leaves at nine."
    examples = [Example((answer,), ("Cats sleep.",), row={"answer": answer}, options={"reference": "answer"})]
    return [Component("similarity", Similarity, options=SimilarityOptions, check=check, examples=examples)]
