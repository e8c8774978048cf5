"""The scores of the sweeps of a report, by setting, with their means and differences."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
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
from wsicl_jax.report.statistics import Comparison, Interval, compare, mean_interval, paired
from wsicl_jax.storage.object_path import Place, names_below

METRICS = ("dice", "surface_dice", "hd95_mm", "psnr", "ssim")
"""The metrics among the fields of a score."""

_ROUNDING = 1e-3
"""Largest difference of one score in two sweeps, by rounding on two machines."""

_MOST_NAMED = 3
"""Cells that a note names."""


class Setting(NamedTuple):
    """All that identifies a score, except structure and target."""

    model: str
    data_set: str
    protocol: Protocol
    kind: str
    contexts: int
    """Context images; 0 in restoration: the degraded image itself."""
    prompts: int
    """On each context image; 0 in interactive sessions, where each round adds one."""
    round: int = 0

    @property
    def title(self) -> str:
        """Name of its protocol and kind in the WS-ICL paper."""
        return title_of(self.protocol, self.kind)


@dataclass(frozen=True)
class SweepAbout:
    """The provenance of a sweep; fields that it does not record are empty."""

    directory: str
    command: str = ""
    config: Any = None
    versions: dict[str, str] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    data_sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    tolerance_mm: float | None = None
    notes: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    """Names of the cells of the finished sweep."""
    wall_seconds: float = 0.0
    """Sum over its cells."""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Results:
    """Every score once, by setting, in the order of the sweeps."""

    scores: tuple[Score, ...]
    """As the sweeps wrote them, except those of target dependence."""
    rows: dict[Setting, tuple[Score, ...]]
    sweeps: tuple[SweepAbout, ...]
    notes: tuple[str, ...] = ()
    """Remarks on missing cells and on scores that were not used."""
    target_dependence: tuple[Score, ...] = ()
    """Scores of that protocol, whose Dice is not with the truth."""
    _intervals: dict[tuple, Interval | None] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order in which the sweeps name them."""
        return self._in_order_of_sweeps("model", lambda sweep: sweep.models)

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Names of the data sets, in the order in which the sweeps name them."""
        return self._in_order_of_sweeps("data_set", lambda sweep: sweep.data_sets)

    def _in_order_of_sweeps(
        self, field_name: str, names_of: Callable[[SweepAbout], Iterable[str]]
    ) -> tuple[str, ...]:
        scored = dict.fromkeys(getattr(setting, field_name) for setting in self.rows)
        named = [name for sweep in self.sweeps for name in names_of(sweep) if name in scored]
        return tuple(dict.fromkeys([*named, *scored]))

    def structures(self, data_set: str) -> tuple[str, ...]:
        """The structures of a data set, without tasks of restoration."""
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
        """Mean over targets with its interval; None if no score has the metric."""
        key = (setting, metric, structure)
        if key not in self._intervals:
            scores = [
                s
                for s in self.rows.get(setting, ())
                if structure in (None, s.structure) and getattr(s, metric) is not None
            ]
            values = [getattr(s, metric) for s in scores]
            self._intervals[key] = (
                mean_interval(values, [s.subject for s in scores]) if scores else None
            )
        return self._intervals[key]

    def mean(self, setting: Setting, metric: str = "dice") -> float | None:
        """Mean over targets; None if no score has the metric."""
        interval = self.interval(setting, metric)
        return interval and interval.mean

    def seconds(self, setting: Setting) -> float:
        """Annotation time of the prompts of a context set, the mean over targets."""
        rows = self.rows[setting]
        return sum(score.seconds for score in rows) / len(rows)

    def difference(self, a: Setting, b: Setting, metric: str = "dice") -> Comparison | None:
        """`a` minus `b` over the episodes that both have; None if there are none."""
        values_a, values_b, subjects = paired(self.rows.get(a, ()), self.rows.get(b, ()), metric)
        return compare(values_a, values_b, subjects) if subjects else None


def read_results(directories: Sequence[Place]) -> Results:
    """All scores of some sweeps.

    Cells of an earlier state of a sweep are skipped, and scores that two sweeps share count once.
    The notes report both, and the cells that an unfinished sweep lacks.

    Raises:
        DataError: a directory has no scores, a file is damaged, one model name stands for two
            checkpoints, a baseline has two working grids, or two sweeps have different scores of
            one target at one setting.
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
    dependence = [s for _, cell in kept for s in cell.scores if s.protocol == "target_dependence"]
    scores, rows, repeated = _rows(kept)
    if not rows:
        raise DataError(f"{', '.join(map(str, directories))}: the cells have no scores")
    if repeated:
        notes.append(f"{repeated} scores are in several of the sweeps and count once.")
    notes = tuple(dict.fromkeys(notes))
    return Results(scores, rows, tuple(sweeps), notes, tuple(dependence))


