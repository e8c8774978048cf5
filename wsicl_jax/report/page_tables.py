"""The rows of the tables on the page."""

from collections.abc import Sequence
from typing import NamedTuple

from wsicl_jax.report.comparisons import Compared, between_kinds, between_models
from wsicl_jax.report.model_groups import ModelGroup, ordered_kinds
from wsicl_jax.report.results import Results, Setting
from wsicl_jax.report.statistics import Comparison, Interval
from wsicl_jax.report.wording import listed

_MOST_OPEN = 24
"""A table of structures with more rows is closed at first."""


class ScoreRow(NamedTuple):
    """A kind at its main setting, on all structures or on one."""

    setting: Setting
    targets: int
    """Number of scores."""
    measured: int
    """Scores with a Hausdorff distance."""
    fewer: int
    """Scores with a context image that has fewer prompts than requested."""
    seconds: float
    dice: Interval | None
    surface_dice: Interval | None
    hd95_mm: Interval | None


class Grid(NamedTuple):
    """Mean Dice of one group on one data set, by kind and prompts (rows) and contexts."""

    group: str
    contexts: tuple[int, ...]
    rows: tuple[tuple[Setting, tuple[Interval | None, ...]], ...]
    """The first setting of each row, and the values by context size."""


class DataSetTables(NamedTuple):
    """All tables of one data set."""

    name: str
    rows: list[ScoreRow]
    notes: list[str]
    structures: list[tuple[str, list[ScoreRow]]]
    folded: bool
    grids: list[Grid]
    lowest: float
    highest: float
    """Range of mean Dice in the grids."""
    compared: list[Compared]
    widest: float
    """The end of the comparisons' scale."""


class RestorationRow(NamedTuple):
    """One task and metric of restoration."""

    model: str
    data_set: str
    task: str
    metric: str
    values: tuple[Interval | None, ...]
    """By context size; 0 is the degraded image."""
    change: Comparison | None
    """The most context images against the degraded image."""


class RoundsRow(NamedTuple):
    """An interactive session with one kind of prompt on one data set."""

    setting: Setting
    seconds: float
    """Of all rounds together."""
    values: tuple[Interval | None, ...]
    """Dice by round."""


def tables_of(results: Results, groups: Sequence[ModelGroup], data_set: str) -> DataSetTables:
    """All tables of a data set."""
    structures = results.structures(data_set)
    grids = [g for group in groups if (g := grid_of(results, group, data_set))]
    means = [i.mean for grid in grids for _, values in grid.rows for i in values if i]
    pairs = [c for group in groups for c in between_kinds(results, group, data_set)]
    models, not_compared = between_models(results, data_set)
    pairs += models
    ends = [
        abs(value)
        for c in pairs
        for value in (c.result.difference, c.result.low, c.result.high)
        if value is not None
    ]
    rows = main_rows(results, groups, data_set)
    return DataSetTables(
        data_set,
        rows,
        [*notes_on(rows), *not_compared],
        [(s, main_rows(results, groups, data_set, s)) for s in structures]
        if len(structures) > 1
        else [],
        len(structures) * len(rows) > _MOST_OPEN,
        grids,
        min(means, default=0.0),
        max(means, default=1.0),
        pairs,
        max(ends, default=1.0) or 1.0,
    )


def main_rows(
    results: Results,
    groups: Sequence[ModelGroup],
    data_set: str,
    structure: str | None = None,
) -> list[ScoreRow]:
    """A row for each kind and model at its main setting."""
    rows = []
    for group in groups:
        for setting in group.main(data_set).values():
            scores = [s for s in results.rows[setting] if structure in (None, s.structure)]
            if not scores:
                continue
            rows.append(
                ScoreRow(
                    setting,
                    len(scores),
                    sum(s.hd95_mm is not None for s in scores),
                    sum(s.fewer > 0 for s in scores),
                    sum(s.seconds for s in scores) / len(scores),
                    *(
                        results.interval(setting, metric, structure)
                        for metric in ("dice", "surface_dice", "hd95_mm")
                    ),
                )
            )
    order = ordered_kinds(row.setting.kind for row in rows)
    return sorted(rows, key=lambda row: order.index(row.setting.kind))


def notes_on(rows: Sequence[ScoreRow]) -> list[str]:
    """Remarks on rows with too few prompts, or without a metric for some targets."""
    notes = []
    for text, counts in (
        (
            "Some context images of {0} of {1} targets have fewer prompts than requested, because "
            "the structure is small: with {2}.",
            {row: row.fewer for row in rows},
        ),
        (
            "HD95 is missing for {0} of {1} targets with {2}.",
            {row: row.targets - row.measured for row in rows if row.hd95_mm},
        ),
    ):
        same_counts: dict[tuple[int, int], list[str]] = {}
        for row, count in counts.items():
            if count:
                same_counts.setdefault((count, row.targets), []).append(row.setting.title)
        notes += [
            text.format(*numbers, listed(list(dict.fromkeys(titles))))
            for numbers, titles in same_counts.items()
        ]
    return notes


def grid_of(results: Results, group: ModelGroup, data_set: str) -> Grid | None:
    """All in-context settings; None if there are none."""
    kinds = group.kinds(data_set)
    settings = [s for kind in kinds for s in group.of(data_set, kind)]
    contexts = tuple(sorted({s.contexts for s in settings}))
    lines: dict[tuple[str, int], dict[int, Setting]] = {}
    for setting in settings:
        lines.setdefault((setting.kind, setting.prompts), {})[setting.contexts] = setting
    rows = tuple(
        (
            next(iter(line.values())),
            tuple(results.interval(line[n]) if n in line else None for n in contexts),
        )
        for line in lines.values()
    )
    return Grid(group.name, contexts, rows) if rows else None


def rounds_rows(results: Results, groups: Sequence[ModelGroup]) -> list[RoundsRow]:
    """A row for each interactive session."""
    lines: dict[tuple, list[Setting]] = {}
    for group in groups:
        for s in group.settings:
            if s.protocol == "interactive":
                lines.setdefault((s.data_set, s.model, s.kind, s.contexts), []).append(s)
    rows = []
    for line in lines.values():
        line.sort(key=lambda s: s.round)
        values = tuple(results.interval(s) for s in line)
        rows.append(RoundsRow(line[-1], results.seconds(line[-1]), values))
    return rows


def restoration_rows(results: Results) -> tuple[tuple[int, ...], list[RestorationRow]]:
    """The context sizes, and a row for each task and metric."""
    place = {name: number for number, name in enumerate(results.data_sets)}
    settings = [s for s in results.rows if s.protocol == "restoration"]
    settings.sort(key=lambda s: place[s.data_set])
    sizes = tuple(sorted({s.contexts for s in settings}))
    lines: dict[tuple[str, str, str], dict[int, Setting]] = {}
    for s in settings:
        lines.setdefault((s.model, s.data_set, s.kind), {})[s.contexts] = s
    rows = []
    for (model, data_set, task), line in lines.items():
        for metric in ("psnr", "ssim"):
            values = tuple(results.interval(line[n], metric) if n in line else None for n in sizes)
            most, degraded = line[max(line)], line.get(0)
            change = None
            if degraded and most != degraded:
                change = results.difference(most, degraded, metric)
            rows.append(RestorationRow(model, data_set, task, metric, values, change))
    return sizes, rows
