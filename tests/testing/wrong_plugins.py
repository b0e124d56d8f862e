"""Components that are each wrong in one way, with the check that finds it and words of what it says."""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, create_model, field_validator

from ppokit.plugin import (
    Advantages,
    Component,
    Example,
    Generation,
    LossInputs,
    LossOutput,
    Options,
    RewardOutput,
    Rollout,
    broadcast_to_tokens,
    decode_responses,
    hookimpl,
    masked_mean,
)
from ppokit.rewards.scaling import Scaling

EXAMPLES = [Example(("a e i o u a e i o u",), ("bcd",))]
OPEN: list[Any] = []
STOP = threading.Event()


@dataclass(frozen=True)
class Wrong:
    """One fault.

    Attributes:
        check: that finds it.
        words: of its sentence.
    """

    name: str
    kind: str
    component: Component
    check: str
    words: str


FAULTS: list[Wrong] = []


def vowels(text: str) -> float:
    return sum(character in "aeiou" for character in text.lower()) / 10


def values(rollout: Rollout) -> list[float]:
    return [vowels(text) for text in rollout.responses]


def texts_of(rollout: Rollout) -> Any:
    return zip(rollout.rows, rollout.responses, strict=True)


class Reward:
    """Right, to be spoiled."""

    def __init__(self, options: Any, context: Any) -> None:
        self.options, self.context = options, context

    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.from_values(values(rollout))


def component(build: Any, **fields: Any) -> Component:
    return Component("wrong", build, **{"examples": EXAMPLES, **fields})


def reward(check: str, words: str, /, **fields: Any) -> Callable[[type], type]:
    def add(thing: type) -> type:
        FAULTS.append(Wrong(thing.__name__, "rewards", component(thing, **fields), check, words))
        return thing

    return add


