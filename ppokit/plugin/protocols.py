"""What a plugin offers (`Component`) and what the objects that it builds must do.

Nothing here is inherited from: an object with the methods will do. An object of any kind may also hear of the
run's events (`ppokit.plugin.hookspecs.Events`), keep state that checkpoints hold (`Stateful`), and have a
`close()` that is called at the end of the run, whatever its end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from ppokit.plugin.coroutines import is_coroutine_function
from ppokit.plugin.examples import Example
from ppokit.plugin.reward_output import RewardOutput, Scored, Value
from ppokit.plugin.scoring import Sample
from ppokit.plugin.types import (
    Advantages,
    AdvantageWeights,
    LossInputs,
    LossOutput,
    Rewards,
    Rollout,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Need = Literal["old_logprobs", "new_logprobs", "ref_logprobs", "values", "entropy", "greedy"]


class Options(BaseModel):
    """Base of a component's options: unknown keys, NaN and infinity are refused; values do not change.

    A class that is its own component may have the attributes `needs`, `examples` and `waivers` of
    `Component`, and `whole_groups` and `responses_per_call` of `RewardProvider`: they are the class's, and
    no options.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    needs: ClassVar[Collection[str]] = ()
    examples: ClassVar[Sequence[Example]] = ()
    waivers: ClassVar[Mapping[str, str]] = {}
    whole_groups: ClassVar[bool] = False
    responses_per_call: ClassVar[int | None] = None


