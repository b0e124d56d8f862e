"""Plots as inline SVG, which print and need no script; colours are the page's, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 20
MOST_POINTS = 120


def colour(number: int) -> str:
    """Classes of the page's style: six colours, then the same ones dashed, then dotted."""
    return f"c{number % 6} d{number // 6 % 3}"


@dataclass(frozen=True)
class Line:
    """A curve: values by step, and the number of its colour."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    colour: int = 0


@dataclass(frozen=True)
class Band:
    """A filled area between two curves over the same steps."""

    steps: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    strength: str = "outer"


@dataclass(frozen=True)
class Scale:
    """From values to places in the picture."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(title: str, lines: Sequence[Line], bands: Sequence[Band] = ()) -> Markup:
    """Curves over steps, with labels of the axes; an empty text where there is no number.

    The scale of the steps is in the element's data attribute, for what follows the pointer.
    """
    xs = [x for line in lines for x in line.steps] + [x for band in bands for x in band.steps]
    ys = [y for line in lines for y in line.values] + [y for b in bands for y in (*b.low, *b.high)]
    ys = [y for y in ys if math.isfinite(y)]
    if not ys:
        return Markup("")
    low, high = min(ys), max(ys)
    if 0 < low < 0.3 * high:
        low = 0.0
    ticks = nice_ticks(low, high)
    low, high = min(ticks[0], low), max(ticks[-1], high)
    x = Scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, LEFT, WIDTH - RIGHT)
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" data-x="{:.9g} {:.9g}">').format(
            WIDTH, HEIGHT, described(title, lines), x.low, x.high
        )
    ]
    for tick in ticks:
        parts.append(
            Markup(
                '<path class="grid" d="M{} {:.1f}H{}"/><text class="tick" x="{}" y="{:.1f}">{}</text>'
            ).format(LEFT, y(tick), WIDTH - RIGHT, LEFT - 6, y(tick) + 3.5, short(tick))
        )
    for step, anchor in ((min(xs), "start"), (max(xs), "end")):
        if anchor == "start" or max(xs) > min(xs):
            parts.append(
                Markup('<text class="step" text-anchor="{}" x="{:.1f}" y="{}">{}</text>').format(
                    anchor, x(step), HEIGHT - 5, f"step {step:g}" if anchor == "start" else f"{step:g}"
                )
            )
    for band in bands:
        forth = [f"{x(s):.1f} {y(v):.1f}" for s, v in zip(band.steps, band.high, strict=True)]
        back = [f"{x(s):.1f} {y(v):.1f}" for s, v in zip(band.steps, band.low, strict=True)]
        parts.append(
            Markup('<path class="band {}" d="M{}Z"/>').format(band.strength, "L".join(forth + back[::-1]))
        )
    for line in lines:
        parts.append(_curve(line, x, y))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def _curve(line: Line, x: Scale, y: Scale) -> Markup:
    points = [(s, v) for s, v in zip(line.steps, line.values, strict=True) if math.isfinite(v)]
    if not points:
        return Markup("")
    kept = thinned(points)
    path = "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in kept)
    curve = Markup('<path class="line {}" d="M{}"/>').format(colour(line.colour), path)
    if len(points) > 30:
        return curve
    dots = "".join(f"M{x(s):.1f} {y(v):.1f}h0" for s, v in points)
    return curve + Markup('<path class="dots {}" d="{}"/>').format(colour(line.colour), dots)


def sparkline(values: Sequence[float]) -> Markup:
    """A curve alone, as high as a line of text; an empty text for fewer than two numbers."""
    points = [(float(i), v) for i, v in enumerate(values) if math.isfinite(v)]
    if len(points) < 2:
        return Markup("")
    low, high = min(v for _, v in points), max(v for _, v in points)
    x, y = Scale(0, len(values) - 1, 1, 89), Scale(low, high if high > low else low + 1, 19, 3)
    path = "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in thinned(points, 60))
    return Markup(
        '<svg class="spark" viewBox="0 0 90 22" aria-hidden="true"><path class="line c0" d="M{}"/></svg>'
    ).format(path)


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Of many points the lowest and the highest of each stretch, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    stretches = most // 2
    kept: list[tuple[float, float]] = []
    for i in range(stretches):
        part = points[i * len(points) // stretches : (i + 1) * len(points) // stretches]
        ends = (min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1]))
        kept.extend(sorted(set(ends)))
    return [points[0], *kept[1:-1], points[-1]]


def nice_ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers within a range."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        return [low - (abs(low) or 1.0) * 0.1, low, low + (abs(low) or 1.0) * 0.1]
    power = 10.0 ** math.floor(math.log10(high - low))
    for unit in (power * m for m in (5, 2.5, 2, 1, 0.5, 0.25, 0.2, 0.1)):
        first, last = math.ceil(low / unit - 1e-9), math.floor(high / unit + 1e-9)
        if last - first >= 1:
            return [i * unit for i in range(first, last + 1)]
    return [low, high]


def short(value: float) -> str:
    """A number in few characters."""
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def described(title: str, lines: Sequence[Line]) -> str:
    """A plot in words, for who does not see it."""
    ends = []
    for line in lines:
        known = [(s, v) for s, v in zip(line.steps, line.values, strict=True) if math.isfinite(v)]
        if known:
            (first, begin), (last, end) = known[0], known[-1]
            name = f"{line.label}: " if len(lines) > 1 else ""
            ends.append(f"{name}{short(begin)} at step {first:g}, {short(end)} at step {last:g}")
    return f"{title}. {'; '.join(ends)}"


def quantile_chart(title: str, steps: Sequence[float], quantiles: Sequence[Sequence[float]]) -> Markup:
    """The distribution of a number by step.

    Args:
        quantiles: of each step the .05, .25, .5, .75 and .95 quantile.
    """
    columns = list(zip(*quantiles, strict=True))
    outer = Band(steps, columns[0], columns[4], "outer")
    inner = Band(steps, columns[1], columns[3], "inner")
    return line_chart(title, [Line("median", steps, columns[2])], [outer, inner])
