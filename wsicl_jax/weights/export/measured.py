"""Collects measured Dice scores of a network for its card, from logs and from `wsicl eval`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsicl_jax.errors import ExportError
from wsicl_jax.storage.documents import parse_json, read_file


@dataclass(frozen=True)
class Row:
    """One mean Dice."""

    what: str
    """Data set, structure and setting."""
    dice: float
    targets: int | None
    """How many targets it is the mean of; None: the source does not say."""


@dataclass(frozen=True)
class Measured:
    """Mean Dice scores of one evaluation."""

    source: str
    """The log or file that has them."""
    rows: tuple[Row, ...]


def measured_in_log(entries: Sequence[Mapping[str, Any]], step: int | None) -> list[Measured]:
    """The Dice scores of a step in a run's log; empty if the run was not evaluated at this step."""
    scores: dict[str, float] = {}
    for entry in entries:
        if step is not None and entry.get("step") == step:
            # Scores are named `data set/structure/kind`, SSIM `data set/task/contexts=N`.
            scores |= {
                name: value
                for name, value in entry.items()
                if "/" in name and not name.rpartition("/")[2].startswith("contexts=")
            }
    rows = tuple(Row(name, float(value), None) for name, value in scores.items())
    return [Measured(f"the log of the run, at step {step:,}", rows)] if rows else []


def measured_in_scores(path: Path, step: int | None) -> list[Measured]:
    """The mean Dice scores in a file of `wsicl eval --json`.

    Raises:
        ExportError: it is not such a file, has no Dice, or is of another step than `step`.
    """
    try:
        content = parse_json(read_file(path), nan=True)
        of_step = content.get("step")
        groups: dict[str, list[float]] = {}
        for trial in content["trials"]:
            if trial["dice"] is not None:
                groups.setdefault(_what(trial), []).append(_dice(trial["dice"]))
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise ExportError(
            f"{path} cannot be read as scores: {type(error).__name__} {error}; give a file of "
            "`wsicl eval --json`"
        ) from None
    if of_step is not None and step is not None and of_step != step:
        raise ExportError(
            f"{path} has the scores of step {of_step}, but the network is that of step {step}; "
            "evaluate the exported checkpoint"
        )
    if not groups:
        raise ExportError(f"{path} has no Dice score in it; give one of `wsicl eval --json`")
    rows = tuple(Row(what, float(np.mean(values)), len(values)) for what, values in groups.items())
    at = "" if of_step is None else f", at step {of_step:,}"
    return [Measured(f"`wsicl eval`, in {path.name}{at}", rows)]


def _what(trial: Mapping[str, Any]) -> str:
    where = f"{trial['data_set']}/{trial['structure']}"
    if trial["protocol"] == "interactive":
        return f"{where}, interactive {trial['kind']}, round {trial['round']}"
    return (
        f"{where}, {trial['kind']}, {trial['prompts']} prompts on each of {trial['contexts']} "
        "contexts"
    )


def _dice(value: Any) -> float:
    if not (isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"{value!r} is not a Dice score")
    return float(value)