class SharedBase(Protocol):
    """The policy's frozen base, for components; to be called once training has begun.

    Components are built before the model is loaded.
    """

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Texts as vectors [n,H], float32 of length 1 on the CPU: the mean of the final hidden states."""
        ...

    def reward(self, folder: str, token_ids: Sequence[Sequence[int]], longest: int | None) -> Tensor:
        """[n] float32 on the CPU: scores by what `ppokit reward fit` made of this base, in a folder.

        Args:
            longest: tokens of a text at most that it was fitted on; None where that is not known.
        """
        ...


@dataclass(frozen=True)
class BuildContext:
    """What the core knows when it builds a component.

    Attributes:
        device: where models of a plugin's own should live.
        dtype: the dtype of the base model.
        seed: the run's seed.
        chat: whether prompts go through the policy's chat template.
        base: the policy's frozen base; None outside a run, and for a reward that is asked beside the policy's
            own passes: a coroutine, or one with timeout, retries, concurrency, rate_limit or overlap.
        folder: the run's, written with the first report; None outside a run.
        tokenizer: the policy's; None outside a run.
        rank, processes: this process, from 0, and how many there are.
        steps: of the whole run; 0 outside a run.
    """

    device: torch.device
    dtype: torch.dtype
    seed: int
    base: SharedBase | None = None
    chat: bool = False
    folder: Path | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    rank: int = 0
    processes: int = 1
    steps: int = 0


@dataclass(frozen=True)
class CheckContext:
    """What is known when a recipe is validated; no model is loaded.

    Attributes:
        columns: columns of the prompts' data set (for an evaluator: of the held-out prompts, empty where the
            recipe has none); None where they cannot be read without a network.
        responses_per_prompt: as the recipe says; None where it says it wrongly.
        chat: whether prompts go through the chat template.
        training_columns: for an evaluator, columns of the training prompts; None where they cannot be read.
        prompt_column: the column of the training prompts that holds the prompt.
        cells: the cells of one of these columns, each with its row's number; empty where they are not known.
        check_rewards: for an evaluator, what the recipe's rewards would lack in a data set of such columns
            and do not lack in the training prompts', one sentence each.
        overlap: whether most of what is trained on was answered by the policy of one update before.
        scaled: for an evaluator, the keys by which rewards are scaled anew at every step, such as
            `rewards[0].scale`.
    """

    columns: tuple[str, ...] | None
    responses_per_prompt: int | None = None
    chat: bool = False
    training_columns: tuple[str, ...] | None = None
    prompt_column: str = "prompt"
    cells: Callable[[str], Sequence[tuple[int, Any]]] = lambda column: ()
    check_rewards: Callable[[Collection[str]], Iterable[str]] = lambda columns: ()
    overlap: bool = False
    scaled: tuple[str, ...] = ()

    def without_column(self, key: str, *columns: str, of: str = "data set") -> Iterator[str]:
        """A sentence for each of these columns that is known not to be there.

        Args:
            key: the option that names it.
            of: what has the columns, in words.
        """
        for column in columns:
            if self.columns is not None and column not in self.columns:
                yield f"{key} {column!r} is no column of the {of} ({', '.join(self.columns)})"

    def separator_in_chats(self, separator: str) -> Iterator[str]:
        """A sentence where the option `separator`, text behind a plain prompt, is set for chats."""
        if self.chat and separator:
            yield (
                f"separator: got {separator!r} with prompts.chat: true, where the template stands between; "
                "leave it out"
            )


@dataclass(frozen=True)
class Component:
    """One thing that a recipe can name with `use:`.

    Attributes:
        name: what stands behind `use:`; also the last part of the entry point's name.
        build: makes the object from validated options; without it they are the object themselves, and have
            the methods of its kind.
        options: pydantic model of the keys beside `use`; derive it from `Options`.
        needs: what the core must compute for it. `old_logprobs`: of the policy before the update;
            `new_logprobs`: of the policy being trained, with gradient, for losses;
            `ref_logprobs`: of the reference; `values`: of the value function (likewise);
            `entropy`: of the policy, for losses; `greedy`: one greedy response per prompt, scored. What
            no chosen component needs is not computed.
        check: finds problems that the options' types cannot show (a missing file, an extra that is
            not installed) without loading a model; yields one sentence each.
        runs_on: `each`: built on every process and called on each with its share; `main`: built and called on
            the main process alone, as for a server that answers for all; the others get what it returned.
            For rewards and rollout engines. Observers are on the main process always.
        examples: of a reward: what must score higher than what; see `ppokit.plugin.examples`.
        waivers: checks of the conformance kit that it cannot pass: a reason by each one's name.
        awaited: of a reward: whether what is built with these options is a coroutine, which is cancelled at
            its `timeout` and needs no process of its own. Where `build` is a class, its methods show it; of
            other objects it is seen once they are built in such a process.
        imports: whose code these options name beside the plugin's own, by distribution or module, with its
            file where that is no module: `plugins.only` must have the name, and provenance hashes the file.
    """

    name: str
    build: Callable[[Any, BuildContext], Any] = lambda options, context: options
    options: type[BaseModel] = Options
    needs: frozenset[Need] = field(default_factory=frozenset)
    check: Callable[[Any, CheckContext], Iterable[str]] | None = None
    runs_on: Literal["each", "main"] = "each"
    examples: Sequence[Example] = ()
    waivers: Mapping[str, str] = field(default_factory=dict)
    awaited: Callable[[Any], bool] | None = None
    imports: Callable[[Any], Mapping[str, Path | None]] | None = None

    def is_async(self, options: BaseModel) -> bool:
        """Whether a reward is a coroutine, as far as that shows before it is built with these options."""
        if self.awaited is not None:
            return self.awaited(options)
        built = self.options if self.build is Component.build else self.build
        methods = (getattr(built, name, None) for name in ("score", "score_one"))
        return any(map(is_coroutine_function, methods))


class RewardProvider(Protocol):
    """Scores responses. Called on each process with that process's share of the rollout.

    `score` may be a coroutine, and may have a second argument for a `RewardContext`. Two attributes of the
    object, which it may lack, say how the core cuts calls: with `whole_groups = True` each has all responses
    to its prompts, and none has more than `responses_per_call` where that is an int (a whole group may have).
    """

    def score(self, rollout: Rollout) -> RewardOutput:
        """One outcome per response; may raise, which fails all of them."""
        ...


class ResponseRewardProvider(Protocol):
    """Scores a response at a time; may be a coroutine and may have the context likewise."""

    def score_one(self, sample: Sample) -> Value | Scored:
        """A number, None to abstain, or an exception, returned or raised, to fail."""
        ...


class AdvantageEstimator(Protocol):
    """Turns rewards into advantages. Called on every process with the whole rollout."""

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Advantages: ...


class Loss(Protocol):
    """One number per token, for one micro-batch."""

    def token_losses(self, inputs: LossInputs) -> LossOutput: ...


@runtime_checkable
class AdvantageWeighting(Protocol):
    """A loss component that adds no loss: it weighs the advantages that the other losses see.

    It has `advantage_weights` in place of `token_losses`, is asked first, and its `needs` name what it reads.
    """

    def advantage_weights(self, inputs: LossInputs) -> AdvantageWeights: ...


@runtime_checkable
class Stateful(Protocol):
    """Keeps state from step to step; checkpoints hold it, whatever the component's kind.

    The state is a mapping of numbers, texts, True, False, None, lists, tuples, mappings and tensors, which
    come back as they were (tensors on the CPU).
    """

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
