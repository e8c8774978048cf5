"""The first lines of a report: how often networks are ahead of the baselines, and how much they
look at their targets."""

from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np

from wsicl_jax.config import BaselineName
from wsicl_jax.report.results import Results
from wsicl_jax.report.wording import number, signed

_ENOUGH_CONTEXTS = 4
"""Cells with fewer context images do not count, unless a data set has no larger ones."""


class _Cell(NamedTuple):
    data_set: str
    structure: str
    kind: str
    prompts: int
    contexts: int


def standing(results: Results) -> list[str]:
    """Sentences about each network of some sweeps; none where there is nothing to compare with."""
    means = _means(results)
    networks = [name for name in results.models if name not in get_args(BaselineName)]
    found = [_against_baselines(name, means) for name in networks]
    found += [_looks(name, results) for name in networks]
    return [sentence for sentence in found if sentence]


def _means(results: Results) -> dict[str, dict[_Cell, float]]:
    """Mean Dice over the targets of each cell, by model."""
    values: dict[str, dict[_Cell, list[float]]] = {}
    for setting, scores in results.rows.items():
        if setting.protocol != "in_context":
            continue
        for one in scores:
            cell = _Cell(
                setting.data_set, one.structure, one.kind, setting.prompts, setting.contexts
            )
            if one.dice is not None:
                values.setdefault(setting.model, {}).setdefault(cell, []).append(one.dice)
    return {
        model: {cell: float(np.mean(dice)) for cell, dice in cells.items()}
        for model, cells in values.items()
    }


def _against_baselines(model: str, means: dict[str, dict[_Cell, float]]) -> str:
    baselines = [means[name] for name in get_args(BaselineName) if name in means]
    own = _counted(means.get(model, {}))
    ahead = {
        cell: dice - max(there)
        for cell, dice in own.items()
        if (there := [one[cell] for one in baselines if cell in one])
    }
    if not ahead:
        return ""
    by_kind: dict[str, list[float]] = {}
    for cell, difference in ahead.items():
        by_kind.setdefault(cell.kind, []).append(difference)
    kinds = ", ".join(f"{kind} {_signed_mean(each)}" for kind, each in sorted(by_kind.items()))
    contexts = sorted({cell.contexts for cell in ahead})
    return (
        f"{model} is ahead of the better baseline in {sum(d > 0 for d in ahead.values())} of "
        f"{len(ahead)} cells (data set, structure, kind and number of prompts, {_listed(contexts)} "
        f"context images), on average by {_signed_mean(list(ahead.values()))} Dice: {kinds}."
    )


def _counted(cells: dict[_Cell, float]) -> dict[_Cell, float]:
    most: dict[str, int] = {}
    for cell in cells:
        most[cell.data_set] = max(most.get(cell.data_set, 0), cell.contexts)
    return {
        cell: dice
        for cell, dice in cells.items()
        if cell.contexts >= min(_ENOUGH_CONTEXTS, most[cell.data_set])
    }


def _looks(model: str, results: Results) -> str:
    parts = []
    for replacement, called in (("constant", "a constant"), ("shuffled", "a shuffled")):
        own = [
            one.dice
            for one in results.looking
            if one.model == model and one.replacement == replacement and one.dice is not None
        ]
        if own:
            parts.append(f"{number(float(np.mean(own)))} on {called} target")
    if not parts:
        return ""
    return (
        f"How much {model} looks: its masks have a Dice of {' and '.join(parts)} with its own on "
        "the true one; the lower the better."
    )


def _signed_mean(differences: Sequence[float]) -> str:
    return signed(float(np.mean(differences)))


def _listed(numbers: Sequence[int]) -> str:
    first = ", ".join(map(str, numbers[:-1]))
    return f"{first} or {numbers[-1]}" if first else str(numbers[-1])
