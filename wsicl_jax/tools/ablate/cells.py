"""The cells of an ablation: every combination of settings, named by its settings."""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from wsicl_jax.config import AblationConfig, ExperimentConfig, config_to_dict, load_config
from wsicl_jax.errors import ConfigError

JOBS = "jobs"
"""Directory, beside the cells, with the records of their trainings."""

MAX_LETTERS = 100
"""Letters of a cell's name; file systems allow 255 bytes."""

SEED = "seed"

_NAME = "name"
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+~-]*", re.ASCII)
_MAX_LINES = 20


@dataclass(frozen=True)
class Cell:
    """One run of an ablation."""

    name: str
    """Its directory in that of the ablation, such as `contexts=2-2,count=3-3,seed=0`."""
    settings: Mapping[str, Any]
    """The settings that it changes: dotted setting to value."""
    config: ExperimentConfig
    """Its whole experiment, with its directory as `run`."""
    is_named: bool
    """Whether the ablation names it; else its name lists its settings."""


def cells_of(ablation: AblationConfig) -> list[Cell]:
    """All cells: those of the grid, whose last setting changes first, then the listed ones.

    Raises:
        ConfigError: there is none, or something is wrong with them; one line for each problem.
    """
    combinations = list(_combinations(ablation))
    if not combinations:
        raise ConfigError("there is nothing to vary; give a grid, cells or seeds")
    problems = _Problems(len(combinations))
    for problem in _wrong_keys(ablation, [settings for _, settings in combinations]):
        problems.note(problem)
    cells = []
    named = zip(_names(combinations, problems), combinations, strict=True)
    for name, (own_name, settings) in named:
        run = f"run={Path(ablation.output) / name}"
        overrides = [_override(*item) for item in (ablation.overrides | settings).items()]
        try:
            config = load_config(ablation.base, [*overrides, run])
        except ConfigError as error:
            problems.note(str(error), name)
        else:
            cells.append(Cell(name, settings, config, bool(own_name)))
    problems.raise_any()
    _note_equal(cells, problems)
    problems.raise_any()
    return cells


def short_key(key: str, keys: Collection[str]) -> str:
    """The shortest end of a dotted setting that no other of these settings has."""
    words = key.split(".")
    for start in reversed(range(len(words))):
        short = ".".join(words[start:])
        same_end = [other for other in keys if f".{other}".endswith(f".{short}")]
        if same_end == [key] and not words[start].isdecimal():
            return _safe(short)
    return _safe(key)


def _combinations(ablation: AblationConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name in the ablation, or an empty text, and settings of each cell."""
    listed = [(str(cell.get(_NAME) or ""), cell) for cell in ablation.cells]
    if ablation.grid:
        values = itertools.product(*ablation.grid.values())
        grid = [("", dict(zip(ablation.grid, chosen, strict=True))) for chosen in values]
        listed = [*grid, *listed]
    elif not listed and ablation.seeds:
        listed = [("", {})]
    for name, cell in listed:
        settings = {key: value for key, value in cell.items() if key != _NAME}
        for seed in ablation.seeds:
            yield name and f"{name},{SEED}={seed}", settings | {SEED: seed}
        if not ablation.seeds:
            yield name, settings


def _wrong_keys(
    ablation: AblationConfig, combinations: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    own = dict.fromkeys([*ablation.grid, *(key for cell in ablation.cells for key in cell)])
    for key in dict.fromkeys([*own, *ablation.overrides]):
        if key == "run":
            yield "run cannot be set by cells: each cell is the run OUTPUT/NAME"
        if inner := _first_setting_of_section(key):
            yield f"{key} is a section; set its settings one by one, such as {key}.{inner}"
    if ablation.seeds and SEED in own:
        yield "seed is set by cells and by seeds; leave one out"
    for key in ablation.overrides:
        if key in ablation.grid or all(key in settings for settings in combinations):
            yield f"{key} is set for all cells, but each has a value of its own; leave one out"


def _first_setting_of_section(key: str) -> str:
    """The first setting of the section that a key names; empty: the key names no section."""
    kind: Any = ExperimentConfig
    for part in key.split("."):
        kind = next((f.type for f in fields(kind) if f.name == part), None)
        if not is_dataclass(kind):
            return ""
    return fields(kind)[0].name


def _override(key: str, value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return f"{key}=" + text.removesuffix("...\n").strip()


def _names(
    combinations: Sequence[tuple[str, Mapping[str, Any]]], problems: "_Problems"
) -> list[str]:
    """Names that are safe for file systems, also for those that do not distinguish A and a."""
    plain = [own_name or _name(settings) for own_name, settings in combinations]
    count = Counter(name.lower() for name in plain)
    names = []
    for name, (own_name, settings) in zip(plain, combinations, strict=True):
        if own_name and (not _SAFE.fullmatch(name) or len(name) > MAX_LETTERS or name == JOBS):
            problems.note(
                f"{name!r} cannot be the name of a cell; expected up to {MAX_LETTERS} letters, "
                f"digits and . _ , = + -, and not {JOBS}"
            )
        if not name:
            problems.note("a cell without settings needs a name")
        if count[name.lower()] > 1 and not own_name:
            name = _shortened(name, settings)
        names.append(name)
    for name, times in Counter(name.lower() for name in names).items():
        if name and times > 1:
            first = plain[[other.lower() for other in names].index(name)]
            problems.note(f"{times} cells are {first}; list each once, by a name of its own")
    return names


def _name(settings: Mapping[str, Any]) -> str:
    """Such as `contexts=2-2,seed=0`; it depends on the cell's own settings alone."""
    name = ",".join(f"{short_key(key, settings)}={_text(settings[key])}" for key in settings)
    return _shortened(name, settings) if len(name) > MAX_LETTERS else name


def _shortened(name: str, settings: Mapping[str, Any]) -> str:
    """A name whose end is a hash, which distinguishes settings with the same text."""
    content = json.dumps(settings, sort_keys=True, default=str).encode()
    end = f"~{hashlib.sha256(content).hexdigest()[:8]}"
    return name[: MAX_LETTERS - len(end)] + end


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "-".join(f"{key}-{_text(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return "-".join(map(_text, value))
    text = str(value).lower() if isinstance(value, bool | None) else str(value)
    return _safe(text)


def _safe(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII)


def _note_equal(cells: Sequence[Cell], problems: "_Problems") -> None:
    first: dict[str, str] = {}
    for cell in cells:
        content = json.dumps(config_to_dict(cell.config) | {"run": ""}, sort_keys=True)
        if (other := first.setdefault(content, cell.name)) != cell.name:
            problems.note(f"{other} and {cell.name} are the same experiment; leave one out")


class _Problems:
    """Collects problems with the cells that have them, and raises them together."""

    def __init__(self, cells: int):
        self._cells = cells
        self._cells_of: dict[str, list[str]] = {}

    def note(self, problem: str, cell: str = "") -> None:
        self._cells_of.setdefault(problem, []).append(cell)

    def raise_any(self) -> None:
        """Raises: ConfigError: there is one."""
        lines = [problem + self._where(cells) for problem, cells in self._cells_of.items()]
        if len(lines) > _MAX_LINES:
            lines = [*lines[:_MAX_LINES], f"and {len(lines) - _MAX_LINES} more"]
        if lines:
            raise ConfigError("\n".join(lines))

    def _where(self, cells: Sequence[str]) -> str:
        if len(cells) == self._cells or not cells[0]:
            return ""
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        return f" (cell {cells[0]}{more})"
