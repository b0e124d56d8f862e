"""Reward models on a frozen encoder: its texts are read once, then heads are solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppokit.errors import ModelError, TrainingError, first_line
from ppokit.models.pretrained import quiet
from ppokit.plugin.batching import token_batches
from ppokit.reward_models.base import Base, Heads
from ppokit.reward_models.encoder import ResponseEncoder
from ppokit.reward_models.linear import Problem, Scale, mean_loss
from ppokit.reward_models.loading import load_encoder, load_text_tokenizer, token_limit
from ppokit.reward_models.samples import Choice, Sample, grouped
from ppokit.reward_models.texts import Advance, Encoded, Texts, lengths
from ppokit.reward_models.training import bootstrap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ppokit.ratings.arrays import Floats

TEMPLATE = ("{prompt}", "{response}")
PENALTIES = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
MOST_LAYERS, MOST_FEATURES = 8, 6144  # of a deep or wide encoder, at even distances; solving takes D^3
_TOKENS = 8192  # of a forward pass


@dataclass(frozen=True)
class Tried:
    """One penalty, and mean losses with it."""

    penalty: float
    train_loss: float
    validation_loss: float

    @property
    def name(self) -> str:
        return f"penalty {self.penalty:g}"


class Probe:
    """A frozen encoder, the features of the texts that it has read, and the heads that were solved last.

    Args:
        base: of kind `encoder`.
        heads: how many.
        max_length: tokens of a text that are read, counted from its end.

    Raises:
        ModelError: it cannot be loaded, or is no encoder.
    """

    def __init__(self, base: Base, *, heads: int, max_length: int, device: torch.device) -> None:
        self.base = base
        self.tokenizer = load_text_tokenizer(base.where, base.subject)
        if not self.tokenizer.is_fast:
            raise ModelError(
                f"--model {base.name}: its tokenizer does not tell which tokens are the response's; expected "
                "one of the library tokenizers (tokenizer.json)."
            )
        encoder = _encoder(base).to(device)
        config = encoder.config.get_text_config()
        states, width = config.num_hidden_layers + 1, 2 * config.hidden_size
        count = min(states, MOST_LAYERS, max(2, MOST_FEATURES // width))
        self.layers = sorted({round(i) for i in np.linspace(0, states - 1, count)})
        features = len(self.layers) * width
        self.heads = Heads(features, heads, bias=True).to(device)
        self.model = ResponseEncoder(encoder, self.layers, self.heads).eval().requires_grad_(False)
        limit = token_limit(encoder, self.tokenizer) or max_length
        self.texts = Texts(self.tokenizer, TEMPLATE, min(max_length, limit))
        self._try()
        self._row: dict[tuple[str, str], int] = {}
        self._features = np.zeros((0, features), np.float32)

    def encode(self, samples: Sequence[Any]) -> dict[tuple[str, str], Encoded]:
        """Token ids of prompts with responses, each once."""
        texts = list(dict.fromkeys((sample.prompt, text) for sample in samples for text in sample.texts))
        encoded = self.texts.encode([prompt for prompt, _ in texts], [response for _, response in texts])
        return dict(zip(texts, encoded, strict=True))

    def read(self, encoded: dict[tuple[str, str], Encoded], advance: Advance) -> None:
        """Compute the features of texts.

        Args:
            advance: told of the tokens of each pass, for a progress bar.
        """
        self._row = {text: row for row, text in enumerate(encoded)}
        self._features = np.zeros((len(encoded), self.heads.in_features), np.float32)
        texts = list(encoded.values())
        sizes = lengths(texts)
        for chosen in token_batches(range(len(texts)), sizes, _TOKENS):
            batch = self.texts.batch([texts[i] for i in chosen], self.model.device)
            with torch.inference_mode():
                self._features[chosen] = self.model.features(**batch).cpu().numpy()
            advance(sum(sizes[i] for i in chosen))
        if not np.isfinite(self._features).all():
            raise TrainingError(f"{self.base.name} makes numbers of some texts that are not finite.")

    def _try(self) -> None:
        """Read one pair, before all."""
        batch = self.texts.batch(self.texts.encode(["a question"], ["an answer"]), self.model.device)
        try:
            with torch.inference_mode():
                shape = self.model.features(**batch).shape
        except Exception as error:  # whatever a model does that is none of text
            raise ModelError(
                f"--model {self.base.name} cannot read a text: {first_line(error)}; expected an encoder, "
                "such as a BERT, or a causal LM."
            ) from error
        if shape != (1, self.heads.in_features):
            raise ModelError(
                f"--model {self.base.name} gives {shape[1]} numbers of a text; expected "
                f"{self.heads.in_features} of its {len(self.layers)} layers."
            )

    def solve(self, fit: Sequence[Any], validation: Sequence[Any], seed: int) -> list[Tried]:
        """Heads for samples, with the penalty that the held-out ones like best; their texts must be read."""
        first = self._of(fit, 0)
        scale = Scale.of(first if isinstance(fit[0], Sample) else np.concatenate([first, self._of(fit, 1)]))
        problem, counts = Problem(self._scaled(fit, scale), _ratings(fit)), _weights(fit)
        held_out = self._scaled(validation, scale), _ratings(validation), _weights(validation)
        history: list[Tried] = []
        solutions: list[Floats] = []
        for penalty in PENALTIES:
            solved = problem.solve(counts[:, None], penalty, solutions[-1] if solutions else None)
            losses = (mean_loss(*of, solved) for of in ((problem.z, problem.ratings, counts), held_out))
            history.append(Tried(penalty, *losses))
            solutions.append(solved)
        best = int(np.argmin([tried.validation_loss for tried in history]))
        solved, heads = solutions[best], self.heads.out_features
        if heads > 1:
            bags = bootstrap(grouped(fit), heads, np.random.default_rng(seed)).numpy() * counts[:, None]
            several = problem.solve(bags, PENALTIES[best], np.repeat(solved, heads, axis=1))
            # Their deviations, about the solution for all samples, which is a better one than their mean.
            solved = solved + several - several.mean(axis=1, keepdims=True)
        weights, biases = scale.undone(solved)
        with torch.no_grad():
            self.heads.weight.copy_(torch.from_numpy(weights))
            self.heads.bias.copy_(torch.from_numpy(biases))
        return history

    def scores(self, samples: Sequence[Any]) -> tuple[Floats, Floats | None]:
        """What each head gives the responses, or the chosen and the rejected ones. [N, heads] each"""
        weight, bias = (p.detach().double().cpu().numpy() for p in (self.heads.weight, self.heads.bias))
        first = self._of(samples, 0) @ weight.T + bias
        return first, self._of(samples, 1) @ weight.T + bias if isinstance(samples[0], Choice) else None

    def save(self, folder: Path) -> None:
        """Write encoder and tokenizer; `ppokit.reward_models.saved.save` writes the heads."""
        with quiet():
            self.model.encoder.save_pretrained(folder, max_shard_size="100GB")
        self.tokenizer.save_pretrained(folder)

    def _of(self, samples: Sequence[Any], which: int) -> NDArray[np.float32]:
        return self._features[[self._row[sample.prompt, sample.texts[which]] for sample in samples]]

    def _scaled(self, samples: Sequence[Any], scale: Scale) -> Floats:
        """Scaled features, of choices their differences. [N,D]"""
        first = scale.apply(self._of(samples, 0))
        return first - scale.apply(self._of(samples, 1)) if isinstance(samples[0], Choice) else first


def _ratings(samples: Sequence[Any]) -> Floats | None:
    return None if isinstance(samples[0], Choice) else np.array([sample.rating for sample in samples])


def _weights(samples: Sequence[Any]) -> Floats:
    return np.array([1.0 if isinstance(sample, Choice) else sample.weight for sample in samples])


def _encoder(base: Base) -> Any:
    model, missing = load_encoder(base.where, base.subject)
    missing = [key for key in missing if "pooler" not in key]
    if missing or model.config.is_encoder_decoder:
        why = f"its files hold no {missing[0]}" if missing else "it is an encoder with a decoder"
        raise ModelError(f"{base.subject}: {why}; expected an encoder, such as a BERT, or a causal LM.")
    return model
