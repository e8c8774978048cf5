"""Results of an ablation, as tables for the terminal and as CSV."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text

from wsicl_jax.config import config_to_dict
from wsicl_jax.storage.safe_names import csv_cell
from wsicl_jax.terminal.progress import duration
from wsicl_jax.tools.ablate.cells import SEED, Cell, short_key
from wsicl_jax.tools.ablate.states import Progress

_MAX_SCORES = 9
"""Columns of a table of scores; the CSV has all scores."""


def state_table(
    cells: Sequence[Cell], progress: Sequence[Progress], *, settings: bool = False
) -> Table:
    """How far each cell is, with its mean Dice over all structures and kinds of prompts.

    With `settings`, a column has the settings of each cell, one a line.
    """
    table = Table("cell", *["settings"] * settings, "state")
    for heading in ("Dice", "time"):
        table.add_column(heading, justify="right")
    for cell, own in zip(cells, progress, strict=True):
        changes = "\n".join(f"{key}={value}" for key, value in cell.settings.items())
        dice = _number([fmean(own.dice.values())]) if own.dice else "-"
        time = duration(own.seconds) if own.seconds else "-"
        row = (cell.name, *[changes] * settings, _state(cell, own), dice, time)
        table.add_row(*map(Text, row))
    return table


def dice_table(cells: Sequence[Cell], progress: Sequence[Progress]) -> Table:
    """Mean Dice of the finished cells by structure and kind of prompt, beside their settings."""
    return _table_of_scores("mean Dice", cells, progress, _keys(cells))


def seeds_table(cells: Sequence[Cell], progress: Sequence[Progress]) -> Table:
    """Mean and standard deviation over the finished cells that differ in their seed only."""
    keys = [key for key in _keys(cells) if key != SEED]
    title = "mean Dice (standard deviation over seeds)"
    return _table_of_scores(title, cells, progress, keys)


def as_csv(cells: Sequence[Cell], progress: Sequence[Progress]) -> str:
    """A line for each cell: state, seconds, settings, mean Dice of all and of each score."""
    keys, scores = _keys(cells), _scores(progress)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    heading = ["cell", "state", "step", "seconds", *keys, "mean_dice", *scores]
    lines.writerow(map(csv_cell, heading))
    for cell, own in zip(cells, progress, strict=True):
        dice = own.dice
        row = [cell.name, own.state, own.step, round(own.seconds, 1)]
        row += [_value(cell, key) for key in keys]
        row += [fmean(dice.values()) if dice else "", *(dice.get(score, "") for score in scores)]
        lines.writerow(map(csv_cell, row))
    return text.getvalue()


def _table_of_scores(
    title: str, cells: Sequence[Cell], progress: Sequence[Progress], keys: Sequence[str]
) -> Table:
    """A row for each group of finished cells that these settings do not tell apart."""
    dice_of = {cell.name: dice for cell, dice in zip(cells, _averaged(progress), strict=True)}
    scores = list(dict.fromkeys(score for dice in dice_of.values() for score in dice))
    table = _empty_table(title, cells, keys, scores)
    groups: dict[tuple[str, ...], list[Mapping[str, float]]] = {}
    for cell, own in zip(cells, progress, strict=True):
        if own.state == "finished":
            groups.setdefault(_labels(cell, cells, keys), []).append(dice_of[cell.name])
    for labels, group in groups.items():
        values = ([dice[score] for dice in group if score in dice] for score in scores)
        table.add_row(*map(Text, (*labels, *map(_number, values))))
    return table


def _averaged(progress: Sequence[Progress]) -> list[Mapping[str, float]]:
    """Dice of each cell; the mean over a data set's structures, if they are too many to show."""
    if len(_scores(progress)) <= _MAX_SCORES:
        return [own.dice for own in progress]
    averaged = []
    for own in progress:
        groups: dict[str, list[float]] = {}
        for score, dice in own.dice.items():
            data_set, _, rest = score.partition("/")
            name = f"{data_set}/all structures/{rest.partition('/')[2]}"
            groups.setdefault(name, []).append(dice)
        averaged.append({name: fmean(values) for name, values in groups.items()})
    return averaged


def _empty_table(
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
    """The first cells of a row: name and settings."""
    name = cell.name if cell.is_named else "-"
    if SEED not in keys and SEED in cell.settings:
        name = name.removesuffix(f",{SEED}={cell.settings[SEED]}")
    names = (name,) if any(other.is_named for other in cells) else ()
    return (*names, *(str(_value(cell, key)) for key in keys))


def _keys(cells: Sequence[Cell]) -> list[str]:
    """All settings in which cells differ."""
    return list(dict.fromkeys(key for cell in cells for key in cell.settings))


def _scores(progress: Sequence[Progress]) -> list[str]:
    return list(dict.fromkeys(score for own in progress for score in own.dice))


def _value(cell: Cell, key: str) -> Any:
    """The value of a setting in a cell, also if only other cells set it."""
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