def _rows(
    cells: Iterable[tuple[str, Cell]],
) -> tuple[tuple[Score, ...], dict[Setting, tuple[Score, ...]], int]:
    scores: list[Score] = []
    rows: dict[Setting, list[Score]] = {}
    seen: dict[tuple, tuple[str, Score]] = {}
    repeated = 0
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
                repeated += 1
                continue
            seen[key] = directory, score
            scores.append(score)
            rows.setdefault(setting, []).append(score)
    return tuple(scores), {setting: tuple(of) for setting, of in rows.items()}, repeated


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
        if (a is None) != (b is None) or (a is not None and abs(a - b) > _ROUNDING):
            raise DataError(
                f"{first_directory} and {directory} both score {score.model} on "
                f"{score.data_set}/{score.episode} ({title_of(score.protocol, score.kind)}, "
                f"{score.contexts} contexts, {score.prompts} prompts) and differ: {metric} {a} "
                f"and {b}; report these sweeps one by one"
            )


def _about(directory: Place, cells: Sequence[Cell]) -> SweepAbout:
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


def _notes(directory: Place, about: SweepAbout, used: Sequence[Cell]) -> list[str]:
    notes, names = list(about.notes), names_below(directory / CELLS)
    on_disk = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    if old := sorted(on_disk - {c.name for c in used}):
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
    for clash in _clashes(sweeps, lambda s: s.models):
        name, first, sweep = clash.name, clash.first, clash.second
        if "baseline" in clash.entry:
            a, b = (" x ".join(map(str, e.get("grid", "?"))) for e in (clash.entry, clash.other))
            differ = f"on a working grid of {a} in {first} and of {b} in {sweep}"
            if a == b:
                differ = f"with other volume settings in {first} than in {sweep}"
            raise DataError(
                f"the baseline {name!r} was computed {differ}, and a report has one of each "
                "baseline; evaluate the checkpoints of both in one sweep, give `baselines: []` to "
                "one of them, or report them one by one"
            )
        raise DataError(
            f"model {name!r} is checkpoint {clash.entry['digest']} in {first} and "
            f"{clash.other['digest']} in {sweep}; give them different names in the sweeps, or "
            "report them one by one"
        )


def _differing_lists(sweeps: Sequence[SweepAbout]) -> list[str]:
    return [
        f"The episode lists of {clash.name} differ between {clash.first} and {clash.second}; their "
        "scores are of the same targets only where structure and target agree."
        for clash in _clashes(sweeps, lambda s: s.data_sets)
    ]


class _Clash(NamedTuple):
    """A name with two digests in two sweeps."""

    name: str
    first: str
    entry: dict[str, Any]
    second: str
    other: dict[str, Any]


def _clashes(
    sweeps: Sequence[SweepAbout], entries: Callable[[SweepAbout], dict[str, dict[str, Any]]]
) -> list[_Clash]:
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    clashes = []
    for sweep in sweeps:
        for name, entry in entries(sweep).items():
            if "digest" not in entry:
                continue
            directory, known = first.setdefault(name, (sweep.directory, entry))
            if known["digest"] != entry["digest"]:
                clashes.append(_Clash(name, directory, known, sweep.directory, entry))
    return clashes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