def scored(check: str, words: str, /, **fields: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A reward of which this function is `score`."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        thing = type(function.__name__, (Reward,), {"score": function})
        FAULTS.append(Wrong(function.__name__, "rewards", component(thing, **fields), check, words))
        return function

    return add


@scored("ragged_batch", "expected [12] (responses)")
def one_score_too_few(self: Any, rollout: Rollout) -> Any:
    return RewardOutput.from_values(values(rollout)[:-1])


@scored("ragged_batch", "returned a list")
def a_list(self: Any, rollout: Rollout) -> Any:
    return values(rollout)


@scored("ragged_batch", "expected [12] (responses)")
def a_column(self: Any, rollout: Rollout) -> Any:
    return RewardOutput(torch.tensor(values(rollout))[:, None], ("scored",) * len(rollout))


@scored("empty_responses", "ZeroDivisionError")
def divides_by_length(self: Any, rollout: Rollout) -> Any:
    return RewardOutput.from_values([len(t) / len(t.split()) for t in rollout.responses])


@scored("one_response", "expected a finite number")
def deviation_of_one(self: Any, rollout: Rollout) -> Any:
    numbers = torch.tensor(values(rollout))
    return RewardOutput.of_scores(numbers / numbers.std(correction=0))


@scored("unicode", "UnicodeEncodeError")
def ascii_only(self: Any, rollout: Rollout) -> Any:
    return RewardOutput.from_values([len(text.encode("ascii")) / 10 for text in rollout.responses])


@scored("special_tokens", "KeyError")
def formats_the_text(self: Any, rollout: Rollout) -> Any:
    return RewardOutput.from_values([len(str(text.format())) / 10 for text in rollout.responses])


@scored("long_responses", "10,000 characters")
def slow_on_long_texts(self: Any, rollout: Rollout) -> Any:
    if max(map(len, rollout.responses), default=0) > 5000:
        time.sleep(0.6)
    return RewardOutput.from_values(values(rollout))


@scored("time", "twelve short responses")
def slow(self: Any, rollout: Rollout) -> Any:
    time.sleep(0.06)
    return RewardOutput.from_values(values(rollout))


@scored("order", "come from it alone")
def by_position(self: Any, rollout: Rollout) -> Any:
    return RewardOutput.from_values([v + i for i, v in enumerate(values(rollout))])


@scored("batch_cuts", "in a part of it")
def by_batch_mean(self: Any, rollout: Rollout) -> Any:
    numbers = torch.tensor(values(rollout))
    return RewardOutput.of_scores(numbers - numbers.mean())


@scored("leaves_its_input", "responses")
def mutates_texts(self: Any, rollout: Rollout) -> Any:
    numbers = values(rollout)
    rollout.responses[:] = [text.strip() + "!" for text in rollout.responses]
    return RewardOutput.from_values(numbers)


class EmbedsInACoroutine(Reward):
    async def score(self, rollout: Rollout) -> RewardOutput:  # type: ignore[override]
        return RewardOutput.from_values(self.context.base.embed(rollout.responses)[:, 0].tolist())


FAULTS.append(
    Wrong(
        "embeds_in_a_coroutine",
        "rewards",
        component(lambda options, context: EmbedsInACoroutine(options, context)),  # which shows no coroutine
        "ragged_batch",
        "write a plain function in place of async def",
    )
)


class OneAtATime:
    """Right: a coroutine that is asked for a response at a time, and may draw."""

    def __init__(self, options: Any, context: Any) -> None:
        pass

    async def score_one(self, sample: Any, context: Any) -> float:
        return vowels(sample.response) + float(context.generator(sample.id).random())

    async def close(self) -> None:
        pass


class Groups(Reward):
    """Right: compares the responses of a group, and says so."""

    whole_groups = True

    def score(self, rollout: Rollout) -> RewardOutput:
        numbers = torch.tensor(values(rollout))
        best = [float(numbers[rollout.group_ids == group].max()) for group in rollout.group_ids]
        return RewardOutput.from_values([a - b / 2 for a, b in zip(numbers.tolist(), best, strict=True)])


@reward("batch_cuts", "in a part of it")
class UndeclaredGroups(Groups):
    whole_groups = False


@scored("leaves_its_input", "response_ids")
def mutates_a_tensor(self: Any, rollout: Rollout) -> Any:
    rollout.response_ids.fill_(5)
    return RewardOutput.from_values(values(rollout))


@scored("leaves_its_input", "rows")
def mutates_a_row(self: Any, rollout: Rollout) -> Any:
    for row in rollout.rows:
        row["seen"] = True  # type: ignore[index]
    return RewardOutput.from_values(values(rollout))


@scored("repeats", "seeded by the context")
def random_numbers(self: Any, rollout: Rollout) -> Any:
    draw = random.Random(os.urandom(8))
    return RewardOutput.from_values([v + draw.random() for v in values(rollout)])


@scored("leaves_random_state", "Python's global random numbers")
def draws_from_python(self: Any, rollout: Rollout) -> Any:
    random.random()
    return RewardOutput.from_values(values(rollout))


@scored("leaves_random_state", "torch's global random numbers")
def seeds_torch(self: Any, rollout: Rollout) -> Any:
    torch.manual_seed(7)
    return RewardOutput.from_values(values(rollout))


@scored("leaves_torch_settings", "the default dtype")
def default_dtype(self: Any, rollout: Rollout) -> Any:
    torch.set_default_dtype(torch.float64)
    return RewardOutput.from_values(values(rollout))


@scored("leaves_gradients", "whether torch computes gradients")
def no_gradients(self: Any, rollout: Rollout) -> Any:
    torch.set_grad_enabled(False)
    return RewardOutput.from_values(values(rollout))


@scored("leaves_threads_setting", "torch's threads")
def sets_threads(self: Any, rollout: Rollout) -> Any:
    torch.set_num_threads(torch.get_num_threads() + 1)
    return RewardOutput.from_values(values(rollout))


@scored("leaves_random_state", "torch's global random numbers")
def seeds_torch_as_before(self: Any, rollout: Rollout) -> Any:
    torch.manual_seed(0)
    return RewardOutput.from_values(values(rollout))


ONCE: set[str] = set()


@scored("leaves_threads_setting", "torch's threads")
def sets_threads_at_the_first_call(self: Any, rollout: Rollout) -> Any:
    if "threads" not in ONCE:
        ONCE.add("threads")
        torch.set_num_threads(torch.get_num_threads() + 1)
    return RewardOutput.from_values(values(rollout))


@scored("leaves_nothing_open", "would wait at its end")
def starts_a_thread_at_the_first_call(self: Any, rollout: Rollout) -> Any:
    if "thread" not in ONCE:
        ONCE.add("thread")
        threading.Thread(target=STOP.wait).start()
    return RewardOutput.from_values(values(rollout))


@scored("leaves_working_directory", "the working directory")
def changes_directory(self: Any, rollout: Rollout) -> Any:
    os.chdir("/")
    return RewardOutput.from_values(values(rollout))


@scored("leaves_environment", "TOKENIZERS_PARALLELISM_OF_THE_TEST")
def sets_a_variable(self: Any, rollout: Rollout) -> Any:
    os.environ["TOKENIZERS_PARALLELISM_OF_THE_TEST"] = "true"
    return RewardOutput.from_values(values(rollout))


@scored("leaves_warning_filters", "warnings filters")
def silences_warnings(self: Any, rollout: Rollout) -> Any:
    warnings.filterwarnings("ignore", message=f"message {time.monotonic_ns()}")
    return RewardOutput.from_values(values(rollout))


@scored("leaves_signals", "a signal handler")
def handles_signals(self: Any, rollout: Rollout) -> Any:
    signal.signal(signal.SIGTERM, lambda *a: None)
    return RewardOutput.from_values(values(rollout))


@scored("leaves_nothing_open", "running; end it in close()")
def leaves_a_thread(self: Any, rollout: Rollout) -> Any:
    threading.Thread(target=STOP.wait, daemon=True).start()
    return RewardOutput.from_values(values(rollout))


@scored("leaves_nothing_open", "files or connections open")
def leaves_files(self: Any, rollout: Rollout) -> Any:
    OPEN.extend(Path(__file__).open() for _ in range(2))  # noqa: SIM115
    return RewardOutput.from_values(values(rollout))


@scored("needs", "reads values, which its needs do not name")
def undeclared_need(self: Any, rollout: Rollout) -> Any:
    known = rollout.values is not None
    return RewardOutput.from_values([v + known for v in values(rollout)])


@scored("pickles", "cannot be pickled")
def unsendable(self: Any, rollout: Rollout) -> Any:
    metrics: Any = {"f": lambda: 1}
    return RewardOutput.from_values(values(rollout), metrics)


@scored("examples", "the worse 'bcd'")
def the_wrong_way_round(self: Any, rollout: Rollout) -> Any:
    return RewardOutput.from_values([-v for v in values(rollout)])


@scored(
    "nothing_wins", "the policy would learn to say nothing", examples=[Example(("hello",), ("hello again",))]
)
def the_shorter_the_better(self: Any, rollout: Rollout) -> Any:
    return RewardOutput.from_values([-len(text) / 10 for text in rollout.responses])


@scored("names_examples", "it names no examples", examples=[])
def no_examples(self: Any, rollout: Rollout) -> Any:
    return RewardOutput.from_values(values(rollout))


@reward("builds", "expected one argument for the responses")
class ThreeArguments(Reward):
    def score(self, prompts: Any, responses: Any, answers: Any) -> Any:  # type: ignore[override]
        return RewardOutput.from_values([1.0])


@reward("builds", "expected an object with a method score(rollout)")
class NoMethod:
    def __init__(self, options: Any, context: Any) -> None:
        pass


@reward("state_methods", "state_dict without load_state_dict")
class HalfAState(Reward):
    def state_dict(self) -> Mapping[str, Any]:
        return {}


@reward("state_methods", "pathlib")
class UnstorableState(Reward):
    def state_dict(self) -> Mapping[str, Any]:
        return {"path": Path()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@reward("state_in_calls", "change it in on_step")
class LearnsInScore(Reward):
    mean = 0.0

    def score(self, rollout: Rollout) -> RewardOutput:
        output = RewardOutput.from_values([v - self.mean for v in values(rollout)])
        self.mean += 0.1
        return output


class Counts(Reward):
    """Right: learns in `on_step`, gives and takes its state."""

    count = 0

    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.from_values([v + self.count for v in values(rollout)])

    @hookimpl
    def on_step(self) -> None:
        self.count += 1

    def state_dict(self) -> Mapping[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]


@reward("resumes", "load_state_dict")
class ForgetsItsState(Counts):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@reward("resumes", "give it in state_dict")
class StateNobodyStores(Reward):
    count = 0

    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.from_values([v + self.count for v in values(rollout)])

    @hookimpl
    def on_step(self) -> None:
        self.count += 1


@reward("events", "without @hookimpl")
class UnmarkedEvent(Reward):
    def on_step(self) -> None:
        pass


@reward("events", "which this event does not give")
class UnknownArgument(Reward):
    @hookimpl
    def on_step(self, loss: Any) -> None:
        pass


@reward("closes", "AttributeError")
class ClosesWhatItNeverOpened(Reward):
    def score(self, rollout: Rollout) -> RewardOutput:
        self.file = open(os.devnull)  # noqa: SIM115, PTH123
        self.file.close()
        return RewardOutput.from_values(values(rollout))

    def close(self) -> None:
        self.file.close()


reward("recipe_check", "yield each problem", check=lambda options, context: None)(
    type("ChecksNothing", (Reward,), {})
)
reward("recipe_check", "ZeroDivisionError", check=lambda options, context: 1 / 0)(
    type("CheckRaises", (Reward,), {})
)


class Loose(BaseModel):
    strength: float = 1.0


reward("options_unknown", "a misspelt one", options=Loose)(type("TakesAnyKey", (Reward,), {}))


class LooseNumbers(BaseModel):
    model_config: ClassVar[Any] = {"extra": "forbid"}
    strength: float = 1.0


reward("options_nonsense", "takes nan", options=LooseNumbers)(type("TakesNaN", (Reward,), {}))


class Crashing(Options):
    words: str = "please"

    @field_validator("words", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.strip()


reward("options_nonsense", "AttributeError", options=Crashing)(type("ValidatorCrashes", (Reward,), {}))


class Weighted(Options):
    weight: float = 1.0


reward("options_names", "is a key of the core's own", options=Weighted)(type("TakenKey", (Reward,), {}))


class OneWay(Options):
    words: str = "please"

    @field_validator("words")
    @classmethod
    def _twice(cls, value: str) -> str:
        return value + "!"


reward("options_valid", "come back as", options=OneWay)(type("OptionsGrow", (Reward,), {}))


@scored("leaves_functions", "torch.nn.functional.silu for the whole process")
def patches_a_function(self: Any, rollout: Rollout) -> Any:
    torch.nn.functional.silu = lambda x, inplace=False: x
    return RewardOutput.from_values(values(rollout))


@scored("leaves_functions", "torch.Tensor.log_softmax")
def patches_a_method(self: Any, rollout: Rollout) -> Any:
    torch.Tensor.log_softmax = lambda self, *a, **k: self  # type: ignore[method-assign]
    return RewardOutput.from_values(values(rollout))


@scored("leaves_functions", "ppokit.rewards.scaling.Scaling.apply")
def patches_ppokit(self: Any, rollout: Rollout) -> Any:
    Scaling.apply = lambda self, raw, tokens, scored, learn: (raw, tokens)  # type: ignore[method-assign]
    return RewardOutput.from_values(values(rollout))


@scored("leaves_interpreter", "the root logger")
def configures_logging(self: Any, rollout: Rollout) -> Any:
    logging.basicConfig(level=logging.DEBUG, force=True)
    return RewardOutput.from_values(values(rollout))


@scored("leaves_interpreter", "the recursion limit")
def sets_the_recursion_limit(self: Any, rollout: Rollout) -> Any:
    sys.setrecursionlimit(12_345)
    return RewardOutput.from_values(values(rollout))


@scored("leaves_interpreter", "the standard streams")
def redirects_output(self: Any, rollout: Rollout) -> Any:
    sys.stdout = io.StringIO()
    return RewardOutput.from_values(values(rollout))


@scored("leaves_torch_settings", "torch's precision of matrix products")
def lowers_precision(self: Any, rollout: Rollout) -> Any:
    torch.set_float32_matmul_precision("medium")
    return RewardOutput.from_values(values(rollout))


@scored("leaves_no_files", "the temporary file")
def leaves_a_temporary_file(self: Any, rollout: Rollout) -> Any:
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write("".join(rollout.responses))
    return RewardOutput.from_values(values(rollout))


@scored("leaves_no_files", "into the working directory")
def writes_where_it_stands(self: Any, rollout: Rollout) -> Any:
    Path("scores-of-a-wrong-plugin.log").write_text("seen")
    return RewardOutput.from_values(values(rollout))


@reward("leaves_nothing_open", "files or connections open; close them")
class KeepsItsFileOpen(Reward):
    def score(self, rollout: Rollout) -> RewardOutput:
        self.file = Path(__file__).open()  # noqa: SIM115
        return RewardOutput.from_values(values(rollout))


@reward("leaves_nothing_open", "4 calls leave 4 files or connections open until close()")
class OpensAFilePerCall(Reward):
    def __init__(self, options: Any, context: Any) -> None:
        self.files: list[Any] = []

    def score(self, rollout: Rollout) -> RewardOutput:
        self.files.append(Path(__file__).open())  # noqa: SIM115
        return RewardOutput.from_values(values(rollout))

    def close(self) -> None:
        for file in self.files:
            file.close()


@scored("leaves_nothing_open", "a process running that it started")
def leaves_a_process(self: Any, rollout: Rollout) -> Any:
    OPEN.append(subprocess.Popen(["sleep", "60"]))
    return RewardOutput.from_values(values(rollout))


@scored("ragged_batch", "it did not return within")
def never_returns(self: Any, rollout: Rollout) -> Any:
    while True:
        with suppress(Exception):
            time.sleep(0.01)


@scored("answers", "columns of the data set that it reads belong in the row")
def reads_a_column(self: Any, rollout: Rollout) -> Any:
    return RewardOutput.from_values([float(row["gold"] in text) for row, text in texts_of(rollout)])


@scored("answers", "SystemExit")
def exits(self: Any, rollout: Rollout) -> Any:
    sys.exit("set MY_KEY first")


@reward("second_process", "neither hash(), the order of a set")
class HashesTexts(Reward):
    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.from_values([hash(text) % 100 / 100 for text in rollout.responses])


@reward("second_process", "the order of a set")
class OrderOfASet(Reward):
    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.from_values([len(next(iter({*text.split(), ""}))) for text in rollout.responses])


SALT = os.urandom(8)


@reward("second_process", "here and in another process")
class SaltOfTheProcess(Reward):
    def score(self, rollout: Rollout) -> RewardOutput:
        salt = random.Random(SALT).random()
        return RewardOutput.from_values([v + salt for v in values(rollout)])


@reward("second_process", "process's id or rank")
class ScoresByRank(Reward):
    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.from_values([v * (self.context.rank == 0) for v in values(rollout)])


@reward("second_process", "from the same state")
class LearnsInAGlobal(Reward):
    count = 0

    def score(self, rollout: Rollout) -> RewardOutput:
        return RewardOutput.from_values([v + LearnsInAGlobal.count for v in values(rollout)])

    @hookimpl
    def on_step(self) -> None:
        LearnsInAGlobal.count += 1


@reward("second_process", "the process ended with exit code 0")
class EndsAnotherProcess(Reward):
    def score(self, rollout: Rollout) -> RewardOutput:
        if os.environ.get("RANK") == "1":
            os._exit(0)
        return RewardOutput.from_values(values(rollout))


@scored("padding", "divide by no width")
def by_the_width(self: Any, rollout: Rollout) -> Any:
    return RewardOutput.from_values([v / rollout.response_ids.shape[1] for v in values(rollout)])


for _name in ("api_key", "token", "hf_token", "openai_key", "password"):
    _keyed = create_model("Keyed", __base__=Options, **{_name: (str, "")})  # type: ignore[call-overload]
    reward("options_secrets", "EnvSecret", options=_keyed)(type(f"{_name}_in_the_recipe", (Reward,), {}))


# Other kinds.


def other(kind: str, method: str, check: str, words: str, needs: Any = ()) -> Callable[..., Any]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        thing = type(function.__name__, (), {method: function})
        made = Component("wrong", lambda options, context: thing(), needs=frozenset(needs))
        FAULTS.append(Wrong(function.__name__, kind, made, check, words))
        return function

    return add


def centred(rollout: Rollout, rewards: Any) -> torch.Tensor:
    return broadcast_to_tokens(rewards.scores - rewards.scores.mean(), rollout.loss_mask)


@other("advantages", "estimate", "ragged_batch", "expected [12,")
def advantage_shape(self: Any, rollout: Rollout, rewards: Any) -> Any:
    return Advantages(centred(rollout, rewards)[:, :-1])


@other("advantages", "estimate", "group_order", "another order")
def advantage_by_position(self: Any, rollout: Rollout, rewards: Any) -> Any:
    weights = torch.arange(len(rollout))[:, None]
    return Advantages(centred(rollout, rewards) * weights)


@other("advantages", "estimate", "small_groups", "not finite")
def divides_by_deviation(self: Any, rollout: Rollout, rewards: Any) -> Any:
    numbers = rewards.scores.clone()
    for group in rollout.group_ids.unique():
        own = rollout.group_ids == group
        numbers[own] = (numbers[own] - numbers[own].mean()) / numbers[own].std(correction=0)
    return Advantages(broadcast_to_tokens(numbers, rollout.loss_mask))


@other("advantages", "estimate", "dtypes", "advantages of torch.int64")
def whole_numbers(self: Any, rollout: Rollout, rewards: Any) -> Any:
    return Advantages((centred(rollout, rewards) * 10).long())


@other("advantages", "estimate", "small_groups", "estimate failed")
def groups_of_one_size(self: Any, rollout: Rollout, rewards: Any) -> Any:
    count = int((rollout.group_ids == rollout.group_ids[0]).sum())
    grouped = rewards.scores.view(-1, count)
    centred = (grouped - grouped.mean(dim=1, keepdim=True)).flatten()
    return Advantages(broadcast_to_tokens(centred, rollout.loss_mask))


@other("advantages", "estimate", "padding", "on padding", needs={"values"})
def mean_over_padding(self: Any, rollout: Rollout, rewards: Any) -> Any:
    assert rollout.values is not None
    return Advantages((rewards.token_rewards - rollout.values.mean()) * rollout.loss_mask)


def surrogate(inputs: LossInputs) -> torch.Tensor:
    assert inputs.new_logprobs is not None
    assert inputs.old_logprobs is not None
    return -(inputs.new_logprobs - inputs.old_logprobs).exp() * inputs.advantages


LOGPROBS = {"new_logprobs", "old_logprobs"}


@other("losses", "token_losses", "ragged_batch", "of shape []", needs=LOGPROBS)
def mean_loss(self: Any, inputs: LossInputs) -> Any:
    return LossOutput(surrogate(inputs).mean())


@other("losses", "token_losses", "gradient", "nothing would be trained", needs=LOGPROBS)
def detached(self: Any, inputs: LossInputs) -> Any:
    return LossOutput(surrogate(inputs).detach())


@other("losses", "token_losses", "batch_cuts", "micro-batches cut it", needs=LOGPROBS)
def whitens_the_microbatch(self: Any, inputs: LossInputs) -> Any:
    centre = masked_mean(inputs.advantages, inputs.mask)
    return LossOutput(surrogate(replace(inputs, advantages=inputs.advantages - centre)))


@other("losses", "token_losses", "padding_of_losses", "on padding", needs=LOGPROBS)
def row_mean_over_padding(self: Any, inputs: LossInputs) -> Any:
    losses = surrogate(inputs)
    return LossOutput(losses.mean(dim=1, keepdim=True).expand_as(losses))


@other("losses", "token_losses", "padding_of_losses", "there is more padding", needs=LOGPROBS)
def divides_by_the_width(self: Any, inputs: LossInputs) -> Any:
    return LossOutput(surrogate(inputs) / inputs.mask.shape[1])


@other("losses", "token_losses", "dtypes", "compute in float32", needs=LOGPROBS)
def half_precision(self: Any, inputs: LossInputs) -> Any:
    return LossOutput(surrogate(inputs).bfloat16())


@other("losses", "token_losses", "gradient", "counts twice", needs=LOGPROBS)
def runs_backward(self: Any, inputs: LossInputs) -> Any:
    losses = surrogate(inputs)
    losses.sum().backward(retain_graph=True)
    return LossOutput(losses)


def answer(policy: Any, request: Any, offset: int = 0) -> Generation:
    """Letters, by each response's seed."""
    seeds = request.seeds.per_response() if request.seeds is not None else [0] * len(request)
    ids = [[10 + (seed + offset + i) % 50 for i in range(6)] for seed in seeds]
    prompts = [own for own in request.prompts.prompt_ids for _ in range(request.n)]
    return Generation(
        ids,
        [[-1.0] * 6 for _ in ids],
        ["truncated"] * len(ids),
        decode_responses(policy.tokenizer, prompts, ids),
    )


@other("rollout", "generate", "ragged_batch", "expected 24 of each")
def one_response_too_few(self: Any, policy: Any, request: Any) -> Any:
    whole = answer(policy, request)
    return Generation(
        *(getattr(whole, n)[:-1] for n in ("response_ids", "sampler_logprobs", "outcomes", "texts"))
    )


@other("rollout", "generate", "ragged_batch", "log-probabilities, 0 or less")
def probabilities(self: Any, policy: Any, request: Any) -> Any:
    whole = answer(policy, request)
    return replace(whole, sampler_logprobs=[[0.5] * 6 for _ in whole.response_ids])


@other("rollout", "generate", "seeds", "request.seeds")
def draws_by_position(self: Any, policy: Any, request: Any) -> Any:
    ids = [[10 + (k + i) % 50 for i in range(6)] for k in range(len(request))]
    whole = answer(policy, request)
    prompts = [own for own in request.prompts.prompt_ids for _ in range(request.n)]
    return replace(whole, response_ids=ids, texts=decode_responses(policy.tokenizer, prompts, ids))


@other("rollout", "generate", "draws", "nothing is learned")
def the_same_by_every_seed(self: Any, policy: Any, request: Any) -> Any:
    return answer(policy, replace(request, seeds=None))


@other("rollout", "generate", "logprobs", "by the policy at the temperature asked for")
def invents_log_probabilities(self: Any, policy: Any, request: Any) -> Any:
    return answer(policy, request)


@other("rollout", "generate", "logprobs", "policy_logprobs of response 0")
def forgets_the_temperature(self: Any, policy: Any, request: Any) -> Any:
    whole = answer(policy, request)
    prompts = [own for own in request.prompts.prompt_ids for _ in range(request.n)]
    rows = []
    for prompt, ids in zip(prompts, whole.response_ids, strict=True):
        with torch.no_grad():
            logits = policy.model()(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        table = logits.log_softmax(dim=-1)
        rows.append([float(table[i, token]) for i, token in enumerate(ids)])
    return replace(whole, policy_logprobs=rows)


@other("rollout", "generate", "ends", "keep the token that ended it")
def finishes_without_an_end(self: Any, policy: Any, request: Any) -> Any:
    whole = answer(policy, request)
    return replace(whole, outcomes=["finished"] * len(whole.outcomes))


DRAWS = count()  # of fifty answers, by chance one in fifty would be the same twice


@other("rollout", "generate", "greedy", "draw nothing")
def samples_where_greedy_is_asked(self: Any, policy: Any, request: Any) -> Any:
    return answer(policy, request, 0 if request.seeds is not None else next(DRAWS))


@other("rollout", "generate", "leaves_the_model", "which trains; read it only")
def freezes_the_model(self: Any, policy: Any, request: Any) -> Any:
    policy.model().requires_grad_(False)
    return answer(policy, request)


@other("evaluators", "evaluate", "same_calls", "the run would wait for ever")
def asks_on_the_main_process(self: Any, view: Any, step: int) -> Any:
    return {"n": float(len(view.generate())) if view.is_main else 0.0}


@other("evaluators", "evaluate", "ragged_batch", "one finite number")
def metric_of_text(self: Any, view: Any, step: int) -> Any:
    return {"n": "many"}


def watches(self: Any, step: int, metrics: Any) -> None:
    OPEN.append(metrics["reward/mean"])


@other("observers", "on_run_end", "odd_runs", "AttributeError")
@hookimpl
def ends_what_never_began(self: Any) -> None:
    OPEN.append(self.began)


@other("observers", "on_step", "ragged_batch", "on_step failed")
@hookimpl
def changes_metrics(self: Any, metrics: Any) -> None:
    metrics["reward/mean"] = 1e9


@other("evaluators", "evaluate", "leaves_its_input", "the view's rows")
def changes_rows(self: Any, view: Any, step: int) -> Any:
    for row in view.rows:
        row["seen"] = True
    return {"n": float(len(view.generate()))}
