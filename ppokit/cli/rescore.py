"""`ppokit rescore`: saved samples, or texts, scored by other rewards, and what would change."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppokit.cli.options import Debug, DisablePlugin, Json, check_plot
from ppokit.cli.sections import Section, number, percent, show
from ppokit.errors import DataError, one_paragraph

if TYPE_CHECKING:
    from ppokit.rescoring.comparison import Comparison
    from ppokit.rescoring.rescore import Rescored


_MOVED = ("sample", "response", "before", "after", "rank before", "rank after")


def rescore(
    rewards: Annotated[
        Path, typer.Option("--rewards", metavar="FILE", help="A recipe, or a YAML file with rewards: alone.")
    ],
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="The folder of a run.")] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="In place of a run: a file with a response per row, with prompt, score and other columns.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw scores before and after as a PNG file."),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=0, help="How many samples to show.")] = 5,
    as_json: Json = False,
    disable_plugin: DisablePlugin = None,
    debug: Debug = False,
) -> None:
    """Score saved samples by other rewards, without a language model, and show what would change.

    Prints how the ranks correlate, in how many groups another response would win, and the samples that move
    most. Of texts without a score, prints the best and the worst.
    """
    from ppokit.config.recipe import load_rewards
    from ppokit.config.registry import PluginRegistry
    from ppokit.rescoring.comparison import compare
    from ppokit.rescoring.plot import plot_scores
    from ppokit.rescoring.rescore import rescore, tokenizer_of
    from ppokit.rescoring.samples import Origin, of_run, of_texts
    from ppokit.rewards.outcomes import causes_of

    if (run is None) == (text is None):
        raise DataError("expected either the folder of a run or --text FILE")
    check_plot(out)
    registry = PluginRegistry(disable_plugin or ())
    chosen = load_rewards(rewards, registry)
    origin = Origin() if run is None else Origin.of_run(run)
    batches = of_run(run, origin) if run is not None else [of_texts(text)]  # type: ignore[arg-type]
    tokenizer = None if run is None else tokenizer_of(run)
    result = rescore(batches, chosen, origin, tokenizer=tokenizer, disabled=registry.disabled)
    comparison = compare(result.ids, result.responses, result.groups, result.before, result.after, most=most)
    if out is not None:
        plot_scores(result.before, result.after, str(run or text), out)
    if as_json:
        typer.echo(json.dumps(_as_data(result, comparison), indent=2))
        return
    show(_sections(result, comparison, most))
    for name, reasons in result.failures.items():
        causes = "; ".join(causes_of(reasons))
        typer.echo(f"{name} failed for {len(reasons)} of {len(result.ids)} responses: {causes}", err=True)
    for reward in result.left_out:
        typer.echo(f"left out: {reward}: saved samples do not hold it", err=True)


def _as_data(result: Rescored, comparison: Comparison) -> dict[str, Any]:
    """All of it; NaN becomes null, as JSON knows none."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(own) for key, own in value.items()}
        if isinstance(value, list | tuple):
            return [plain(own) for own in value]
        return None if isinstance(value, float) and value != value else value

    samples = zip(result.ids, result.before, result.after, strict=True)
    return {
        "comparison": plain(asdict(comparison)),
        "left_out": result.left_out,
        "failures": result.failures,
        "samples": [{"id": i, "before": plain(b), "after": plain(a)} for i, b, a in samples],
    }


def _sections(result: Rescored, comparison: Comparison, most: int) -> list[Section]:
    header = ("reward", "scored", "mean", "lowest", "highest")
    sections = [Section("Rewards", header, [_reward(n, s) for n, s in result.by_reward.items()])]
    if not comparison.samples:
        known = [
            (a, i, r) for a, i, r in zip(result.after, result.ids, result.responses, strict=True) if a == a
        ]
        known.sort(key=lambda each: -each[0])
        shown = [*known[:most], *known[max(most, len(known) - most) :]]
        rows = [(i, _excerpt(r), number(a)) for a, i, r in shown]
        return [*sections, Section("Best and worst", ("sample", "response", "score"), rows, text_columns=2)]
    changes = [
        ("samples with both scores", str(comparison.samples)),
        ("only before, only after", f"{comparison.lost}, {comparison.gained}"),
        ("mean before, after", f"{number(comparison.mean_before)}, {number(comparison.mean_after)}"),
        (
            "correlation of ranks",
            "-" if comparison.correlation != comparison.correlation else number(comparison.correlation),
        ),
        ("groups with another winner", _changed(comparison)),
    ]
    sections.append(Section("Before and after", ("", ""), changes))
    moved = [
        (
            m.id,
            _excerpt(m.response),
            number(m.before),
            number(m.after),
            f"{m.rank_before:g}",
            f"{m.rank_after:g}",
        )
        for m in comparison.moved
    ]
    if moved:
        sections.append(Section("Moved most", _MOVED, moved, text_columns=2))
    return sections


def _changed(comparison: Comparison) -> str:
    if not comparison.groups:
        return "no groups of two or more"
    return f"{comparison.changed} of {comparison.groups} ({percent(comparison.changed / comparison.groups)})"


def _reward(name: str, scores: list[float]) -> tuple[str, ...]:
    known = [score for score in scores if score == score]
    if not known:
        return (name, f"0 of {len(scores)}", "-", "-", "-")
    numbers = (sum(known) / len(known), min(known), max(known))
    return (name, f"{len(known)} of {len(scores)}", *map(number, numbers))


def _excerpt(text: str) -> str:
    flat = one_paragraph(text)
    return flat if len(flat) <= 50 else flat[:49] + "…"
