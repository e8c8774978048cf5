"""The rows of some sweeps, and means of them: what figures, tables and sentences are made from."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.protocols.restoration import BEFORE
from wsicl_jax.evaluate.records import (
    CELLS,
    Cell,
    Protocol,
    Score,
    read_about,
    read_cells,
    title_of,
)
from wsicl_jax.report.statistics import (
    SETTING,
    Comparison,
    Interval,
    compare,
    mean_interval,
    paired,
)

METRICS = ("dice", "surface_dice", "hd95_mm", "psnr", "ssim")
"""Fields of a row that are measured."""

_SAME = 1e-3
"""Scores of one setting from two sweeps may differ by this much: by rounding, on two machines."""

_NAMED = 3


class Setting(NamedTuple):
    """What a row is the score of, but for structure and target."""

    model: str
    data_set: str
    protocol: Protocol
    kind: str
    contexts: int
    """Context images; 0 in restoration: the image as it was given."""
    prompts: int
    """On each context image; 0 in interactive sessions, where each round adds one."""
    round: int = 0

    @property
    def title(self) -> str:
        """Its protocol and kind as the paper calls them."""
        return title_of(self.protocol, self.kind)


@dataclass(frozen=True)
class SweepAbout:
    """What a sweep says of itself; empty where it says nothing."""

    directory: str
    command: str = ""
    config: Any = None
    versions: dict[str, str] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    data_sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    tolerance_mm: float | None = None
    notes: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    """Names of the cells that it has when it is finished."""
    wall_seconds: float = 0.0
    """Of all its cells together."""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Results:
    """Every row once, by setting, in the order of the sweeps."""

    scores: tuple[Score, ...]
    """As the sweeps wrote them."""
    rows: dict[Setting, tuple[Score, ...]]
    sweeps: tuple[SweepAbout, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know about rows that are missing or were not used."""
    looking: tuple[Score, ...] = ()
    """Those on targets without content, whose Dice is no quality: not among the others."""
    _intervals: dict[tuple, Interval | None] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order in which the sweeps name them."""
        there = dict.fromkeys(setting.model for setting in self.rows)
        named = [name for sweep in self.sweeps for name in sweep.models if name in there]
        return tuple(dict.fromkeys([*named, *there]))

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Names of the data sets."""
        there = dict.fromkeys(setting.data_set for setting in self.rows)
        named = [name for sweep in self.sweeps for name in sweep.data_sets if name in there]
        return tuple(dict.fromkeys([*named, *there]))

    def structures(self, data_set: str) -> tuple[str, ...]:
        """The structures of a data set; image-to-image tasks are none."""
        return tuple(
            dict.fromkeys(
                score.structure
                for setting, scores in self.rows.items()
                if setting.data_set == data_set and setting.protocol != "restoration"
                for score in scores
            )
        )

    def interval(
        self, setting: Setting, metric: str = "dice", structure: str | None = None
    ) -> Interval | None:
        """Mean over targets with its interval; None if no row has a value."""
        key = (setting, metric, structure)
        if key not in self._intervals:
            self._intervals[key] = interval_of(
                [s for s in self.rows.get(setting, ()) if structure in (None, s.structure)], metric
            )
        return self._intervals[key]

    def mean(self, setting: Setting, metric: str = "dice") -> float | None:
        """Mean over targets; None if no row has a value."""
        found = self.interval(setting, metric)
        return None if found is None else found.mean

    def seconds(self, setting: Setting) -> float:
        """What the prompts of a context set cost a person, the mean over targets."""
        rows = self.rows[setting]
        return sum(score.seconds for score in rows) / len(rows)

    def difference(
        self, a: Setting, b: Setting, metric: str = "dice", structure: str | None = None
    ) -> Comparison | None:
        """`a` minus `b` over the episodes that both have; None if there are none."""
        first, second = (
            [s for s in self.rows.get(x, ()) if structure in (None, s.structure)] for x in (a, b)
        )
        there, here = (
            {(s.structure, s.episode) for s in side if getattr(s, metric) is not None}
            for side in (first, second)
        )
        if not there & here:
            return None
        values_a, values_b, subjects, _ = paired(first, second, metric, across=SETTING)
        return compare(values_a, values_b, subjects)


def interval_of(scores: Sequence[Score], metric: str) -> Interval | None:
    """Mean of a metric over those rows of one data set that have it; None if none has."""
    there = [s for s in scores if getattr(s, metric) is not None]
    if not there:
        return None
    return mean_interval([getattr(s, metric) for s in there], [s.subject for s in there])


