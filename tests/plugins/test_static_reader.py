"""Sampling from a cache of one size: the responses and numbers of one that grows."""

from __future__ import annotations

import itertools
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Llama4TextConfig,
    MambaForCausalLM,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from policies import load, policy_of
from ppokit.plugin.generation import Generation, GenerationRequest, SamplingParams
from ppokit.plugin.types import PromptBatch
from ppokit.rollout.policy import Policy
from ppokit_rollouts.compiler import missing
from ppokit_rollouts.static_reader import attention, windows_of
from ppokit_rollouts.transformers_engine import TransformersEngine, TransformersOptions
from small_models import CACHE, tiny, tiny_gpt2, tiny_llama

torch.set_num_threads(1)
NUMBERS = torch.rand(3, 6, 24, generator=torch.Generator().manual_seed(9))
OFTEN = frozenset(range(2, 512, 24))


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Policy:
    return load(tiny_model, end_ids=OFTEN)


def respond(policy: Policy, decoding: Any, n: int = 6, **changes: Any) -> Generation:
    """Responses of many lengths to three prompts of several."""
    prompts = [[1, 5, 40, 7], [30] * 11, [9]]
    batch = PromptBatch([0, 1, 2], [""] * 3, prompts, [{}] * 3)
    request = GenerationRequest(batch, n, None, SamplingParams(max_new_tokens=24))
    options = TransformersOptions(decoding=decoding, **changes)
    return TransformersEngine(options).sample(policy, request, NUMBERS[:, :n])


def assert_same(own: Generation, expected: Generation) -> None:
    assert own.response_ids == expected.response_ids
    assert own.outcomes == expected.outcomes
    for numbers, others in zip(own.sampler_logprobs, expected.sampler_logprobs, strict=True):
        assert numbers == pytest.approx(others, abs=1e-5)


@contextmanager
def steps(model: PreTrainedModel) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the tokens and the mask of each step from a static cache."""
    shapes: list[tuple[int, ...]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        masks = kwargs["attention_mask"]
        mask = masks if isinstance(masks, torch.Tensor) else masks["full_attention"]
        if kwargs["input_ids"].shape[1] == 1 and mask.dim() == 4:
            shapes.append((*kwargs["input_ids"].shape, mask.shape[-1]))

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        handle.remove()


def gemma2() -> PreTrainedModel:
    """Every other layer sees 20 tokens."""
    return tiny(
        Gemma2ForCausalLM,
        vocab_size=64,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=20,
        initializer_range=0.2,
    )


@pytest.mark.parametrize("check_every", [1, 5])
def test_responses_are_those_of_a_cache_that_grows(policy: Policy, check_every: int) -> None:
    expected = respond(policy, "dynamic")
    assert len({len(ids) for ids in expected.response_ids}) > 5
    respond(policy, "static")  # the model is tried out
    with steps(policy.model()) as shapes:
        own = respond(policy, "static", check_every=check_every)
    assert_same(own, expected)
    rows = [shape[0] for shape in shapes]
    assert set(rows) == {32, 8}
    assert rows == sorted(rows, reverse=True)
    assert {shape[1:] for shape in shapes} == {(1, 256)}
    assert_same(respond(policy, "static", batch_size=6), expected)


def test_memory_stays_where_it_is(policy: Policy) -> None:
    """From batch to batch and for fewer rows, as CUDA graphs need it; more rows move it once."""
    other = policy_of(tiny_llama(), policy.tokenizer, end_ids=OFTEN)
    expected = respond(other, "dynamic")
    seen: list[tuple[int, ...]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["attention_mask"].dim() == 4:
            layers = kwargs[CACHE].layers
            seen.append(tuple(getattr(own, name).data_ptr() for own in layers for name in ("keys", "values")))

    respond(other, "static", n=2)
    handle = other.model().register_forward_pre_hook(note, with_kwargs=True)
    respond(other, "static", n=2)
    few = set(seen)
    seen.clear()
    assert_same(respond(other, "static"), expected)
    assert_same(respond(other, "static", check_every=3), expected)
    assert_same(respond(other, "static", n=2), respond(other, "dynamic", n=2))
    handle.remove()
    assert len(few) == len(set(seen)) == 1


@pytest.mark.parametrize(
    "model",
    [
        tiny_gpt2,
        lambda: tiny(MistralForCausalLM, vocab_size=64, num_key_value_heads=1, sliding_window=None),
        lambda: tiny(MistralForCausalLM, vocab_size=64, num_key_value_heads=1, sliding_window=4),
        gemma2,
    ],
    ids=["gpt2", "mistral", "sliding windows", "both kinds of layers"],
)
def test_models_that_take_it(policy: Policy, model: Any, recwarn: pytest.WarningsRecorder) -> None:
    """A window of 4 tokens is shorter than the trial's texts, and one of 20 than these alone."""
    other = policy_of(model(), policy.tokenizer, end_ids=OFTEN)
    assert_same(respond(other, "static"), respond(other, "dynamic"))
    assert_same(respond(other, "static", check_every=5), respond(other, "dynamic"))
    with steps(other.model()) as shapes:
        respond(other, "static")
    assert shapes
    assert not recwarn


