"""Scores as a table for people and as JSON for programs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from wsicl_jax.evaluate.protocol import Score


def mean_dice(scores: Sequence[Score]) -> dict[str, float]:
    """Mean Dice by `data set/structure/kind`, in the order of the scores."""
    groups: dict[str, list[float]] = {}
    for score in scores:
        key = f"{score.dataset}/{score.structure}/{score.kind}"
        groups.setdefault(key, []).append(score.dice)
    return {key: float(np.mean(values)) for key, values in groups.items()}


def dice_table(scores: Sequence[Score], title: str) -> Table:
    """Mean Dice: a row for each structure, a column for each kind of prompt."""
    kinds = list(dict.fromkeys(score.kind for score in scores))
    table = Table(title=title)
    table.add_column("data set")
    table.add_column("structure")
    table.add_column("targets", justify="right")
    for kind in kinds:
        table.add_column(kind, justify="right")
    rows = list(dict.fromkeys((score.dataset, score.structure) for score in scores))
    for dataset, structure in rows:
        here = [s for s in scores if (s.dataset, s.structure) == (dataset, structure)]
        table.add_row(
            dataset,
            structure,
            str(len({score.target for score in here})),
            *(_mean([s.dice for s in here if s.kind == kind]) for kind in kinds),
        )
    if len(rows) > 1:
        table.add_section()
        table.add_row(
            "all", "", "", *(_mean([s.dice for s in scores if s.kind == kind]) for kind in kinds)
        )
    return table


def report(scores: Sequence[Score], **about: Any) -> dict[str, Any]:
    """Everything measured, for a JSON file: what was run, means, and every trial."""
    return {
        **about,
        "mean_dice": mean_dice(scores),
        "trials": [score._asdict() for score in scores],
    }


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if values else "-"
