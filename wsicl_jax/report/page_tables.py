"""The report's numbers as CSV for programs, and as rows for the page."""

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from wsicl_jax.evaluate.records import Score
from wsicl_jax.report.comparisons import Compared, between_kinds, between_models
from wsicl_jax.report.model_groups import ModelGroup, ordered_kinds
from wsicl_jax.report.results import METRICS, Results, Setting
from wsicl_jax.report.statistics import Comparison, Interval
from wsicl_jax.report.wording import listed
from wsicl_jax.storage.safe_names import csv_cell
from wsicl_jax.terminal.progress import track

ALL = "all structures"
"""Stands for all structures of a data set, in the summary and in tables."""

_MOST_OPEN = 24
"""A table of structures with more rows is folded."""


class ScoreRow(NamedTuple):
    """A kind at its main setting, on all structures or one."""

    setting: Setting
    targets: int
    """Rows, of which every metric's mean is taken."""
    measured: int
    """Rows that have a Hausdorff distance."""
    fewer: int
    """Rows with a context image that has fewer prompts than asked for."""
    seconds: float
    dice: Interval | None
    surface_dice: Interval | None
    hd95_mm: Interval | None


class Grid(NamedTuple):
    """Mean Dice of one line-up on one data set, by kind and prompts (rows) and contexts."""

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
    """Mean Dice, of the grids' cells."""
    compared: list[Compared]
    widest: float
    """The end of the comparisons' scale."""


class RestorationRow(NamedTuple):
    """One task and metric of image to image."""

    model: str
    data_set: str
    task: str
    metric: str
    values: tuple[Interval | None, ...]
    """By context size; 0 is the image as it was given."""
    change: Comparison | None
    """The most context images against the image as it was given."""


class RoundsRow(NamedTuple):
    """An interactive session with one kind of prompt on one data set."""

    setting: Setting
    seconds: float
    """Of all rounds together."""
    values: tuple[Interval | None, ...]
    """Dice by round."""


def scores_csv(results: Results) -> bytes:
    """Every row as the sweeps wrote it; empty where nothing was measured."""
    names = [field.name for field in fields(Score)]
    return _csv(names, ([getattr(score, name) for name in names] for score in results.scores))


def summary_csv(results: Results) -> bytes:
    """Means with 95 % intervals of every setting, over all structures and for each.

    Columns after the setting: targets and subjects, mean annotation seconds, and for each metric
    its mean, both ends of the interval, and of how many targets it is.
    """
    header = [
        "model", "data_set", "structure", "protocol", "kind", "contexts", "prompts", "round",
        "targets", "subjects", "seconds",
    ]  # fmt: skip
    header += [f"{m}{end}" for m in METRICS for end in ("", "_low", "_high", "_targets")]
    rows: list[list[Any]] = []
    with track(len(results.rows), "means and intervals") as bar:
        for setting, scores in results.rows.items():
            rows += [
                _summary(results, setting, structure)
                for structure in (None, *_structures(setting, scores))
            ]
            bar.advance()
    return _csv(header, rows)


def tables_of(results: Results, found: Sequence[ModelGroup], data_set: str) -> DataSetTables:
    """All tables of a data set."""
    structures = results.structures(data_set)
    grids = [g for group in found if (g := grid_of(results, group, data_set))]
    means = [i.mean for grid in grids for _, values in grid.rows for i in values if i]
    pairs = [c for group in found for c in between_kinds(results, group, data_set)]
    models, without = between_models(results, data_set)
    pairs += models
    ends = [
        abs(value)
        for c in pairs
        for value in (c.result.difference, c.result.low, c.result.high)
        if value is not None
    ]
    rows = main_rows(results, found, data_set)
    return DataSetTables(
        data_set,
        rows,
        [*notes_on(rows), *without],
        [(s, main_rows(results, found, data_set, s)) for s in structures]
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
    model_groups: Sequence[ModelGroup],
    data_set: str,
    structure: str | None = None,
) -> list[ScoreRow]:
    """A row for each kind and model at its main setting."""
    found = []
    for group in model_groups:
        for setting in group.main(data_set).values():
            scores = [s for s in results.rows[setting] if structure in (None, s.structure)]
            if not scores:
                continue
            found.append(
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
    order = ordered_kinds(row.setting.kind for row in found)
    return sorted(found, key=lambda row: order.index(row.setting.kind))


def notes_on(rows: Sequence[ScoreRow]) -> list[str]:
    """What a reader must know of rows whose numbers are not of all that was asked for."""
    notes = []
    for text, counts in (
        (
            "Some context images of {0} of {1} targets had room for fewer prompts than asked for, "
            "the structure being small: with {2}.",
            {row: row.fewer for row in rows},
        ),
        (
            "HD95 is missing for {0} of {1} targets with {2}.",
            {row: row.targets - row.measured for row in rows if row.hd95_mm},
        ),
    ):
        alike: dict[tuple[int, int], list[str]] = {}
        for row, count in counts.items():
            if count:
                alike.setdefault((count, row.targets), []).append(row.setting.title)
        notes += [
            text.format(*numbers, listed(list(dict.fromkeys(titles))))
            for numbers, titles in alike.items()
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


def rounds_rows(results: Results, model_groups: Sequence[ModelGroup]) -> list[RoundsRow]:
    """A row for each interactive session."""
    lines: dict[tuple, list[Setting]] = {}
    for group in model_groups:
        for s in group.settings:
            if s.protocol == "interactive":
                lines.setdefault((s.data_set, s.model, s.kind, s.contexts), []).append(s)
    found = []
    for line in lines.values():
        line.sort(key=lambda s: s.round)
        values = tuple(results.interval(s) for s in line)
        found.append(RoundsRow(line[-1], results.seconds(line[-1]), values))
    return found


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
            most, given = line[max(line)], line.get(0)
            change = results.difference(most, given, metric) if given and most != given else None
            rows.append(RestorationRow(model, data_set, task, metric, values, change))
    return sizes, rows


def _summary(results: Results, setting: Setting, structure: str | None) -> list[Any]:
    here = [s for s in results.rows[setting] if structure in (None, s.structure)]
    row = [
        setting.model,
        setting.data_set,
        structure or (setting.kind if setting.protocol == "restoration" else ALL),
        setting.protocol,
        setting.kind,
        setting.contexts,
        None if setting.protocol == "interactive" else setting.prompts,
        setting.round,
        len(here),
        len({s.subject for s in here}),
        sum(s.seconds for s in here) / len(here),
    ]
    for metric in METRICS:
        found = results.interval(setting, metric, structure)
        values = sum(getattr(s, metric) is not None for s in here)
        row += [found.mean, found.low, found.high, values] if found else [None] * 3 + [0]
    return row


def _structures(setting: Setting, scores: Sequence[Score]) -> tuple[str, ...]:
    if setting.protocol == "restoration":  # the task is its only "structure"
        return ()
    return tuple(dict.fromkeys(score.structure for score in scores))


def _csv(header: Sequence[str], rows) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, header))
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()