def read_results(directories: Sequence[Path]) -> Results:
    """All rows of some sweeps.

    Cells that a sweep no longer has are left out, and rows that two sweeps share count once; the
    notes say so, and which cells an unfinished sweep lacks.

    Raises:
        DataError: a directory has no scores, a file is damaged, a model's name stands for two
            checkpoints, or two sweeps have different scores for the same thing.
    """
    if not directories:
        raise DataError("no sweep was given; a report needs the directory of at least one")
    sweeps, notes, kept = [], [], []
    for directory in directories:
        cells = read_cells([directory])
        about = _about(directory, cells)
        sweeps.append(about)
        notes += _notes(directory, about, cells)
        kept += [(about.directory, cell) for cell in cells]
    _check_models(sweeps)
    notes += _differing_lists(sweeps)
    looking = [s for _, cell in kept for s in cell.scores if s.protocol == "target_dependence"]
    scores, rows, twice = _rows(kept)
    if not rows:
        raise DataError(f"{', '.join(map(str, directories))}: the cells hold no scores")
    if twice:
        notes.append(f"{twice} scores are in several of the sweeps and count once.")
    notes = tuple(dict.fromkeys(notes))
    return Results(scores, rows, tuple(sweeps), notes, tuple(looking))


def _rows(
    cells: Iterable[tuple[str, Cell]],
) -> tuple[tuple[Score, ...], dict[Setting, tuple[Score, ...]], int]:
    scores: list[Score] = []
    rows: dict[Setting, list[Score]] = {}
    seen: dict[tuple, tuple[str, Score]] = {}
    twice = 0
    for directory, cell in cells:
        models = [s.model for s in cell.scores if s.model != BEFORE]
        for score in cell.scores:
            if score.protocol == "target_dependence":
                continue
            model = models[0] if score.model == BEFORE and models else score.model
            setting = _setting_of(replace(score, model=model))
            key = (*setting, score.structure, score.episode)
            if key in seen:
                _check_same(*seen[key], directory, score)
                twice += 1
                continue
            seen[key] = directory, score
            scores.append(score)
            rows.setdefault(setting, []).append(score)
    return tuple(scores), {setting: tuple(found) for setting, found in rows.items()}, twice


def _setting_of(score: Score) -> Setting:
    return Setting(
        score.model,
        score.data_set,
        score.protocol,
        score.kind,
        score.contexts,
        0 if score.protocol == "interactive" else score.prompts,
        score.round,
    )


def _check_same(first_directory: str, first: Score, directory: str, score: Score) -> None:
    for metric in ("dice", "psnr"):
        a, b = getattr(first, metric), getattr(score, metric)
        if (a is None) != (b is None) or (a is not None and abs(a - b) > _SAME):
            raise DataError(
                f"{first_directory} and {directory} both score {score.model} on "
                f"{score.data_set}/{score.episode} ({title_of(score.protocol, score.kind)}, "
                f"{score.contexts} contexts, {score.prompts} prompts) and differ: {metric} {a} "
                f"and {b}; report them one by one"
            )


def _about(directory: Path, cells: Sequence[Cell]) -> SweepAbout:
    content = read_about(directory)
    seconds = [cell.about.get("wall_seconds", 0.0) for cell in cells]
    devices = [str(cell.about["device"]) for cell in cells if "device" in cell.about]
    return SweepAbout(
        directory=str(directory),
        command=content.get("command", ""),
        config=content.get("config"),
        versions=content.get("versions", {}),
        models=content.get("models", {}),
        data_sets=content.get("data_sets", {}),
        tolerance_mm=content.get("tolerance_mm"),
        notes=tuple(content.get("notes", ())),
        cells=tuple(content.get("cells", ())),
        wall_seconds=float(sum(seconds)),
        devices=tuple(dict.fromkeys(devices)),
    )


def _notes(directory: Path, about: SweepAbout, used: Sequence[Cell]) -> list[str]:
    notes, cells = list(about.notes), directory / CELLS
    there = {p.relative_to(cells).with_suffix("").as_posix() for p in cells.rglob("*.json")}
    if old := sorted(there - {c.name for c in used}):
        notes.append(
            f"{about.directory}: {len(old)} cells are of an earlier state of the sweep "
            f"and were not used ({_some(old)})."
        )
    if missing := sorted(set(about.cells) - {c.name for c in used}):
        notes.append(
            f"{about.directory}: the sweep is not finished; {len(missing)} of "
            f"{len(about.cells)} cells are missing ({_some(missing)})."
        )
    return notes


def _check_models(sweeps: Sequence[SweepAbout]) -> None:
    for name, first, digest, sweep, other in _clashes(sweeps, lambda s: s.models):
        raise DataError(
            f"model {name!r} is checkpoint {digest} in {first} and {other} in {sweep}; give them "
            "different names in the sweeps, or report them one by one"
        )


def _differing_lists(sweeps: Sequence[SweepAbout]) -> list[str]:
    return [
        f"The episode lists of {name} differ between {first} and {sweep}; their scores are of "
        "the same targets only where structure and target agree."
        for name, first, _, sweep, _ in _clashes(sweeps, lambda s: s.data_sets)
    ]


def _clashes(
    sweeps: Sequence[SweepAbout], entries: Callable[[SweepAbout], dict[str, dict[str, Any]]]
) -> list[tuple[str, str, str, str, str]]:
    """Names that have two digests: name, first sweep and digest, other sweep and digest."""
    first: dict[str, tuple[str, str]] = {}
    found = []
    for sweep in sweeps:
        for name, entry in entries(sweep).items():
            if (digest := entry.get("digest")) is None:
                continue
            known = first.setdefault(name, (sweep.directory, digest))
            if known[1] != digest:
                found.append((name, *known, sweep.directory, digest))
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
