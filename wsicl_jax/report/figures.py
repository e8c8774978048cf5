"""Curves of the report: Dice against context size, annotation time and interactive rounds."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wsicl_jax.evaluate.records import title_of
from wsicl_jax.report.model_groups import DENSE, ModelGroup, main_kind, ordered_kinds
from wsicl_jax.report.results import Results, Setting
from wsicl_jax.report.style import QUIET, WIDTH, colour, duration_axis, marker, new_figure, tint
from wsicl_jax.report.wording import duration
from wsicl_jax.storage.safe_names import in_figure

_MOST_ROWS = 4
"""Data sets in one figure of panels."""

_LINE_LENGTH = 17
"""Characters of a data set's name on one line beside its panels."""

_MEAN = "mean over data sets"
_PALEST = 0.42
_BAND = 0.13
_MIN_RANGE = 0.2
"""Range of Dice of a vertical axis, so that noise does not look like an effect."""
_STRONG = ("box", "point", DENSE)
"""Kinds with thick lines: those of the paper."""


class Timed(NamedTuple):
    """A point of the figure of annotation time."""

    kind: str
    contexts: int
    prompts: int
    seconds: float
    dice: float


def pages_of(data_sets: Sequence[str]) -> list[tuple[str, ...]]:
    """Data sets by figure, so that panels stay readable."""
    return [
        tuple(data_sets[first : first + _MOST_ROWS])
        for first in range(0, len(data_sets), _MOST_ROWS)
    ]


def _wrapped(name: str) -> str:
    """A data set's name on several lines, beside a row of panels."""
    if len(name) <= _LINE_LENGTH:
        return name
    return textwrap.fill(name.replace("_", " "), _LINE_LENGTH)


def context_figure(results: Results, group: ModelGroup, data_sets: Sequence[str]) -> Figure:
    """Dice against context size: a row for each data set, a column for each kind.

    A line for each number of prompts, with its interval. Dense ICL is in every panel.
    """
    kinds = [kind for kind in group.kinds() if kind != DENSE] or [DENSE]
    settings = [s for d in data_sets for k in (*kinds, DENSE) for s in group.of(d, k)]
    sizes = sorted({s.contexts for s in settings})
    counts = sorted({s.prompts for s in settings if s.kind != DENSE and s.kind in kinds})
    figure = new_figure(WIDTH, max(1.75 * len(data_sets), 2.5) + 0.85)
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.02, hspace=0.02)
    axes = figure.subplots(len(data_sets), len(kinds), squeeze=False, sharex=True, sharey="row")
    for row, data_set in zip(axes, data_sets, strict=True):
        for axis, kind in zip(row, kinds, strict=True):
            if kind != DENSE:
                _curve(axis, results, group.of(data_set, DENSE), colour(DENSE), dashed=True)
            lines: dict[int, list[Setting]] = {}
            for setting in group.of(data_set, kind):
                lines.setdefault(setting.prompts, []).append(setting)
            for prompts, line in lines.items():
                shade = colour(kind) if len(lines) == 1 else _shade(colour(kind), counts, prompts)
                _curve(axis, results, line, shade)
            if not lines:
                axis.text(0.5, 0.5, "not measured", color=QUIET, ha="center", va="center",
                          transform=axis.transAxes, fontsize=8)  # fmt: skip
        if len(data_sets) > 1:
            row[0].set_ylabel(_wrapped(in_figure(data_set)), weight="bold", labelpad=8)
        _bound(row[0])
    for axis, kind in zip(axes[0], kinds, strict=True):
        axis.set_title(title_of("in_context", kind), color=colour(kind), weight="bold", pad=8)
    for axis in axes[-1]:
        axis.set_xscale("log", base=2)
        axis.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.25)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
    figure.supxlabel("context images", fontsize=8.5)
    figure.supylabel("Dice", fontsize=8.5)
    handles = [
        Line2D([], [], color=_shade("#3d4650", counts, n), marker="o", label=str(n))
        for n in (counts if len(counts) > 1 else ())
    ]
    if handles:
        handles.insert(0, Line2D([], [], alpha=0, label="prompts on each context image:"))
    if DENSE not in kinds and any(s.kind == DENSE for s in settings):
        handles.append(Line2D([], [], color=colour(DENSE), ls=(0, (3, 2)), label="dense ICL"))
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def time_figure(results: Results, group: ModelGroup, others: Sequence[Setting] = ()) -> Figure:
    """Dice against the annotation time of the whole context set, a panel for each data set.

    Every setting is a point. A line joins those that no quicker setting of their kind equals.
    `others` are settings of models with a single setting; a point with the model's name.
    """
    panels = {d: _timed(results, group, d) for d in group.data_sets}
    if len(panels) > 1:
        panels[_MEAN] = _mean_over(list(panels.values()))
    panels = {name: points for name, points in panels.items() if points}
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    height = 4.3 if len(panels) == 1 else 3.1 * rows
    figure = new_figure(WIDTH, height + 0.5)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.02)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    seconds = [p.seconds for points in panels.values() for p in points if p.seconds > 0]
    for axis, (name, points) in zip(axes, panels.items(), strict=False):
        kinds = ordered_kinds(p.kind for p in points)
        for kind in reversed(kinds):
            _front(axis, [p for p in points if p.kind == kind])
        for setting in others:
            if setting.data_set == name and (dice := results.mean(setting)) is not None:
                _other(axis, setting.model, results.seconds(setting), dice)
        _annotate_share(axis, points)
        axis.set_title(in_figure(name), loc="left", weight="bold")
        axis.set_ylabel("Dice")
        axis.set_xlabel("annotation time of the context set")
        if seconds:
            duration_axis(axis, min(seconds), max(seconds))
        _bound(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    kinds = ordered_kinds(p.kind for points in panels.values() for p in points)
    handles = [
        Line2D([], [], color=colour(k), marker=marker(k), label=title_of("in_context", k), ms=5)
        for k in kinds
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 7))
    return figure


