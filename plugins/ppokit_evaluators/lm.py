"""How well the policy predicts texts that people wrote: likelihood, next words, keystrokes saved.

    {use: lm, reference: continuation}

The text in the column of each held-out prompt is read behind the prompt, as if the policy had written it;
nothing is generated, and one forward pass gives all of

    logprob_per_token    mean over the text's tokens of ln p(token | prompt, tokens before it), in nats
    bits_per_byte        -sum of ln p / (ln 2 * bytes of the text in UTF-8), whatever the tokenizer is
    next_word_accuracy   share of the words that greedy decoding writes, given prompt and text before them
    keystrokes_saved     1 - keys / characters of the text, typed with suggestions

of each text. Bits per byte: Gao et al. 2020, arXiv:2101.00027, section 3.1. Keystrokes saved: Trnka and McCoy
2008, https://aclanthology.org/P08-2066, section 2: before each letter of a word its likeliest completion is
shown, see `ppokit_evaluators.word_prediction`; as soon as it is the word of the text, one key takes it, if
that saves any; all else is typed, one key per character. Differs: one suggestion, and not a list; the space
behind a word is typed. Words are runs of letters, digits, marks and underscores with apostrophes inside, so
that scripts without spaces have long ones. Log-probabilities are those of the model itself, whatever
`rollout.temperature` is; an end-of-sequence token is no part of a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    EvaluationView,
    Options,
    PluginError,
    Rollout,
    hookimpl,
)
from ppokit_evaluators.word_prediction import SpelledText, Vocabulary, letters_typed

if TYPE_CHECKING:
    from torch import Tensor


class LMOptions(Options):
    reference: str = Field(min_length=1, description="Column of the held-out prompts with the texts.")
    separator: str = Field(
        default="",
        description="Text between a plain prompt and its text, such as a space; not for chats.",
    )


class LM:
    def __init__(self, options: LMOptions, context: BuildContext) -> None:
        if context.tokenizer is None:
            raise PluginError("lm needs the policy's tokenizer; build it in a run")
        self.options, self._tokenizer = options, context.tokenizer
        self._vocabulary: Vocabulary | None = None
        self._spelled: dict[tuple[tuple[int, ...], ...], SpelledText] = {}  # the same in each evaluation

    def evaluate(self, view: EvaluationView, step: int) -> dict[str, float]:
        import torch

        if self._vocabulary is None:
            self._vocabulary = Vocabulary.of(self._tokenizer)
        vocabulary = self._vocabulary
        references = [str(row[self.options.reference]) for row in view.rows]
        rollout = view.recorded(view.prompts, references, separator=self.options.separator, rows=view.rows)
        texts = [self._spell(rollout, index) for index in range(len(rollout))]
        # Of each token of a word, where the word ends.
        until = [{t: w.end for w in text.words() for t in range(w.first, w.last + 1)} for text in texts]

        def read(logits: Tensor, responses: Tensor, positions: Tensor) -> Tensor:
            targets = rollout.response_ids.to(logits.device)[responses, positions]
            logprobs = logits.log_softmax(dim=-1).gather(-1, targets[:, None]).squeeze(-1)
            likeliest = logits.argmax(dim=-1)
            letters = torch.zeros_like(logprobs)
            for index in (likeliest != targets).nonzero().squeeze(-1).tolist():
                response, token = int(responses[index]), int(positions[index])
                if (end := until[response].get(token)) is not None:
                    letters[index] = texts[response].letters(
                        token, end, logits[index], int(targets[index]), vocabulary
                    )
            return torch.stack([logprobs, likeliest.float(), letters], dim=-1)

        numbers = view.read_logits(rollout, read).double()
        measured = [
            self._measure(text, numbers[index, : int(rollout.lengths[index])], vocabulary)
            for index, text in enumerate(texts)
        ]
        view.record(rollout, {name: [own.get(name) for own in measured] for name in NAMES})
        return {}

    def _spell(self, rollout: Rollout, index: int) -> SpelledText:
        tokens = rollout.response_ids[index][rollout.response_mask[index]].tolist()
        key = (tuple(rollout.prompt_ids[index]), tuple(tokens))
        if key not in self._spelled:
            text = self.options.separator + rollout.responses[index]
            self._spelled[key] = SpelledText.of(self._tokenizer, *key, text)
        return self._spelled[key]

    def _measure(self, text: SpelledText, numbers: Tensor, vocabulary: Vocabulary) -> dict[str, float]:
        """The numbers of a text.

        Args:
            numbers: [n,3] of each token: its log-probability, the likeliest id, and its number of letters.
        """
        if not text.text:  # of unknown tokens alone
            return {}
        logprobs, likeliest, letters = numbers.T.tolist()
        tokens = len(text.ends)
        total = sum(logprobs[:tokens])
        words = list(text.words())
        typed = [
            letters_typed(text, word, list(map(int, letters)), list(map(int, likeliest)), vocabulary)
            for word in words
        ]
        saved = sum(
            max(0, word.end - word.start - 1 - own)
            for word, own in zip(words, typed, strict=True)
            if own is not None
        )
        measured = {
            "logprob_per_token": total / tokens,
            "bits_per_byte": -total / math.log(2) / len(text.text.encode()),
            "keystrokes_saved": saved / len(text.text),
        }
        if words:
            measured["next_word_accuracy"] = sum(own == 0 for own in typed) / len(words)
        return measured


NAMES = ("logprob_per_token", "bits_per_byte", "next_word_accuracy", "keystrokes_saved")


def check(options: LMOptions, context: CheckContext) -> Iterable[str]:
    if context.columns == ():
        yield "needs held-out prompts; expected evaluation.prompts"
        return
    yield from context.without_column("reference", options.reference, of="held-out prompts")
    wrong = [
        (number, cell)
        for number, cell in context.cells(options.reference)
        if not isinstance(cell, str) or not cell.strip()
    ]
    if wrong:
        number, cell = wrong[0]
        yield (
            f"reference: {len(wrong)} of the held-out prompts have no text in {options.reference!r}; the "
            f"first is row {number}, {repr(cell)[:60]}. Expected one text each"
        )
    yield from context.separator_in_chats(options.separator)


@hookimpl
def ppokit_evaluators() -> list[Component]:
    return [Component("lm", LM, options=LMOptions, check=check)]
