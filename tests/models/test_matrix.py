"""Every architecture through the same checks; `make models` runs all, `make test` those that tell most."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, TemperatureLogitsWarper, TopPLogitsWarper

from architectures import ARCHITECTURES, FEATURES, Architecture, Refused, Restricted
from matrix_reward import fitted_reward
from matrix_run import (
    PROMPTS,
    MatrixRun,
    chosen,
    gap,
    last_distributions,
    stepped_logits,
    texts_of,
    weights_of,
)
from ppokit import PPOTrainer, Recipe
from ppokit.errors import DataError, ModelError, RecipeError
from ppokit.reward_models import fit
from ppokit.rollout.load_policy import load_policy
from ppokit.run.run_dir import RunDir

Check = Callable[[MatrixRun], None]
RESTRICTIONS = ("keep their dtype", "is read anew for each token")  # as ppokit warns of them
NATS = 1e-5  # float32, absolute
IN_EVERY_SUITE = ("Mixtral", "Qwen3.5", "Gemma 2", "GPT-2", "Mamba", "BART")
REWARD = "fitted reward"
CHECKS: dict[str, tuple[tuple[str, ...], Check]] = {}


def check(*kinds: str) -> Callable[[Check], Check]:
    """A check of a run, in runs of these kinds."""

    def add(function: Check) -> Check:
        CHECKS[function.__name__.replace("_", " ")] = (kinds, function)
        return function

    return add


@check("LoRA", "all weights", "4 bits")
def warnings(run: MatrixRun) -> None:
    """There is one per restriction, and no other."""
    outcome = run.architecture.outcome(run.kind)
    restriction = outcome.text if isinstance(outcome, Restricted) else ""
    expected = [words for words in RESTRICTIONS if words in restriction]
    result = [words for message in run.warned for words in RESTRICTIONS if words in message]
    assert (result, len(run.warned)) == (expected, len(expected)), run.warned


@check("LoRA", "all weights", "4 bits")
def untrained(run: MatrixRun) -> None:
    """Sampler, trainer and plain transformers agree."""
    assert_plain(run, run.first, run.at_start)


@check("LoRA", "all weights", "4 bits")
def trained(run: MatrixRun) -> None:
    """They agree once training has moved the policy, on the whole vocabulary; plain peft has loaded it."""
    moved = gap(chosen(run.at_end, run.later), chosen(run.base_at_end, run.later), run.later)
    assert moved > 100 * NATS, "training is meant to move the policy"
    assert_plain(run, run.later, run.at_end)
    whole, last = last_distributions(run, run.later)
    scaled = run.at_end / run.temperature
    expected = scaled[torch.arange(len(whole)), last].log_softmax(-1)
    # A token of probability 1e-9 is 20 nats down, where float32 has two digits fewer.
    torch.testing.assert_close(whole.double(), expected, atol=NATS, rtol=2e-6)
    batch = run.batch(run.later)
    with torch.no_grad():
        _, entropy = run.roles.logprobs(batch, "policy", temperature=run.temperature, entropy="value")
    assert gap(entropy, torch.distributions.Categorical(logits=scaled).entropy(), run.later) < 2 * NATS, (
        "entropy"
    )


def assert_plain(run: MatrixRun, rollout: Any, logits: torch.Tensor) -> None:
    scaled = logits / run.temperature
    expected = chosen(scaled, rollout)
    assert gap(rollout.old_logprobs, expected, rollout) < NATS, "trainer and plain"
    if run.architecture.steps > NATS:
        model = run.plain_base if rollout is run.first else run.plain_policy
        logits = stepped_logits(model, rollout)
        own = gap(chosen(logits / run.temperature, rollout), expected, rollout)
        assert own < run.architecture.steps, "transformers' own steps"
    drawn = chosen(warped(logits, run), rollout)
    assert gap(rollout.sampler_logprobs, drawn, rollout) < NATS, "sampler and plain"


def warped(logits: torch.Tensor, run: MatrixRun) -> torch.Tensor:
    """Logits of what was sampled from: divided by the temperature, and -inf where top-p rules out."""
    warpers = [TemperatureLogitsWarper(run.temperature)] if run.temperature != 1.0 else []
    if "top_p" in run.options:
        warpers.append(TopPLogitsWarper(run.options["top_p"]))
    flat = logits.flatten(0, 1).float()
    for warper in warpers:
        flat = warper(None, flat)
    return flat.double().view_as(logits)


@check("LoRA", "all weights")
def gradients(run: MatrixRun) -> None:
    """Those of the policy's log-probabilities are autograd's through the plain model."""
    rollout = run.later
    weights = torch.randn(rollout.response_ids.shape, generator=torch.Generator().manual_seed(1))
    run.roles.model.zero_grad()
    for rows in (range(0, 4), range(4, len(rollout))):
        ours, _ = run.roles.logprobs(run.batch(rollout, rows), "policy", temperature=run.temperature)
        (ours * weights[list(rows)][:, : ours.shape[1]]).sum().backward()
    trainable = run.roles.trainable.items()
    of_policy = {bare(name): p.grad for name, p in trainable if run.roles.is_policy(name)}
    result = {name: grad for name, grad in of_policy.items() if grad is not None}
    run.roles.model.zero_grad(set_to_none=True)
    plain = plain_gradients(run, weights, torch.float32)
    largest = max(float(grad.abs().max()) for grad in plain.values())
    assert largest > 0
    errors = errors_of(result, plain)
    if (
        max(errors.values()) > 2e-5 * largest
    ):  # ill-conditioned: as near to the exact ones as plain float32 is
        exact = plain_gradients(run, weights, torch.float64)
        errors = errors_of(result, exact)
        assert max(errors.values()) < 4 * max(errors_of(plain, exact).values()), errors


def plain_gradients(run: MatrixRun, weights: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Of the weighted sum of log-probabilities, one text at a time; by the parameters' names."""
    model = run.plain_policy.to(dtype)
    model.zero_grad()
    for row, (prompt, response) in enumerate(texts_of(run.later)):
        logits = model(torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        logprobs = (logits / run.temperature).log_softmax(-1)
        theirs = logprobs.gather(-1, torch.tensor(response)[:, None])[:, 0]
        (theirs * weights[row, : len(response)]).sum().backward()
    result = {bare(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.float()
    return result


def bare(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".policy.", ".default.")


def errors_of(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest difference per parameter; what got no gradient has one of 0."""
    zero = torch.zeros(())
    pairs = {name: (result.get(name, zero), expected.get(name, zero)) for name in {*result, *expected}}
    return {name: float((one.double() - other.double()).abs().max()) for name, (one, other) in pairs.items()}


@check("LoRA", "all weights", "4 bits")
def reference(run: MatrixRun) -> None:
    """It is the policy at the start, and the untrained model later."""
    assert run.metrics[0]["kl/k3"] == pytest.approx(0, abs=1e-6)
    assert gap(run.first.ref_logprobs, run.first.old_logprobs, run.first) < 1e-6
    expected = chosen(run.base_at_end / run.temperature, run.later)
    assert gap(run.later.ref_logprobs, expected, run.later) < NATS


@check("LoRA", "all weights")
def values(run: MatrixRun) -> None:
    """Their gradient reaches what they are made of and nothing else; other batches give the same numbers."""
    roles, rollout = run.roles, run.later
    roles.model.zero_grad()
    whole = roles.values(run.batch(rollout))
    whole.sum().backward()
    reached = {name for name, p in roles.trainable.items() if p.grad is not None and p.grad.any()}
    of_policy = {name for name in reached if roles.is_policy(name)}
    assert {"value_head.weight", "value_head.bias"} <= reached
    if run.options["value"] == "own_adapter":
        assert not of_policy
        assert any("lora_A" in name for name in reached)
        assert any("lora_B" in name for name in reached)
    else:
        assert len(of_policy) > 3
    roles.model.zero_grad()
    with torch.no_grad():
        for row in range(len(rollout)):
            alone = roles.values(run.batch(rollout, [row]))
            expected = whole[row : row + 1].detach()[:, : alone.shape[1]]
            torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)
    assert whole.abs().max() > 1e-4


@check("LoRA")
def resumed(run: MatrixRun) -> None:
    """A run that stopped after its first step ends with the same bits."""
    if not (run.stopped / "checkpoints").is_dir():
        pytest.fail("no checkpoint after the first step")
    trainer = PPOTrainer(Recipe.load(run.stopped / "recipe.yaml"), resume=run.stopped)
    assert trainer.step == 1
    trainer.train()
    ours, theirs = weights_of(run.stopped), weights_of(run.out)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    shutil.rmtree(run.stopped)


@check("LoRA", "all weights")
@torch.no_grad()
def generate(run: MatrixRun) -> None:
    """What `ppokit generate` answers greedily is what plain transformers and peft find likeliest."""
    view = load_policy(Recipe.load(run.out / "recipe.yaml"), run.out / "policy")
    result = view.generate(PROMPTS)
    for row, (prompt, response) in enumerate(texts_of(result)):
        logits = run.plain_policy(torch.tensor([prompt + response]), use_cache=False).logits[0]
        assert response == logits[len(prompt) - 1 : -1].argmax(-1).tolist()
        assert 2 not in response[:-1]
        assert len(response) == 6 or response[-1] == 2, row


@check("LoRA", "all weights", "4 bits")
def parity(run: MatrixRun) -> None:
    """The guard measured every step, and found next to nothing."""
    gaps = [line.get("rollout/logprob_gap") for line in run.metrics]
    assert len(gaps) == run.steps
    assert all(number is not None and number < run.architecture.steps for number in gaps), gaps


@check("all weights")
def chat(run: MatrixRun) -> None:
    """Prompts stand in the chat template."""
    tokenizer = AutoTokenizer.from_pretrained(run.base)
    for ids, text in zip(run.prompts.prompt_ids, run.prompts.prompts, strict=True):
        message = [{"role": "user", "content": text}]
        encoded = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        assert ids == encoded


class Runs:
    """The runs of one architecture at a time, each made when it is first asked for."""

    def __init__(self, tokenizer: Any, factory: pytest.TempPathFactory) -> None:
        self.tokenizer, self.factory = tokenizer, factory
        self.architecture: Architecture | None = None
        self.folder = Path()
        self.made: dict[str, MatrixRun | Exception] = {}

    def folder_of(self, architecture: Architecture, kind: str) -> Path:
        """An empty folder beside that of the model, which is `base`."""
        if self.architecture is not architecture:
            if self.architecture is not None:
                shutil.rmtree(self.folder)
            self.architecture, self.made = architecture, {}
            self.folder = self.factory.mktemp("matrix")
            architecture.save(self.folder / "base", self.tokenizer)
        folder = self.folder / kind.replace(" ", "_")
        folder.mkdir(exist_ok=True)
        return folder

    def of(self, architecture: Architecture, kind: str) -> MatrixRun:
        """Raises: what the run raised, to each check of it."""
        folder = self.folder_of(architecture, kind)
        if kind not in self.made:
            try:
                self.made[kind] = MatrixRun(architecture, kind, self.folder / "base", folder)
            except Exception as error:
                self.made[kind] = error
        made = self.made[kind]
        if isinstance(made, Exception):
            raise made
        return made


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDir, "plot", lambda *_: None)  # a third of the time, and no architecture's own
        patch.setattr(fit, "draw", lambda *_: None)
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.pad_token = tokenizer.unk_token  # some classes of tokenizers add one of their own
        yield Runs(tokenizer, tmp_path_factory)


def marks_of(architecture: Architecture, feature: str) -> list[pytest.MarkDecorator]:
    marks: list[pytest.MarkDecorator] = []
    if architecture.name not in IN_EVERY_SUITE or feature not in ("LoRA", "all weights"):
        marks.append(pytest.mark.models)
    if not architecture.exists:
        reason = f"this transformers has no {architecture.config}"
        marks.append(pytest.mark.skip(reason=reason))
    return marks


def cases() -> Iterator[Any]:
    """Architecture by architecture: what is refused, or each check of each run."""
    for architecture in ARCHITECTURES:
        for feature in FEATURES:
            if isinstance(architecture.outcome(feature), Refused):
                names = ["refused"]
            elif feature == REWARD:
                names = ["scores"]
            else:
                names = [name for name, (kinds, _) in CHECKS.items() if feature in kinds]
            for name in names:
                marks = marks_of(architecture, feature)
                words = f"{architecture.name}-{feature}-{name}"
                yield pytest.param(architecture, feature, name, id=words, marks=marks)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*is read anew for each token:ppokit.errors.PpokitWarning")
@pytest.mark.parametrize(("architecture", "feature", "name"), list(cases()))
def test_matrix(runs: Runs, architecture: Architecture, feature: str, name: str) -> None:
    outcome = architecture.outcome(feature)
    if isinstance(outcome, Refused):
        with pytest.raises((ModelError, RecipeError, DataError)) as caught:
            make(runs, architecture, feature)
        first, _, _ = str(caught.value).partition("\n")
        assert first.startswith(outcome.key)
        assert outcome.message in first
    elif feature == REWARD:
        make(runs, architecture, feature)
    else:
        CHECKS[name][1](runs.of(architecture, feature))


def make(runs: Runs, architecture: Architecture, feature: str) -> None:
    if feature == REWARD:
        folder = runs.folder_of(architecture, feature)
        fitted_reward(architecture, runs.folder / "base", folder)
    else:
        runs.of(architecture, feature)
