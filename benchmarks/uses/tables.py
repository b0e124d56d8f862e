"""Tables and answers in Markdown, made of the results' files, between marks in the pages.

A page has pairs of marks, each on a line of its own: `<!-- figures -->` and `<!-- /figures -->`. What stands
between them is made here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plan
from guards import GUARDS
from intervals import interval
from results import digest, inputs, read_results

from uses import BOUND, RECIPES, REPOSITORY, USES, Use

NOT_YET = "Not measured yet."
EARLIER = "\N{DAGGER}"
"""Beside a use whose recipe, or whose own data, have changed since it was measured."""
Results = Mapping[str, Sequence[dict[str, Any]]]
FRONT = ("chatbots", "summarisation", "sensitive_information")
"""Uses that the project's README shows, chosen before any was measured."""


def render(folder: Path, repository: Path = REPOSITORY) -> None:
    """Write every page's tables.

    Args:
        folder: of the results.
        repository: whose pages are written.
    """
    for path, blocks in pages(folder).items():
        page = repository / path
        page.write_text(filled(page.read_text(encoding="utf-8"), blocks, path), encoding="utf-8")


def pages(folder: Path) -> dict[str, dict[str, str]]:
    """By page, what stands between its marks."""
    own, real = read_results(folder, "own"), read_results(folder, "real")
    front = {name: own[name] for name in FRONT if name in own}
    blocks = {
        "README.md": {
            "uses": table(front, "recipes/uses") or NOT_YET,
            "uses on real data": verdict(real) if real else NOT_YET,
        },
        "docs/uses.md": {
            "own": table(own, "../recipes/uses") or NOT_YET,
            "real": table(real, "../recipes/uses") or NOT_YET,
            "plan": plan.table(),
        },
    }
    for name, use in USES.items():
        blocks[f"{RECIPES.relative_to(REPOSITORY)}/{name}/README.md"] = {
            "figures": figures(use, own.get(name, []), real.get(name, [])) or NOT_YET,
            "answers": answers(own.get(name, [])) or NOT_YET,
        }
    return blocks


def filled(text: str, blocks: Mapping[str, str], path: str) -> str:
    """The page with these blocks between their marks.

    Raises:
        ValueError: a mark is not there once.
    """
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"{path} has the marks <!-- {name} --> and <!-- /{name} --> not once")
        text = pattern.sub(lambda match, block=block: f"{match[1]}\n{block}\n\n{match[2]}", text)
    return text


def table(results: Results, recipes: str) -> str:
    """A row per use; empty where there is none.

    Args:
        recipes: the folder of the recipes, from the page.
    """
    rows = [_row(USES[name], results[name], recipes) for name in USES if results.get(name)]
    if not rows:
        return ""
    head = (
        "use",
        "judged by",
        "before",
        "after",
        "trivial answers",
        "gain, 95 % interval",
        "per seed",
        *GUARDS,
        "finished",
        "minutes",
        "GB",
    )
    lines = [head, ("---",) * len(head), *rows]
    dates = sorted({run["date"] for runs in results.values() for run in runs})
    machines = sorted(
        {
            f"{run['machine']['cpu']}, {run['machine']['threads']} of {run['machine']['cores']} cores, "
            f"{run['machine']['dtype']}, torch {run['machine']['torch']}"
            for runs in results.values()
            for run in runs
        }
    )
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{when}; {'; '.join(machines)}."
    text += (
        f" {EARLIER}: by an earlier recipe or earlier data of the project's own."
        if any(EARLIER in row[0] for row in rows)
        else ""
    )
    return f"{text}\n\n{verdict(results)}"


def verdict(results: Results) -> str:
    """Of how many uses the judge is surely better, and of how many a guard has lost more than the bound."""
    measured = [runs for runs in results.values() if runs]
    better = sum(interval(runs)[1] > 0 for runs in measured)
    worse = [
        USES[name].title
        for name, runs in results.items()
        if any(guard.is_lost(runs) for guard in GUARDS.values())
    ]
    kept = f"In {', '.join(worse)} a guard" if worse else "No guard"
    return (
        f"Of {len(measured)} uses {better} have gained with an interval above 0. {kept} has lost more than "
        f"{BOUND:.0%} in the mean of its seeds."
    )


