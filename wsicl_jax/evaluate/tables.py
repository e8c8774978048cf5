"""Scores as a table for people and as JSON for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from wsicl_jax.config import EvaluationConfig, PromptKind
from wsicl_jax.evaluate.protocol import Score
from wsicl_jax.prompts import SECONDS


def mean_dice(scores: Sequence[Score]) -> dict[str, float]:
    """Mean Dice by `data set/structure/kind`, in the order of the scores."""
    groups: dict[str, list[float]] = {}
    for score in scores:
        key = f"{score.dataset}/{score.structure}/{score.kind}"
        groups.setdefault(key, []).append(score.dice)
    return {key: float(np.mean(values)) for key, values in groups.items()}


def annotation_seconds(kind: PromptKind, settings: EvaluationConfig) -> float:
    """What the prompts of one context set cost a person (the paper's approximation)."""
    count = 1 if kind == "mask" else settings.prompts
    return settings.contexts * count * SECONDS[kind]


def dice_table(scores: Sequence[Score], settings: EvaluationConfig) -> Table:
    """Mean Dice: a row for each structure, a column for each kind of prompt."""
    kinds = list(dict.fromkeys(score.kind for score in scores))
    table = Table(
        title=f"Dice, {settings.contexts} contexts, {settings.prompts} boxes or points on each"
    )
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
    table.add_section()
    if len(rows) > 1:
        means = (_mean([s.dice for s in scores if s.kind == kind]) for kind in kinds)
        table.add_row("all", "", "", *means)
    seconds = (f"{annotation_seconds(kind, settings):.0f} s" for kind in kinds)
    table.add_row("annotating the contexts", "", "", *seconds)
    return table


def left_out_table(left_out: Mapping[str, str]) -> Table:
    """Structures that were not evaluated, each with its reason."""
    table = Table("not evaluated", "reason")
    for structure, reason in left_out.items():
        table.add_row(structure, reason)
    return table


def report(scores: Sequence[Score], settings: EvaluationConfig, **about: Any) -> dict[str, Any]:
    """Everything measured, for a JSON file: what was run, means, and every trial."""
    kinds = dict.fromkeys(score.kind for score in scores)
    return {
        **about,
        "annotation_seconds": {kind: annotation_seconds(kind, settings) for kind in kinds},
        "mean_dice": mean_dice(scores),
        "trials": [score._asdict() for score in scores],
    }


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if values else "-"
