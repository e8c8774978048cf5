"""What an ablation has found, as tables for people and as CSV for programs."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text

from wsicl_jax.config import config_to_dict
from wsicl_jax.storage.safe_names import csv_cell
from wsicl_jax.terminal.progress import duration
from wsicl_jax.tools.ablate.cells import SEED, Cell, short_key
from wsicl_jax.tools.ablate.states import Progress

_MOST_SCORES = 9
"""Columns of a table of scores; the CSV has all."""


def state_table(
    cells: Sequence[Cell], found: Sequence[Progress], *, settings: bool = False
) -> Table:
    """How far each cell is, with its Dice over all structures and kinds of prompts.

    With `settings` it also has what each cell changes, line by line.
    """
    table = Table("cell", *["settings"] * settings, "state")
    for heading in ("Dice", "time"):
        table.add_column(heading, justify="right")
    for cell, progress in zip(cells, found, strict=True):
        changes = "\n".join(f"{key}={value}" for key, value in cell.settings.items())
        dice = _number([fmean(progress.dice.values())]) if progress.dice else "-"
        time = duration(progress.seconds) if progress.seconds else "-"
        row = (cell.name, *[changes] * settings, _state(cell, progress), dice, time)
        table.add_row(*map(Text, row))
    return table


def dice_table(cells: Sequence[Cell], found: Sequence[Progress]) -> Table:
    """Mean Dice by structure and kind of prompt of the finished cells, beside their settings."""
    found, keys = _fewer(found), _keys(cells)
    scores = _scores(found)
    table = _table_of_scores("mean Dice", cells, keys, scores)
    for cell, progress in zip(cells, found, strict=True):
        if progress.state == "finished":
            numbers = [_number([progress.dice[s]]) if s in progress.dice else "-" for s in scores]
            table.add_row(*map(Text, (*_labels(cell, cells, keys), *numbers)))
    return table


def seeds_table(cells: Sequence[Cell], found: Sequence[Progress]) -> Table:
    """The same over seeds: mean and standard deviation of the finished cells that differ in
    nothing else."""
    found, keys = _fewer(found), [key for key in _keys(cells) if key != SEED]
    scores = _scores(found)
    table = _table_of_scores("mean Dice (standard deviation over seeds)", cells, keys, scores)
    groups: dict[tuple[str, ...], list[Progress]] = {}
    for cell, progress in zip(cells, found, strict=True):
        if progress.state == "finished":
            groups.setdefault(_labels(cell, cells, keys), []).append(progress)
    for labels, group in groups.items():
        values = ([p.dice[score] for p in group if score in p.dice] for score in scores)
        table.add_row(*map(Text, (*labels, *map(_number, values))))
    return table


def as_csv(cells: Sequence[Cell], found: Sequence[Progress]) -> str:
    """A line for each cell: state, seconds, settings, mean Dice of all and of each score."""
    keys, scores = _keys(cells), _scores(found)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    heading = ["cell", "state", "step", "seconds", *keys, "mean_dice", *scores]
    lines.writerow(map(csv_cell, heading))
    for cell, progress in zip(cells, found, strict=True):
        dice = progress.dice
        row = [cell.name, progress.state, progress.step, round(progress.seconds, 1)]
        row += [_value(cell, key) for key in keys]
        row += [fmean(dice.values()) if dice else "", *(dice.get(score, "") for score in scores)]
        lines.writerow(map(csv_cell, row))
    return text.getvalue()


def _fewer(found: Sequence[Progress]) -> Sequence[Progress]:
    """With the mean over a data set's structures, if they are too many for a table."""
    if len(_scores(found)) <= _MOST_SCORES:
        return found
    fewer = []
    for progress in found:
        groups: dict[str, list[float]] = {}
        for score, dice in progress.dice.items():
            data_set, _, rest = score.partition("/")
            name = f"{data_set}/all structures/{rest.partition('/')[2]}"
            groups.setdefault(name, []).append(dice)
        means = {name: fmean(values) for name, values in groups.items()}
        fewer.append(replace(progress, dice=means))
    return fewer


def _table_of_scores(
    title: str, cells: Sequence[Cell], keys: Sequence[str], scores: Sequence[str]
) -> Table:
    table = Table(title=title)
    names = ["cell"] if any(cell.is_named for cell in cells) else []
    for heading in [*names, *(short_key(key, keys) for key in keys)]:
        table.add_column(Text(heading))
    data_sets = {score.partition("/")[0] for score in scores}
    for score in scores:
        heading = score if len(data_sets) > 1 else score.partition("/")[2]
        table.add_column(Text(re.sub("[/,]", "\n", heading)), justify="right")
    return table


def _labels(cell: Cell, cells: Sequence[Cell], keys: Sequence[str]) -> tuple[str, ...]:
    """What a row of a table of scores begins with."""
    name = cell.name if cell.is_named else "-"
    if SEED not in keys and SEED in cell.settings:
        name = name.removesuffix(f",{SEED}={cell.settings[SEED]}")
    names = (name,) if any(other.is_named for other in cells) else ()
    return (*names, *(str(_value(cell, key)) for key in keys))


def _keys(cells: Sequence[Cell]) -> list[str]:
    """All settings that some cell has of its own."""
    return list(dict.fromkeys(key for cell in cells for key in cell.settings))


def _scores(found: Sequence[Progress]) -> list[str]:
    return list(dict.fromkeys(score for progress in found for score in progress.dice))


def _value(cell: Cell, key: str) -> Any:
    """The value that a setting has in a cell, also where another cell changes it."""
    value: Any = config_to_dict(cell.config)
    for part in key.split("."):
        try:
            value = value[int(part) if isinstance(value, list) else part]
        except (LookupError, TypeError, ValueError):
            return "-"
    return value


def _number(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f"\n({stdev(values):.3f})" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


def _state(cell: Cell, progress: Progress) -> str:
    steps = cell.config.train.steps
    step = f", {progress.step} of {steps} steps" if 0 < progress.step < steps else ""
    note = f": {progress.note}" if progress.note else ""
    return f"{progress.state}{step}{note}"
