"""The report's CSV files: every score, and means with intervals."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from wsicl_jax.evaluate.records import Score
from wsicl_jax.report.results import METRICS, Results, Setting
from wsicl_jax.storage.safe_names import csv_cell
from wsicl_jax.terminal.progress import track

ALL = "all structures"
"""Stands for all structures of a data set in the summary."""


def scores_csv(results: Results) -> bytes:
    """Every score as the sweeps wrote it; a metric that was not measured is empty."""
    names = [field.name for field in fields(Score)]
    return _csv(names, ([getattr(score, name) for name in names] for score in results.scores))


def summary_csv(results: Results) -> bytes:
    """Means with 95 % intervals of every setting, over all structures and for each.

    Columns after the setting: numbers of targets and subjects, mean annotation seconds, and for
    each metric its mean, both ends of the interval, and the number of targets that have it.
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


def _summary(results: Results, setting: Setting, structure: str | None) -> list[Any]:
    scores = [s for s in results.rows[setting] if structure in (None, s.structure)]
    row = [
        setting.model,
        setting.data_set,
        structure or (setting.kind if setting.protocol == "restoration" else ALL),
        setting.protocol,
        setting.kind,
        setting.contexts,
        None if setting.protocol == "interactive" else setting.prompts,
        setting.round,
        len(scores),
        len({s.subject for s in scores}),
        sum(s.seconds for s in scores) / len(scores),
    ]
    for metric in METRICS:
        interval = results.interval(setting, metric, structure)
        values = sum(getattr(s, metric) is not None for s in scores)
        row += [*interval[:3], values] if interval else [None] * 3 + [0]
    return row


def _structures(setting: Setting, scores: Sequence[Score]) -> tuple[str, ...]:
    if setting.protocol == "restoration":  # the task stands for the structure
        return ()
    return tuple(dict.fromkeys(score.structure for score in scores))


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, header))
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()
