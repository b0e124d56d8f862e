"""The responses that a page shows, as plain data for its script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppokit.plugin.visible_text import visible
from ppokit.report.choose import Chosen
from ppokit.report.island import plain, plains
from ppokit.report.ragged import Floats
from ppokit.report.run_data import RunData
from ppokit.report.step_file import TOKENS, Samples, read_step
from ppokit.report.tokens import TokenTexts

LONGEST_TEXT = 6000  # characters of a response with its tokens
LONGEST_OTHER = 700  # of one without
LONGEST_REASON = 600
MOST_TOKENS = 2000


@dataclass
class Shown:
    """Responses of a run in the page's form; the names are short, since there are thousands.

    Attributes:
        samples: a mapping each: `i` id, `t` step, `g` prompt, `o` outcome, `x` text, `s` score, `y` whole
            reward, `n` tokens, `k` KL and `d` change summed over tokens, `a` mean advantage, `u` whether it
            is trained on, `r` raw score and `q` seconds by provider, `w` outcome and reason of providers that
            did not score, `p` parts and notes, `tk` tokens.
        prompts: texts; samples name them by position.
        vocabulary: text of each token that occurs, whether it is a special one, and its id.
        index: where the sample of a step and a row stands.
    """

    providers: list[str]
    samples: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    vocabulary: list[tuple[str, int, int]] = field(default_factory=list)
    index: dict[tuple[int, int], int] = field(default_factory=dict)


def shown_samples(run: RunData, chosen: Chosen, texts: TokenTexts) -> Shown:
    """Read the chosen responses with their texts and tokens; a file that has gone since is passed over."""
    shown = Shown(sorted({name for samples in run.steps for name in samples.rewards}))
    prompts: dict[tuple[int, str], int] = {}
    vocabulary: dict[int, int] = {}
    for step in sorted(chosen.rows):
        rows = sorted(chosen.rows[step])
        if not rows:
            continue
        try:
            samples = read_step(run.files[step], step, rows)
        except Exception:  # a run that goes on may have been resumed from an earlier step
            continue
        for i, row in enumerate(rows):
            key = (samples.groups[i], samples.prompts[i])
            if key not in prompts:
                prompts[key] = len(shown.prompts)
                shown.prompts.append(visible(samples.prompts[i], LONGEST_TEXT))
            entry = _entry(samples, i, prompts[key], shown.providers, tokens=chosen.rows[step][row])
            if chosen.rows[step][row]:
                entry["tk"] = _tokens(samples, i, texts, vocabulary, shown.vocabulary)
            shown.index[step, row] = len(shown.samples)
            shown.samples.append(entry)
    return shown


def _entry(samples: Samples, i: int, prompt: int, providers: list[str], *, tokens: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "i": visible(samples.ids[i], 100),
        "t": samples.step,
        "g": prompt,
        "o": visible(samples.outcomes[i], 20),
        "x": visible(samples.responses[i], LONGEST_TEXT if tokens else LONGEST_OTHER),
        "s": plain(samples.score[i]),
        "y": plain(samples.total[i]),
        "n": plain(samples.length[i]),
        "k": plain(samples.kl[i]),
        "d": plain(samples.change[i]),
        "r": [plain(samples.rewards[name][i]) if name in samples.rewards else None for name in providers],
    }
    if "advantages" in samples.tokens and len(own := samples.tokens["advantages"].row(i)):
        entry["a"] = plain(float(own.mean()))
    seconds = [plain(samples.seconds[name][i]) if name in samples.seconds else None for name in providers]
    if any(own is not None for own in seconds):
        entry["q"] = seconds
    if not samples.trained[i]:
        entry["u"] = 0
    unscored = {
        visible(name, 60): [own[i], visible(samples.reasons.get(name, [""] * len(own))[i], LONGEST_REASON)]
        for name, own in samples.reward_outcomes.items()
        if own[i] not in ("scored", "")
    }
    if unscored:
        entry["w"] = unscored
    extras: dict[str, Any] = {
        visible(n, 60): plain(own[i]) for n, own in samples.parts.items() if own[i] == own[i]
    }
    extras.update(
        {visible(n, 60): visible(own[i], LONGEST_REASON) for n, own in samples.notes.items() if own[i]}
    )
    if extras:
        entry["p"] = extras
    return {name: value for name, value in entry.items() if value is not None}


def _tokens(
    samples: Samples,
    i: int,
    texts: TokenTexts,
    vocabulary: dict[int, int],
    shown: list[tuple[str, int, int]],
) -> dict[str, Any]:
    """Positions in the vocabulary, and numbers by column; a column of zeros is left out."""
    if "response_ids" not in samples.tokens:
        return {}
    ids = samples.tokens["response_ids"].row(i)[:MOST_TOKENS].astype(int).tolist()
    for token in ids:
        if token not in vocabulary:
            vocabulary[token] = len(shown)
            text, special = texts(token)
            shown.append((text, int(special), token))
    out: dict[str, Any] = {"t": [vocabulary[token] for token in ids]}
    for name, numbers in token_columns(samples.tokens, i).items():
        out[name] = plains(numbers[:MOST_TOKENS]) if numbers.any() else 0
    if (mask := samples.tokens.get("loss_mask")) is not None and not mask.row(i).all():
        out["env"] = [int(own == 0) for own in mask.row(i)[:MOST_TOKENS]]  # what a tool or environment wrote
    return out


def token_columns(tokens: Mapping[str, Any], i: int) -> dict[str, Floats]:
    """The ledger's numbers of one response by their name on the page, those that the file has.

    The KL and ratio after the update follow from two columns each: log-probabilities before it less the
    reference's, and those of its last pass less those before it.
    """
    count = len(tokens["response_ids"].row(i))
    rows = {name: tokens[name].row(i) for name in TOKENS if name in tokens}
    have = {name: row for name, row in rows.items() if len(row) == count}  # others are missing, or damaged
    names = {
        "token_rewards": "reward",
        "advantages": "advantage",
        "values": "value",
        "new_values": "value_after",
        "returns": "return",
        "sampler_logprobs": "logprob",
        "kl/k1": "kl",
        "entropy": "entropy",
        "clipped": "clipped",
    }
    out = {short: have[name] for name, short in names.items() if name in have}
    if "log_ratio" in have:
        out["ratio"] = np.exp(np.clip(have["log_ratio"], -30, 30))
        if "kl/k1" in have:
            out["kl_after"] = have["kl/k1"] + have["log_ratio"]
    return out
