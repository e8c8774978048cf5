"""The first sentences of a report: networks against baselines, and their target dependence."""

from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np

from wsicl_jax.config import BaselineName
from wsicl_jax.evaluate.protocols.target_dependence import Replacement
from wsicl_jax.evaluate.summaries import negative_prompts
from wsicl_jax.report.results import Results
from wsicl_jax.report.wording import listed, number, signed

_MIN_CONTEXTS = 4
"""Smaller context sets do not count, unless a data set has no larger ones."""


class _Cell(NamedTuple):
    data_set: str
    structure: str
    kind: str
    prompts: int
    contexts: int


def headlines(results: Results) -> list[str]:
    """Sentences about each network; none without baselines, target dependence, negative prompts."""
    means = _mean_dice(results)
    networks = [name for name in results.models if name not in get_args(BaselineName)]
    sentences = [_against_baselines(name, means) for name in networks]
    sentences += [_target_dependence(name, results) for name in networks]
    sentences += [_negative_prompts(name, results) for name in networks]
    return [sentence for sentence in sentences if sentence]


def _mean_dice(results: Results) -> dict[str, dict[_Cell, float]]:
    """Mean Dice over the targets of each cell, by model."""
    values: dict[str, dict[_Cell, list[float]]] = {}
    for setting, scores in results.rows.items():
        if setting.protocol != "in_context":
            continue
        for one in scores:
            if one.dice is not None:
                cell = _Cell(
                    setting.data_set, one.structure, one.kind, setting.prompts, setting.contexts
                )
                values.setdefault(setting.model, {}).setdefault(cell, []).append(one.dice)
    return {
        model: {cell: float(np.mean(dice)) for cell, dice in cells.items()}
        for model, cells in values.items()
    }


def _against_baselines(model: str, means: dict[str, dict[_Cell, float]]) -> str:
    """In how many cells the mean Dice of a network is above that of the best baseline."""
    baselines = [means[name] for name in get_args(BaselineName) if name in means]
    most: dict[str, int] = {}
    for cell in means.get(model, {}):
        most[cell.data_set] = max(most.get(cell.data_set, 0), cell.contexts)
    differences: dict[_Cell, float] = {}
    for cell, dice in means.get(model, {}).items():
        of_baselines = [cells[cell] for cells in baselines if cell in cells]
        if of_baselines and cell.contexts >= min(_MIN_CONTEXTS, most[cell.data_set]):
            differences[cell] = dice - max(of_baselines)
    if not differences:
        return ""
    kinds = ", ".join(
        f"{kind} {_signed_mean([d for cell, d in differences.items() if cell.kind == kind])}"
        for kind in sorted({cell.kind for cell in differences})
    )
    sizes = listed([str(n) for n in sorted({cell.contexts for cell in differences})], "or")
    return (
        f"The mean Dice of {model} is above that of the best baseline in "
        f"{sum(d > 0 for d in differences.values())} of {len(differences)} cells, on average by "
        f"{_signed_mean(list(differences.values()))} ({kinds}). A cell is a data set, a structure, "
        f"and a kind and number of prompts, with {sizes} context images. These are counts, not "
        "tests."
    )


def _target_dependence(model: str, results: Results) -> str:
    """Dice of the masks on replaced targets with those on the true ones."""
    parts = []
    for replacement in get_args(Replacement):
        dice = [
            one.dice
            for one in results.target_dependence
            if (one.model, one.replacement) == (model, replacement) and one.dice is not None
        ]
        if dice:
            parts.append(f"{number(float(np.mean(dice)))} with a {replacement} target")
    if not parts:
        return ""
    return (
        f"Target dependence of {model}: its masks have a Dice of {listed(parts)} in the place of "
        "the true one, compared with its own masks on the true one. Lower is better; 1 means that "
        "the masks come from the prompts alone."
    )


def _negative_prompts(model: str, results: Results) -> str:
    found = negative_prompts([one for one in results.scores if one.model == model])
    return f"Negative prompts with {model}: {found}." if found else ""


def _signed_mean(differences: Sequence[float]) -> str:
    return signed(float(np.mean(differences)))
