"""Takes recorded responses instead of sampling them, or for a share of the batch.

They stand in a file of people's ratings, or in a column of the prompts, such as their references.

Each response is one that was recorded for its prompt with the probability `recorded`, drawn without
replacement while they last; the rest, and those to prompts that have none, are sampled as
`transformers` does. A recorded response has no log-probabilities of its own: the core takes those of the
reference, as if the untrained policy had written it, and the loss `off_policy_correction` weighs by them.

No paper; off-policy correction: Espeholt et al. 2018, arXiv:1802.01561, section 4.1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    DataError,
    Generation,
    GenerationRequest,
    Need,
    PluginError,
    PolicyHandle,
    PromptBatch,
    as_generation,
    hookimpl,
)
from ppokit.ratings.table import OnBadRow, RatingColumns, read_for_run
from ppokit_rollouts.transformers_engine import TransformersEngine, TransformersOptions

if TYPE_CHECKING:
    from torch import Tensor


class RecordedOptions(TransformersOptions):
    path: str | None = Field(
        None, min_length=1, description="file of ratings or pairs whose responses are taken"
    )
    column: str | None = Field(
        None,
        min_length=1,
        description="column of the prompts that holds a recorded response, in place of path",
    )
    columns: RatingColumns = Field(
        default_factory=RatingColumns, description="which of its columns holds what"
    )
    on_bad_row: OnBadRow = Field("fail", description="what to do about rows that cannot be read")
    recorded: float = Field(
        1.0, gt=0, le=1, description="probability of a recorded response; the others are sampled"
    )
    separator: str = Field(
        "", description="text between a plain prompt and its response, such as a space; not for chats"
    )

    @model_validator(mode="after")
    def _one_source(self) -> RecordedOptions:
        if (self.path is None) == (self.column is None):
            raise ValueError(
                "takes responses from one source; expected path, of a file, or column, of the prompts"
            )
        # Not by which were given: a run's own recipe gives all.
        of_a_file = {"columns": RatingColumns(), "on_bad_row": "fail"}
        unread = [name for name, default in of_a_file.items() if getattr(self, name) != default]
        if self.column is not None and unread:
            raise ValueError(f"{unread[0]}: is for a file of ratings; leave it out beside column")
        return self


class RecordedEngine:
    """Recorded responses, and sampled ones for the rest."""

    def __init__(self, options: RecordedOptions) -> None:
        self.options = options
        self.sampled = TransformersEngine(options)

    @cached_property
    def responses(self) -> dict[str, list[str]]:
        """Of the file by prompt, read when first asked for: a trained policy is loaded without them."""
        return recorded_responses(self.options)

    def known(self, prompts: PromptBatch) -> list[list[str]]:
        """The recorded responses to each prompt.

        Raises:
            PluginError: a cell of `column` is no text.
        """
        column = self.options.column
        if column is None:
            return [self.responses.get(prompt, []) for prompt in prompts.prompts]
        cells = [row[column] for row in prompts.rows]
        if wrong := [cell for cell in cells if not isinstance(cell, str | None)]:
            raise PluginError(f"column: {column!r} has {wrong[0]!r}; expected a text, or nothing")
        return [[] if cell is None else [cell] for cell in cells]

    def generate(self, policy: PolicyHandle, request: GenerationRequest) -> Generation:
        if request.seeds is None or not request.training:  # what the policy itself would say
            return self.sampled.generate(policy, request)
        uniforms = request.seeds.uniforms(request.sampling.max_new_tokens)
        recordings = self.known(request.prompts)
        texts: list[str | None] = []
        for index, own in enumerate(recordings):
            texts += _draw(own, uniforms[index, :, 0].tolist(), self.options.recorded)
        known = [index for index, text in enumerate(texts) if text is not None]
        recorded = as_generation(
            [request.prompts.prompt_ids[index // request.n] for index in known],
            [text for text in texts if text is not None],
            policy,
            request.sampling.max_new_tokens,
            separator=self.options.separator,
            prefill=request.prompts.prefill,
        )
        missing = [index for index, text in enumerate(texts) if text is None]
        if not missing:
            return recorded
        has_recorded = [bool(recordings[index // request.n]) for index in missing]
        return _merged(texts, recorded, self._sample(policy, request, uniforms, missing, has_recorded))

    def _sample(
        self,
        policy: PolicyHandle,
        request: GenerationRequest,
        uniforms: Tensor,
        indices: list[int],
        has_recorded: list[bool],
    ) -> Generation:
        """A sampled response for each of these responses that are asked for.

        Args:
            has_recorded: of each, whether a recorded response could have been drawn in its stead.
        """
        prompts = request.prompts.select([index // request.n for index in indices])
        numbers = uniforms.flatten(0, 1)[indices]
        share = self.options.recorded
        for row, could_be in enumerate(has_recorded):
            if could_be:  # its first number was at least the share, and now draws a token too
                numbers[row, 0] = (numbers[row, 0] - share) / (1 - share)
        # Nobody knows how likely the policy makes what was recorded, so that nobody asks it of the others.
        one_each = replace(request, prompts=prompts, n=1, policy_logprobs=False)
        return self.sampled.sample(policy, one_each, numbers.unsqueeze(1))


def recorded_responses(options: RecordedOptions) -> dict[str, list[str]]:
    """The distinct responses to each prompt, in the order of the file at `path`.

    Raises:
        DataError: the file cannot be read.
    """
    assert options.path is not None
    table = read_for_run(options.path, options.columns, on_bad_row=options.on_bad_row)
    by_prompt: dict[str, dict[str, None]] = defaultdict(dict)
    for rating in table.ratings:
        by_prompt[rating.prompt][rating.response] = None
    for pair in table.pairs:
        by_prompt[pair.prompt].update({pair.chosen: None, pair.rejected: None})
    return {prompt: list(responses) for prompt, responses in by_prompt.items()}


def _draw(known: list[str], numbers: list[float], share: float) -> list[str | None]:
    """A response for each number in [0, 1): one not yet taken, all of them again when they run out.

    None where the number is not below the share: what is left of it then draws nothing here.
    """
    drawn: list[str | None] = []
    left: list[str] = []
    for number in numbers:
        left = left or list(known)
        drawn.append(left.pop(int(number / share * len(left))) if left and number < share else None)
    return drawn


def _merged(texts: list[str | None], recorded: Generation, sampled: Generation) -> Generation:
    """Both, in the order that they are asked for."""
    names = [name for name, value in vars(recorded).items() if value is not None]
    parts = [iter(zip(*(getattr(part, name) for name in names), strict=True)) for part in (recorded, sampled)]
    rows = [next(parts[text is None]) for text in texts]
    columns = zip(*rows, strict=True)
    return Generation(**{name: list(column) for name, column in zip(names, columns, strict=True)})


def _check(options: RecordedOptions, context: CheckContext) -> Iterator[str]:
    yield from context.separator_in_chats(options.separator)
    if options.column is not None:
        yield from context.without_column("column", options.column, of="prompts")
        if wrong := [own for own in context.cells(options.column) if not isinstance(own[1], str | None)]:
            row, cell = wrong[0]
            shown = f"{repr(cell)[:60]} in row {row}"
            yield f"column: {options.column!r} has {shown}; expected a text, or nothing"
        return
    try:
        recorded_responses(options)
    except DataError as error:
        yield f"path: {error}"


def _build(options: RecordedOptions, context: BuildContext) -> RecordedEngine:
    return RecordedEngine(options)


@hookimpl
def ppokit_rollout_engines() -> list[Component]:
    needs: frozenset[Need] = frozenset({"ref_logprobs"})
    return [Component("recorded", _build, RecordedOptions, needs, _check)]