def rounds_figure(results: Results, group: ModelGroup) -> Figure:
    """Dice after each interactive round: a panel for each data set, a line for each kind."""
    settings = [s for s in group.settings if s.protocol == "interactive"]
    data_sets = list(dict.fromkeys(s.data_set for s in settings))
    columns = min(len(data_sets), 3)
    rows = -(-len(data_sets) // columns)
    beside = sorted({s.contexts for s in settings})
    figure = new_figure(WIDTH if columns > 1 else 0.62 * WIDTH, 2.6 * rows + 0.6)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
    for axis, data_set in zip(axes, data_sets, strict=False):
        of_panel = [s for s in settings if s.data_set == data_set]
        for kind in ordered_kinds(s.kind for s in of_panel):
            for contexts in beside:
                line = sorted(
                    (s for s in of_panel if (s.kind, s.contexts) == (kind, contexts)),
                    key=lambda s: s.round,
                )
                dashed = contexts != beside[0]
                _curve(axis, results, line, colour(kind), dashed, x="round", shape=marker(kind))
        axis.set_title(in_figure(data_set), loc="left", weight="bold")
        axis.set(ylabel="Dice", xlabel="prompts on the target, one in each round")
        axis.set_xticks(sorted({s.round for s in settings}))
        _bound(axis)
    for axis in axes[len(data_sets) :]:
        axis.set_axis_off()
    kinds = ordered_kinds(s.kind for s in settings)
    handles = [
        Line2D([], [], color=colour(k), marker=marker(k), label=title_of("interactive", k))
        for k in kinds
    ]
    if len(beside) > 1:
        handles += [
            Line2D([], [], color=QUIET, ls=_dashes(n != beside[0]), label=_beside(n))
            for n in beside
        ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _curve(
    axis: Axes,
    results: Results,
    line: Sequence[Setting],
    shade: str,
    dashed: bool = False,
    x: str = "contexts",
    shape: str = "o",
) -> None:
    points = [(getattr(s, x), i) for s in line if (i := results.interval(s)) is not None]
    if not points:
        return
    places, intervals = zip(*points, strict=True)
    means = [i.mean for i in intervals]
    plain = dashed and x == "contexts"
    axis.plot(
        places, means, color=shade, ls=_dashes(dashed), lw=1.0 if plain else 1.6,
        marker="" if plain and len(places) > 1 else shape,
    )  # fmt: skip
    bounds = [(i.mean, i.mean) if i.low is None else (i.low, i.high) for i in intervals]
    low, high = np.array(bounds, float).T
    if len(places) > 1:
        if not plain:
            axis.fill_between(places, low, high, color=shade, alpha=_BAND, lw=0)
    else:
        axis.vlines(places, low, high, color=shade, lw=1.2)


def _front(axis: Axes, points: Sequence[Timed]) -> None:
    if not points:
        return
    kind = points[0].kind
    front = best_by_time(points)
    strong = kind in _STRONG
    axis.plot(
        [p.seconds for p in points], [p.dice for p in points], ls="", marker=marker(kind),
        color=tint(colour(kind), 0.38), ms=3.6, mew=0,
    )  # fmt: skip
    axis.plot(
        [p.seconds for p in front], [p.dice for p in front], color=colour(kind),
        marker=marker(kind), ms=5.4 if strong else 4.2, mec="white", mew=0.6,
        lw=1.8 if strong else 1.0,
    )  # fmt: skip


def best_by_time(points: Sequence[Timed]) -> list[Timed]:
    """The points with a higher Dice than every point that takes no more time."""
    front: list[Timed] = []
    for point in sorted(points, key=lambda p: (p.seconds, -p.dice)):
        if not front or point.dice > front[-1].dice:
            front.append(point)
    return front


def _annotate_share(axis: Axes, points: Sequence[Timed]) -> None:
    """The Dice of the main kind as a share of that of dense ICL, and both annotation times."""
    kind = main_kind(ordered_kinds(p.kind for p in points))
    fronts = [best_by_time([p for p in points if p.kind == k]) for k in (DENSE, kind)]
    if kind == DENSE or not all(fronts) or not fronts[0][-1].dice:
        return
    dense, best = (front[-1] for front in fronts)
    axis.axhline(dense.dice, color=colour(DENSE), lw=0.8, ls=(0, (1, 2)), zorder=0.5)
    axis.annotate(
        "", (dense.seconds, best.dice), (best.seconds, best.dice),
        arrowprops={"arrowstyle": "-", "color": colour(kind), "lw": 0.8, "ls": (0, (1, 2))},
    )  # fmt: skip
    axis.text(
        0.985, 0.035,
        f"{title_of('in_context', kind)}: {100 * best.dice / dense.dice:.0f} % of dense ICL\n"
        f"in {duration(best.seconds)} instead of {duration(dense.seconds)}",
        color=colour(kind), transform=axis.transAxes, ha="right", va="bottom", fontsize=7.8,
        linespacing=1.35,
    )  # fmt: skip


def _other(axis: Axes, name: str, seconds: float, dice: float) -> None:
    axis.plot([seconds], [dice], ls="", marker="*", color=QUIET, ms=8, mec="white", mew=0.6)
    axis.annotate(
        name, (seconds, dice), (0, 6), textcoords="offset points", ha="center", fontsize=7,
        color=QUIET,
    )  # fmt: skip


def _timed(results: Results, group: ModelGroup, data_set: str) -> list[Timed]:
    return [
        Timed(kind, s.contexts, s.prompts, results.seconds(s), dice)
        for kind in group.kinds(data_set)
        for s in group.of(data_set, kind)
        if (dice := results.mean(s)) is not None
    ]


def _mean_over(panels: Sequence[Sequence[Timed]]) -> list[Timed]:
    """Means of the settings that every data set has."""
    by_setting = [{(p.kind, p.contexts, p.prompts): p for p in points} for points in panels]
    return [
        Timed(
            *setting,
            float(np.mean([points[setting].seconds for points in by_setting])),
            float(np.mean([points[setting].dice for points in by_setting])),
        )
        for setting in by_setting[0]
        if all(setting in points for points in by_setting)
    ]


def _bound(axis: Axes) -> None:
    """Vertical limits with a margin, within 0 and 1, and at least `_MIN_RANGE` apart."""
    axis.margins(y=0.08)
    low, high = axis.get_ylim()
    missing = max(_MIN_RANGE - (high - low), 0)
    low, high = low - missing / 2, high + missing / 2
    axis.set_ylim(max(low, -0.02), min(high, 1.02))


def _shade(base: str, counts: Sequence[int], count: int) -> str:
    if len(counts) < 2:
        return base
    return tint(base, _PALEST + (1 - _PALEST) * counts.index(count) / (len(counts) - 1))


def _dashes(dashed: bool):
    return (0, (3, 2)) if dashed else "-"


def _beside(contexts: int) -> str:
    return f"with {contexts} context images" if contexts else "target alone"