def test_others_are_sampled_from_one_that_grows_and_say_so_once(policy: Policy) -> None:
    model = tiny(MambaForCausalLM, vocab_size=64, num_hidden_layers=2, state_size=8)
    other = policy_of(model, policy.tokenizer, end_ids=OFTEN)
    with pytest.warns(UserWarning, match=r"rollout\.decoding: \w+ForCausalLM does not give the same numbers"):
        own = respond(other, "static")
    assert respond(other, "static") == own
    assert respond(other, "dynamic") == own


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (
            Gemma2Config(num_hidden_layers=2, sliding_window=6),
            {"sliding_attention": 6, "full_attention": None},
        ),
        (Llama4TextConfig(num_hidden_layers=4, attention_chunk_size=8), {}),
    ],
    ids=["windows", "chunks"],
)
def test_what_layers_see(config: PreTrainedConfig, windows: dict[str, int | None]) -> None:
    """Chunks and windows are cached alike, and a short trial would not tell them apart."""
    assert windows_of(config) == windows


@pytest.mark.parametrize("bare", [False, True], ids=["one-token", "several"])
def test_heads_that_share_keys(bare: bool) -> None:
    """Against each head alone; two heads share each of two keys, and one row hides its first column."""
    draw = torch.Generator().manual_seed(0)
    tokens = 3 if bare else 1
    query, key, value = (
        torch.randn(2, heads, count, 8, generator=draw) for heads, count in ((4, tokens), (2, 5), (2, 5))
    )
    bias = torch.zeros(2, 1, 1, 5)
    bias[1, ..., 0] = torch.finfo(torch.float32).min
    module = SimpleNamespace(num_key_value_groups=2, training=False)
    out, _ = attention(module, query, key, value, bias.expand(-1, -1, tokens, -1), scaling=0.3)
    for row, head, token in itertools.product(range(2), range(4), range(tokens)):
        scores = 0.3 * key[row, head // 2] @ query[row, head, token] + bias[row, 0, 0]
        torch.testing.assert_close(out[row, token, head], scores.softmax(0) @ value[row, head // 2])


def test_keys_are_not_repeated(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()  # four heads, two keys
    other = policy_of(model, policy.tokenizer, end_ids=OFTEN)
    expected = respond(other, "static")
    seen: list[tuple[int, int]] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def note(query: Any, key: Any, *args: Any, **options: Any) -> Any:
        seen.append((query.shape[1], key.shape[1]))
        return plain(query, key, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
    assert_same(respond(other, "static"), expected)
    assert seen.count((2, 2)) > 10


def test_numbers_that_are_wrong_are_found(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that leaves a mask of its own out of account, as one that makes its masks anew."""
    model = load(Path(policy.model().name_or_path)).model()
    forward = model.base_model.forward
    monkeypatch.setattr(
        model.base_model,
        "forward",
        lambda *args, attention_mask=None, **options: forward(
            *args,
            attention_mask=None if attention_mask is None or attention_mask.dim() == 4 else attention_mask,
            **options,
        ),
    )
    other = policy_of(model, policy.tokenizer, end_ids=OFTEN)
    with pytest.warns(UserWarning, match=r"rollout\.decoding"):
        own = respond(other, "static")
    assert_same(own, respond(policy, "dynamic"))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("late", [False, True], ids=["at once", "when the token is in the cache"])
def test_where_compiling_fails_it_samples_without(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    model = load(Path(policy.model().name_or_path)).model()

    def fail(**inputs: Any) -> Any:
        if late:
            model(**inputs)
        raise RuntimeError("no compiler")

    monkeypatch.setattr(model, "get_compiled_call", lambda config: fail)
    other = replace(policy, get_model=lambda: model)
    monkeypatch.setenv("CXX", "no-such-compiler" if late else sys.executable)
    why = r"this machine lacks a C\+\+ compiler \(no-such-compiler; " if late else "RuntimeError"
    with pytest.warns(UserWarning, match=rf"torch.compile fails on LlamaForCausalLM \({why}"):
        own = respond(other, "compiled")
    assert_same(own, respond(policy, "dynamic"))
    assert_same(respond(other, "compiled"), own)  # and says so once


def test_what_compiling_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's kernels want a C compiler, a CPU's one for C++; the headers are a package of their own."""
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    headers = "Python's headers (Python.h, of python3-dev)"
    assert missing("cuda") == f"a C compiler (gcc or clang; CC names another) and {headers}"
    assert missing("cpu") == f"a C++ compiler (g++; CXX names another) and {headers}"
    (tmp_path / "clang").touch(mode=0o755)
    (tmp_path / "g++").touch(mode=0o644)  # nothing that runs
    assert missing("cuda") == headers
    (tmp_path / "Python.h").touch()
    assert missing("cuda") == ""
    monkeypatch.setenv("CC", "elsewhere/gcc -m64")
    assert missing("cuda") == "a C compiler (elsewhere/gcc; CC names another)"
    assert missing("cpu") == "a C++ compiler (g++; CXX names another)"


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize("model", [tiny_llama, gemma2], ids=["llama", "both kinds of layers"])
def test_compiled(policy: Policy, model: Callable[[], PreTrainedModel]) -> None:
    """One graph, which the same shapes find again."""
    from torch._dynamo.utils import counters

    other = policy_of(model(), policy.tokenizer, end_ids=OFTEN)
    expected = respond(other, "dynamic", n=2)
    counters.clear()
    for _ in range(2):
        assert_same(respond(other, "compiled", n=2), expected)
        assert counters["stats"]["unique_graphs"] == 1
