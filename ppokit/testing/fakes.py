"""What stands in for a run: one process, the policy's base, a policy of random weights, a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

from ppokit.plugin.types import PromptBatch, Rewards, Rollout, Row
from ppokit.run.evaluation_table import is_column
from ppokit.seeds import seed_from
from ppokit.testing.samples import RAGGED, hash_of, rewards_of, rollout_of

if TYPE_CHECKING:
    from torch import Tensor

    from ppokit.plugin.evaluating import LogitReader
    from ppokit.plugin.generation import PolicyHandle

PROMPTS = ("Tom saw a cat", "Lily had", "What is 6 times 7?")


class OneProcess:
    """A run's only process, without a launcher."""

    count, index, is_main = 1, 0, True

    def share(self, total: int) -> range:
        return range(total)

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def gather(self, items: list[Any]) -> list[Any]:
        return items


class FakeBase:
    """A base whose vectors and scores come from the texts alone."""

    def embed(self, texts: Sequence[str]) -> Tensor:
        import torch

        from ppokit.models.shared_base import refuse_in_coroutine

        refuse_in_coroutine()
        rows = [torch.randn(8, generator=torch.Generator().manual_seed(hash_of(text))) for text in texts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1) if rows else torch.zeros(0, 8)

    def reward(self, folder: str, token_ids: Sequence[Sequence[int]], longest: int | None) -> Tensor:
        import torch

        from ppokit.models.shared_base import refuse_in_coroutine

        refuse_in_coroutine()
        return torch.tensor([float(sum(ids) % 13) for ids in token_ids])


@cache
def tokenizer() -> Any:
    """One with a token per character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    characters = [chr(code) for code in range(33, 127)]
    spelled = Tokenizer(
        models.WordLevel(
            {w: i for i, w in enumerate([*special, "\N{LOWER ONE EIGHTH BLOCK}", *characters])}, "<unk>"
        )
    )
    spelled.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace("\N{LOWER ONE EIGHTH BLOCK}", prepend_scheme="never"),
            pre_tokenizers.Split("", "isolated"),
        ]
    )
    spelled.decoder = decoders.Sequence(
        [decoders.Replace("\N{LOWER ONE EIGHTH BLOCK}", " "), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=spelled, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@cache
def fake_model() -> Any:
    """A causal LM with random weights that reads that tokenizer's tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    state = torch.get_rng_state()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    policy = LlamaForCausalLM(config).eval()
    torch.set_rng_state(state)
    return policy


def fake_policy() -> PolicyHandle:
    """A handle of that model."""
    from ppokit.rollout.policy import Policy

    end = tokenizer().eos_token_id
    return Policy(
        version=3,
        tokenizer=tokenizer(),
        end_ids=frozenset({end}),
        end_id=end,
        vocab_size=len(tokenizer()),
        context_length=512,
        get_model=fake_model,
        save=fake_model().save_pretrained,
        get_hash=lambda: "0" * 64,
    )


def prompt_batch(prompts: Sequence[str] = PROMPTS, row: Mapping[str, Any] | None = None) -> PromptBatch:
    """Prompts as an engine is asked to answer them."""
    return PromptBatch(
        indices=list(range(len(prompts))),
        prompts=list(prompts),
        prompt_ids=[tokenizer()(text)["input_ids"] for text in prompts],
        rows=[dict(row or {}) for _ in prompts],
    )


class FakeView:
    """An `EvaluationView` of a policy that answers the same each time; it records what it is asked.

    Args:
        needs: of the evaluator.
        row: columns of the data set.
        is_main: whether the evaluator is on the main process.
    """

    prompt_column = "prompt"

    def __init__(self, needs: frozenset[str], row: Mapping[str, Any], *, is_main: bool = True) -> None:
        self.needs, self.row, self.is_main, self.scales_move = needs, row, is_main, False
        self.prompts: Sequence[str] = PROMPTS
        self.rows: Sequence[Row] = [dict(row) for _ in PROMPTS]
        self.training_rows: Sequence[Row] = [{"prompt": text, **row} for text in PROMPTS]
        self.calls: list[str] = []

    def generate(
        self, prompts: Sequence[str] | None = None, *, n: int | None = None, rows: Sequence[Row] | None = None
    ) -> Rollout:
        asked = self.prompts if prompts is None else prompts
        self.calls.append(f"generate({len(asked)} prompts, n={n})")
        count = n or 1
        texts = [RAGGED[(i * 5 + k) % len(RAGGED)] for i in range(len(asked)) for k in range(count)]
        return rollout_of(texts, row=self.row, group=count, needs=self.needs)

    def recorded(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        separator: str = "",
        rows: Sequence[Row] | None = None,
    ) -> Rollout:
        self.calls.append(f"recorded({len(prompts)} prompts)")
        return rollout_of(responses, row=self.row, group=1, needs=self.needs)

    def logprobs(self, rollout: Rollout) -> Tensor:
        self.calls.append(f"logprobs({len(rollout)} responses)")
        return rollout.sampler_logprobs.clone()

    def read_logits(self, rollout: Rollout, read: LogitReader) -> Tensor:
        import torch

        self.calls.append(f"read_logits({len(rollout)} responses)")
        responses, positions = rollout.loss_mask.nonzero(as_tuple=True)
        vocabulary = len(tokenizer())
        seeds = [
            seed_from(hash_of(rollout.responses[response]), position)
            for response, position in zip(responses.tolist(), positions.tolist(), strict=True)
        ]
        logits = [torch.randn(vocabulary, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        numbers = read(torch.stack(logits), responses, positions)
        out = torch.zeros(*rollout.loss_mask.shape, numbers.shape[1])
        out[responses, positions] = numbers
        return out

    def score(self, rollout: Rollout) -> Rewards:
        self.calls.append(f"score({len(rollout)} responses)")
        return rewards_of(rollout)

    def record(self, rollout: Rollout, values: Mapping[str, Sequence[float | None]]) -> None:
        for name, numbers in values.items():
            if is_column(name):
                raise ValueError(f"record: {name!r} is a column of the core's; expected another name")
            if len(numbers) != len(rollout):
                raise ValueError(f"record: {name!r} has {len(numbers)} numbers for {len(rollout)} responses")

    def warn(self, text: str) -> None:
        """Main process only in effect, so that it is no call that every process must make."""
