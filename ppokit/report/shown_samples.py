"""The responses that a page shows, as plain data for its script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppokit.plugin.visible_text import visible
from ppokit.report.choose import LONGEST_OTHER, LONGEST_TEXT, MOST_TOKENS, Chosen
from ppokit.report.island import plain, plains
from ppokit.report.ragged import Floats
from ppokit.report.reward_parts import parts, rules
from ppokit.report.run_data import RunData
from ppokit.report.step_file import TOKENS, Samples, read_step
from ppokit.report.tokens import TokenTexts

LONGEST_REASON = 600

COLUMNS: dict[str, tuple[str, str]] = {
    "reward": ("reward", "sum"),
    "advantage": ("advantage", "mean"),
    "kl": ("KL before the update, nats", "sum"),
    "kl_after": ("KL after the update, nats", "sum"),
    "ratio": ("ratio, new against old", "mean"),
    "value": ("value before the update", "mean"),
    "value_after": ("value after the update", "mean"),
    "return": ("return", "mean"),
    "entropy": ("entropy, nats", "mean"),
    "clipped": ("clipped", "mean"),
    "logprob": ("log-probability when sampled", "sum"),
}
"""The ledger's numbers in the order of the page: in words, and what is said of a whole response."""


@dataclass
class Shown:
    """Responses of a run in the page's form; the names are short, since there are thousands.

    Attributes:
        samples: a mapping each: `i` id, `t` step, `g` prompt, `o` outcome, `x` text, `s` score, `y` whole
            reward, `n` tokens, `k` KL and `d` change summed over tokens, `a` mean advantage, `u` whether it
            is trained on, `r` raw score, `c` part of the whole reward and `q` seconds by provider, `w`
            outcome and reason of providers that did not score, `p` parts and notes, `tk` tokens: `t` each,
            `of` how many there are where these are only the first, `z` sums and means over all that the
            policy wrote.
        prompts: texts; samples name them by position.
        vocabulary: text of each token that occurs, whether it is a special one, and its id.
        index: where the sample of a step and a row stands.
        rules: of providers, the weight and what comes before it; of none where the recipe is not known.
        groups: of groups of which the page holds a part, by step and prompt: responses, mean and best score.
    """

    providers: list[str]
    samples: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    vocabulary: list[tuple[str, int, int]] = field(default_factory=list)
    index: dict[tuple[int, int], int] = field(default_factory=dict)
    groups: dict[str, list[float | int | None]] = field(default_factory=dict)
    rules: list[tuple[float | int | None, str]] = field(default_factory=list)


def shown_samples(run: RunData, chosen: Chosen, texts: TokenTexts) -> Shown:
    """Read the chosen responses with their texts and tokens; a file that has gone since is passed over."""
    shown = Shown(sorted({name for samples in run.steps for name in samples.rewards}))
    known = rules(run)
    if set(shown.providers) <= known.keys():
        shown.rules = [(plain(known[name].weight), known[name].words) for name in shown.providers]
    prompts: dict[tuple[int, str], int] = {}
    vocabulary: dict[int, int] = {}
    whole = {samples.step: samples for samples in run.steps}
    for step in sorted(chosen.rows):
        rows = sorted(chosen.rows[step])
        if not rows:
            continue
        try:
            samples = read_step(run.files[step], step, rows)
        except Exception:  # a run that goes on may have been resumed from an earlier step
            continue
        added = parts(samples, known)
        for i, row in enumerate(rows):
            key = (samples.groups[i], samples.prompts[i])
            if key not in prompts:
                prompts[key] = len(shown.prompts)
                shown.prompts.append(visible(samples.prompts[i], LONGEST_TEXT))
            entry = _entry(samples, i, prompts[key], shown.providers, tokens=chosen.rows[step][row])
            if added:
                entry["c"] = [plain(added[name][i]) if name in added else None for name in shown.providers]
            if chosen.rows[step][row]:
                entry["tk"] = _tokens(samples, i, texts, vocabulary, shown.vocabulary)
            shown.index[step, row] = len(shown.samples)
            shown.samples.append(entry)
        _add_groups(shown, whole[step], samples, prompts)
    return shown


def _add_groups(shown: Shown, whole: Samples, part: Samples, prompts: dict[tuple[int, str], int]) -> None:
    """Note how large the groups of a step are that the page holds in part."""
    count, groups = Counter(part.groups), np.array(whole.groups)
    for group, prompt in dict(zip(part.groups, part.prompts, strict=True)).items():
        rows = np.flatnonzero(groups == group)
        if len(rows) > count[group]:
            scores = whole.score[rows]
            scores = scores[np.isfinite(scores)]
            ends = (float(scores.mean()), float(scores.max())) if len(scores) else (None, None)
            shown.groups[f"{whole.step} {prompts[group, prompt]}"] = [len(rows), *map(plain, ends)]


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
    if "advantages" in samples.tokens:
        entry["a"] = _of_response(samples, i, "advantage", samples.tokens["advantages"].row(i))
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
    out: dict[str, Any] = {"t": [vocabulary[token] for token in ids], "z": {}}
    if (count := len(samples.tokens["response_ids"].row(i))) > len(ids):
        out["of"] = count
    for name, numbers in token_columns(samples.tokens, i).items():
        out[name] = plains(numbers[:MOST_TOKENS]) if numbers.any() else 0
        out["z"][name] = _of_response(samples, i, name, numbers)
    if (mask := samples.tokens.get("loss_mask")) is not None and not mask.row(i).all():
        out["env"] = [int(own == 0) for own in mask.row(i)[:MOST_TOKENS]]  # what a tool or environment wrote
    return out


def _of_response(samples: Samples, i: int, name: str, numbers: Floats) -> float | int | None:
    """A column's sum or mean over the tokens that the policy wrote, those that the page leaves out too."""
    mask = samples.tokens.get("loss_mask")
    if mask is not None and len(mask.row(i)) == len(numbers):
        numbers = numbers[mask.row(i) != 0]
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return None
    return plain(float(numbers.sum() if COLUMNS[name][1] == "sum" else numbers.mean()))


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
