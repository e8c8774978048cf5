"""The cells of an ablation: every combination of settings, under a name that says what it is."""

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
"""Directory, beside the cells, of what is kept about starting them."""

MOST_LETTERS = 100
"""Letters of a cell's name; file systems allow 255 bytes."""

SEED = "seed"

_NAME = "name"
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+~-]*", re.ASCII)
_MOST_LINES = 20


@dataclass(frozen=True)
class Cell:
    """One run of an ablation."""

    name: str
    """Its directory in that of the ablation, such as `contexts=2-2,count=3-3,seed=0`."""
    settings: Mapping[str, Any]
    """What is its own: dotted setting to value."""
    config: ExperimentConfig
    """Its whole experiment, with its directory as `run`."""
    is_named: bool
    """Whether the ablation names it, so that its name does not say all its settings."""


def cells_of(ablation: AblationConfig) -> list[Cell]:
    """All cells in their order: the grid's, with the last setting changing first, then the others.

    Raises:
        ConfigError: there is none; or a line for each thing that is wrong with them.
    """
    wanted = list(_wanted(ablation))
    if not wanted:
        raise ConfigError("there is nothing to vary; give a grid, cells or seeds")
    problems = _Problems(len(wanted))
    for problem in _wrong_keys(ablation, [settings for _, settings in wanted]):
        problems.note(problem)
    cells = []
    for name, (given, settings) in zip(_names(wanted, problems), wanted, strict=True):
        run = f"run={Path(ablation.output) / name}"
        overrides = [_override(*item) for item in (ablation.overrides | settings).items()]
        try:
            config = load_config(ablation.base, [*overrides, run])
        except ConfigError as error:
            problems.note(str(error), name)
        else:
            cells.append(Cell(name, settings, config, bool(given)))
    problems.tell()
    _note_equal(cells, problems)
    problems.tell()
    return cells


def short_key(key: str, keys: Collection[str]) -> str:
    """The last words of a setting that no other one of these ends with."""
    words = key.split(".")
    for start in reversed(range(len(words))):
        short = ".".join(words[start:])
        alike = [other for other in keys if f".{other}".endswith(f".{short}")]
        if alike == [key] and not words[start].isdecimal():
            return _safe(short)
    return _safe(key)


def _wanted(ablation: AblationConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name that each cell was given, if any, and its settings."""
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


def _wrong_keys(ablation: AblationConfig, wanted: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    own = dict.fromkeys([*ablation.grid, *(key for cell in ablation.cells for key in cell)])
    for key in dict.fromkeys([*own, *ablation.overrides]):
        if key == "run":
            yield "run is not for cells to set: each is the run OUTPUT/NAME"
        if inner := _settings_of_section(key):
            yield f"{key} is a section; give its settings by themselves, such as {key}.{inner}"
    if ablation.seeds and SEED in own:
        yield "seed is set by cells and by seeds; leave one out"
    for key in ablation.overrides:
        if key in ablation.grid or all(key in settings for settings in wanted):
            yield f"{key} is set for all cells, but each has a value of its own; leave one out"


def _settings_of_section(key: str) -> str:
    """A setting of the section that a key means; empty: it means none."""
    kind: Any = ExperimentConfig
    for part in key.split("."):
        kind = next((f.type for f in fields(kind) if f.name == part), None)
        if not is_dataclass(kind):
            return ""
    return fields(kind)[0].name


def _override(key: str, value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return f"{key}=" + text.removesuffix("...\n").strip()


def _names(wanted: Sequence[tuple[str, Mapping[str, Any]]], problems: "_Problems") -> list[str]:
    """Names that are safe for file systems, also for those that take A for a."""
    plain = [given or _name(settings) for given, settings in wanted]
    count = Counter(name.lower() for name in plain)
    names = []
    for name, (given, settings) in zip(plain, wanted, strict=True):
        if given and (not _SAFE.fullmatch(name) or len(name) > MOST_LETTERS or name == JOBS):
            problems.note(
                f"{name!r} cannot be the name of a cell; expected up to {MOST_LETTERS} letters, "
                f"digits and . _ , = + -, and not {JOBS}"
            )
        if not name:
            problems.note("a cell without settings needs a name")
        if count[name.lower()] > 1 and not given:
            name = _shortened(name, settings)
        names.append(name)
    for name, times in Counter(name.lower() for name in names).items():
        if name and times > 1:
            same = plain[[other.lower() for other in names].index(name)]
            problems.note(f"{times} cells are {same}; list each once, by a name of its own")
    return names


def _name(settings: Mapping[str, Any]) -> str:
    """`contexts=2-2,seed=0`: it depends on nothing but the cell's own settings."""
    name = ",".join(f"{short_key(key, settings)}={_text(settings[key])}" for key in settings)
    return _shortened(name, settings) if len(name) > MOST_LETTERS else name


def _shortened(name: str, settings: Mapping[str, Any]) -> str:
    """A name whose end tells settings apart that would look alike."""
    content = json.dumps(settings, sort_keys=True, default=str).encode()
    end = f"~{hashlib.sha256(content).hexdigest()[:8]}"
    return name[: MOST_LETTERS - len(end)] + end


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
    """What is wrong, and with which cells."""

    def __init__(self, cells: int):
        self._cells = cells
        self._found: dict[str, list[str]] = {}

    def note(self, problem: str, cell: str = "") -> None:
        self._found.setdefault(problem, []).append(cell)

    def tell(self) -> None:
        """Raises: ConfigError: there is one."""
        lines = [problem + self._where(cells) for problem, cells in self._found.items()]
        if len(lines) > _MOST_LINES:
            lines = [*lines[:_MOST_LINES], f"and {len(lines) - _MOST_LINES} more"]
        if lines:
            raise ConfigError("\n".join(lines))

    def _where(self, cells: Sequence[str]) -> str:
        if len(cells) == self._cells or not cells[0]:
            return ""
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        return f" (cell {cells[0]}{more})"