def figures(use: Use, own: Sequence[dict[str, Any]], real: Sequence[dict[str, Any]]) -> str:
    """What a use's README says of its runs, a line per set of data."""
    lines = [
        f"- {words}: {_sentence(use, runs)}"
        for words, runs in (("These data", own), ("Real data", real))
        if runs
    ]
    return "\n".join(lines)


def answers(runs: Sequence[dict[str, Any]]) -> str:
    """The first held-out prompts with their answers before and after, of the first seed."""
    if not runs:
        return ""
    lines = []
    for answer in runs[0]["answers"]:
        lines += [
            _line("prompt", answer["prompt"]),
            _line("before", answer["before"]),
            _line("after", answer["after"]),
        ]
        lines.append("")
    return "```text\n" + "\n".join(lines[:-1]) + "\n```"


def _line(label: str, text: str) -> str:
    """Text of a model, on one line that cannot end the block or move a terminal's cursor."""
    one_line = " / ".join(part.strip() for part in text.strip().splitlines() if part.strip())
    clean = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in one_line
    )
    return f"{label:<7} {clean.replace('```', '` ` `')}"


def _row(use: Use, runs: Sequence[dict[str, Any]], recipes: str) -> tuple[str, ...]:
    is_current = {run["files"] for run in runs} == {digest(inputs(use))}
    beside = "".join(f"; {words} {_gain(runs, number)}" for number, words in use.beside)
    return (
        f"[{use.title}]({recipes}/{use.name}){'' if is_current else f' {EARLIER}'}",
        use.measure,
        _number(_mean(runs, "before")),
        _number(_mean(runs, "after")),
        _trivial(runs[0]["trivial"]),
        f"{_gain(runs)}{beside}",
        ", ".join(_signed(interval([run])[0]) for run in runs),
        *(guard.cell(runs) for guard in GUARDS.values()),
        " to ".join(
            f"{sum(own) / len(own):.0%}" for own in zip(*(run["finished"] for run in runs), strict=True)
        ),
        f"{max(run['minutes'] for run in runs):.0f}",
        f"{max(run['peak_gb'] for run in runs):.1f}",
    )


def _sentence(use: Use, runs: Sequence[dict[str, Any]]) -> str:
    mean, low, high = interval(runs)
    count = "one seed" if len(runs) == 1 else f"{len(runs)} seeds"
    steps = sorted({run["steps"] for run in runs})
    before, after = (_number(_mean(runs, when)) for when in ("before", "after"))
    beside = "".join(f" {words.capitalize()}: gain {_gain(runs, number)}." for number, words in use.beside)
    trivial = _trivial(runs[0]["trivial"])
    return (
        f"{use.measure}: {before} before, {after} after; gain "
        f"{_signed(mean)}, 95 % interval {_signed(low)} to {_signed(high)} ({count}, "
        f"{len(runs[0]['judge']['before'])} held-out prompts, {' or '.join(map(str, steps))} steps, "
        f"{max(run['minutes'] for run in runs):.0f} minutes, {max(run['peak_gb'] for run in runs):.1f} GB)."
        f"{beside}{f' Trivial answers: {trivial}.' if trivial else ''}"
    )


def _trivial(numbers: dict[str, float] | None) -> str:
    """What answers get that tell nothing of their prompts."""
    if numbers is None:
        return ""
    prompt, fixed, best = (_number(numbers[name]) for name in ("prompt", "fixed", "best"))
    return f"the prompt {prompt}; a fixed one {fixed}, the best {best}"


def _gain(runs: Sequence[dict[str, Any]], beside: str | None = None) -> str:
    mean, low, high = map(_signed, interval(runs, beside))
    return f"{mean} ({low} to {high})"


def _mean(runs: Sequence[dict[str, Any]], when: str) -> float:
    return sum(sum(run["judge"][when]) / len(run["judge"][when]) for run in runs) / len(runs)


def _number(number: float) -> str:
    return f"{number:.3g}"


def _signed(number: float) -> str:
    return f"{number:+.2g}"
