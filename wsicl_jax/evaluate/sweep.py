"""Sweeps: a grid of evaluations, cell by cell.

A cell is a model, a data set, a kind of prompt and a number of prompts. Each cell is written when
it is finished and never scored twice. Several processes may share a sweep: each scores its part of
the cells (array jobs).
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import jax

from wsicl_jax.config import SYNTHETIC, EvaluationConfig, SweepConfig, config_to_dict
from wsicl_jax.data.datasets import open_store
from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate.baselines import Baseline, baselines_of
from wsicl_jax.evaluate.episode_list import CasePrompts, EpisodeList, read_list, write_list
from wsicl_jax.evaluate.models import (
    AnyModel,
    check_targets,
    check_unseen,
    model_of,
    split_for,
)
from wsicl_jax.evaluate.planning import Planned, cases_of, plan, with_prompts
from wsicl_jax.evaluate.predictor import Predictor
from wsicl_jax.evaluate.records import (
    ABOUT,
    CELLS,
    Cell,
    Score,
    cell_name,
    read_about,
    read_cell,
    write_cell,
)
from wsicl_jax.evaluate.scoring import ProtocolSetting, check_list, score, settings_of, sizes_of
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.digests import digest_of
from wsicl_jax.storage.object_path import Place, place_of
from wsicl_jax.storage.safe_names import file_name
from wsicl_jax.weights.networks import load_model

EPISODES = "episodes"
"""Directory of the episode lists in the directory of a sweep."""

_PACKAGES = ("wsicl_jax", "jax", "flax", "numpy", "scipy", "scikit-image", "surface-distance")


class PlannedCell(NamedTuple):
    """A cell of the grid."""

    model: AnyModel
    data: Planned
    setting: ProtocolSetting
    name: str
    key: str
    """Digest of everything that its scores depend on."""


class Sweep(NamedTuple):
    """A sweep that is ready to run: its cells in order, and what was skipped."""

    config: SweepConfig
    cells: list[PlannedCell]
    lists: list[Place]
    """Paths of the episode lists."""
    skipped: dict[str, str]
    """Structures that too few cases have, each with the reason."""


def open_sweep(config: SweepConfig, command: str = "", *, lists_only: bool = False) -> Sweep:
    """Find the checkpoints, plan the episode lists, and write them and `ABOUT`.

    A case that any of the checkpoints was trained on is never a target. Several processes may run
    this at once: they write the same files. With `lists_only`, checkpoints are optional.

    Raises:
        CheckpointError, DataError: a checkpoint or a store is missing or damaged, a named structure
            has too few cases, a list lacks contexts, prompts or a kind, a target was trained on,
            or the sweep is for unseen data and a model has seen a data set.
        ConfigError: there are no models, or the directory has scores of external masks.
    """
    if not (config.checkpoints or config.baselines or lists_only):
        raise ConfigError("the sweep names no model; give checkpoints: {NAME: RUN}, or baselines")
    output = place_of(config.output)
    if (about := read_about(output)) and "config" not in about:
        raise ConfigError(
            f"{output} has scores that `wsicl score` wrote; give the sweep another output, and "
            "both to `wsicl report`"
        )
    networks = [model_of(name, path) for name, path in config.checkpoints.items()]
    models = [*networks, *baselines_of(config, [network.volume for network in networks])]
    planned, skipped = _planned(config, models)
    for data in planned:
        check_targets(data.episodes, models)
        if config.unseen:
            check_unseen(data.episodes, models)
    cells = _cells(config, models, planned)
    lists = []
    for data in planned:
        lists.append(output / _list_path(data.episodes))
        write_list(lists[-1], data.episodes)
    if not lists_only:
        _write_about(config, models, planned, cells, command)
    return Sweep(config, cells, lists, skipped)


def run_cells(
    sweep: Sweep, part: tuple[int, int] = (1, 1), devices: Sequence[jax.Device] | None = None
) -> tuple[int, int]:
    """Score the cells of one part that are not on disk; the numbers of scored and of earlier cells.

    `part` is (i, n). Its cells are consecutive, so that a part loads few networks and data sets.

    Raises:
        WsiclError: a network cannot be loaded or a case not be read; finished cells stay.
    """
    output, (number, parts) = place_of(sweep.config.output), part
    total = len(sweep.cells)
    own = sweep.cells[(number - 1) * total // parts : number * total // parts]
    missing = [cell for cell in own if not _is_done(output, cell)]

    @lru_cache(maxsize=1)  # the cells of a network are consecutive
    def network(name: str) -> Predictor | Baseline:
        model = next(cell.model for cell in missing if cell.model.name == name)
        if isinstance(model, Baseline):
            return model
        return Predictor(load_model(model.checkpoint), model.volume, devices)

    for cell in missing:
        start = time.monotonic()
        scores = score(
            cell.setting,
            network(cell.model.name),
            cell.data,
            sweep.config.evaluation,
            cell.model.name,
        )
        about = _about_cell(cell, time.monotonic() - start)
        write_cell(output, Cell(name=cell.name, key=cell.key, scores=tuple(scores), about=about))
    return len(missing), len(own) - len(missing)


def finished(sweep: Sweep) -> list[Score]:
    """The scores of the cells that are on disk, in the order of the grid."""
    output = place_of(sweep.config.output)
    return [
        one
        for cell in sweep.cells
        if _is_done(output, cell)
        for one in read_cell(_path(output, cell)).scores
    ]


def _planned(
    config: SweepConfig, models: Sequence[AnyModel]
) -> tuple[list[Planned], dict[str, str]]:
    datasets = [split_for(config, settings, models) for settings in config.data]
    drafts, skipped = plan(
        datasets,
        config.evaluation,
        seed=config.seed,
        synth=config.synth,
        cohort_grid=config.synthetic_grid,
        min_voxels=config.episode.min_voxels,
    )
    earlier = [_read_list(place_of(path), config.evaluation, models) for path in config.episodes]
    planned = [*map(with_prompts, drafts), *earlier]
    names = [data.episodes.data_set for data in planned]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"two data sets of the sweep are called {duplicates[0]!r}; remove one")
    if not planned:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise DataError(f"no structure of the sweep's data can be evaluated: {reasons}")
    return planned, skipped


def _read_list(path: Place, evaluation: EvaluationConfig, models: Sequence[AnyModel]) -> Planned:
    """An episode list from its file, checked for this sweep."""
    listed = read_list(path)
    check_list(listed, evaluation)
    if listed.store != SYNTHETIC:
        for model in models:
            open_store(listed.store, model.volume)
    return Planned(listed, cases_of(listed))


def _cells(
    config: SweepConfig, models: Sequence[AnyModel], planned: Sequence[Planned]
) -> list[PlannedCell]:
    settings = settings_of(config.evaluation)
    inputs = [
        [digest_of(_inputs(data.episodes, setting, config.evaluation)) for setting in settings]
        for data in planned
    ]
    return [
        PlannedCell(
            model,
            data,
            setting,
            cell_name(model.name, data.episodes.data_set, setting.name),
            digest_of([model.name, model.digest, inputs_digest]),
        )
        for model in models
        for data, by_setting in zip(planned, inputs, strict=True)
        for setting, inputs_digest in zip(settings, by_setting, strict=True)
        if setting.protocol == "in_context" or not isinstance(model, Baseline)
    ]


def _inputs(
    listed: EpisodeList, setting: ProtocolSetting, evaluation: EvaluationConfig
) -> dict[str, Any]:
    """Everything that a cell's scores depend on besides the model.

    Of a list only the part that the setting uses, so that a list may gain other kinds of prompts or
    more context images without new cells.
    """
    content: dict[str, Any] = {"setting": setting, "cohorts": listed.cohorts}
    if setting.protocol == "interactive":
        sizes = [evaluation.interactive.contexts]
        content["rounds"] = evaluation.interactive.rounds
        content["negative"] = evaluation.interactive.negative
        content["enforce_prompts"] = evaluation.interactive.enforce_prompts
    else:
        sizes = sizes_of(listed, evaluation)
        if setting.protocol == "target_dependence":
            sizes = sizes[-1:]
    if setting.protocol == "restoration":
        content["seed"] = listed.seed
    else:
        content["tolerance_mm"] = evaluation.tolerance_mm
    contexts = {e.name: e.contexts[: sizes[-1]] for e in listed.episodes}
    used = {(e.structure, case) for e in listed.episodes for case in contexts[e.name]}
    cases = {case for _, case in used} | {e.target for e in listed.episodes}
    return {
        **content,
        "contexts": sizes,
        "data_set": listed.data_set,
        "episodes": [{**vars(e), "contexts": contexts[e.name]} for e in listed.episodes],
        "cases": {case: listed.cases[case] for case in sorted(cases)},
        "labels": {name: (s.labels, s.marked) for name, s in listed.structures.items()},
        "prompts": [
            [structure, case, *_prompts(listed.structures[structure].prompts[case], setting)]
            for structure, case in sorted(used)
        ],
    }


def _prompts(prompts: CasePrompts, setting: ProtocolSetting) -> list[Any]:
    if setting.protocol == "restoration" or setting.kind == "mask":
        return []
    kinds = ["mixed", *sorted(set(prompts.mixed))] if setting.kind == "mixed" else [setting.kind]
    return [getattr(prompts, kind) for kind in kinds]


def _list_path(listed: EpisodeList) -> str:
    """Path of a list relative to the directory of a sweep."""
    return f"{EPISODES}/{file_name(listed.data_set)}.json"


def _is_done(output: Place, cell: PlannedCell) -> bool:
    path = _path(output, cell)
    try:
        return path.is_file() and read_cell(path).key == cell.key
    except DataError:  # a damaged cell is scored again
        return False


def _path(output: Place, cell: PlannedCell) -> Place:
    return output / CELLS / f"{cell.name}.json"


def _about_cell(cell: PlannedCell, seconds: float) -> dict[str, Any]:
    device = jax.local_devices()[0]
    return {
        **cell.model.about,
        "episodes_digest": cell.data.episodes.digest,
        "wall_seconds": round(seconds, 2),
        "device": f"{len(jax.local_devices())} x {device.device_kind}",
        "versions": _versions(),
    }


def _write_about(
    config: SweepConfig,
    models: Sequence[AnyModel],
    planned: Sequence[Planned],
    cells: Sequence[PlannedCell],
    command: str,
) -> None:
    content = {
        "command": command,
        "config": config_to_dict(config),
        "versions": _versions(),
        "models": {model.name: model.about for model in models},
        "data_sets": {
            data.episodes.data_set: {
                "episodes": _list_path(data.episodes),
                "digest": data.episodes.digest,
                "targets": len({e.target for e in data.episodes.episodes}),
            }
            for data in planned
        },
        "tolerance_mm": config.evaluation.tolerance_mm,
        "cells": {cell.name: cell.key for cell in cells},
    }
    path = place_of(config.output) / ABOUT
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
