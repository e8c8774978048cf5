"""Synthetic cohorts as stores: one store for each, `OUTPUT/cohort_0000` and so on.

`OUTPUT/synth.json` records the settings, so the same command continues. Finished stores stay
unchanged.
"""

import functools
import json
import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from wsicl_jax.config import SynthConfig, config_to_dict
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.data.store import CATALOGUE
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.data.synthesis.cohort import Cohort, sample_cohort
from wsicl_jax.data.synthesis.prior import priors_fingerprint
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.storage.documents import parse_json
from wsicl_jax.storage.location import Location
from wsicl_jax.terminal.progress import track

GENERATOR = 1
"""Version of the generator: changes when a seed gives other cohorts."""

_RECORD = "synth.json"
_TRIES = 20


def write_cohorts(
    output: str | Path,
    settings: SynthConfig,
    *,
    cohorts: int,
    subjects: int,
    grid: Shape3,
    seed: int,
    spacing_mm: float = 1.0,
    workers: int = 1,
) -> int:
    """Write cohorts of a seed below a directory or URL; returns the number of new ones.

    If it is killed, the same call continues; it may request more cohorts.

    Raises:
        DataError: `output` has other content or cohorts of other settings, the grid
            is too small for any structure, the prior cannot be read, or writing fails.
    """
    location = Location.of(output)
    _begin(
        location,
        {
            "generator": GENERATOR,
            "seed": seed,
            "subjects": subjects,
            "grid": list(grid),
            "spacing_mm": spacing_mm,
            "synth": config_to_dict(settings),
            "prior": priors_fingerprint(settings),
        },
    )
    missing = [n for n in range(cohorts) if not _is_finished(location / store_name(n))]
    write = functools.partial(
        _write_cohort,
        location,
        settings=settings,
        subjects=subjects,
        grid=grid,
        seed=seed,
        spacing_mm=spacing_mm,
    )
    with track(cohorts, "writing cohorts", done=cohorts - len(missing)) as progress:
        for _ in _mapped(write, missing, workers):
            progress.advance()
    return len(missing)


def store_name(number: int) -> str:
    """The name of a cohort's store below the output."""
    return f"cohort_{number:04}"


def numbered_cohort(seed: int, number: int, grid: Shape3, settings: SynthConfig) -> Cohort:
    """The cohort of this number that `write_cohorts` writes.

    Raises:
        DataError: the grid is too small for any structure, or the prior cannot be read.
    """
    for attempt in range(_TRIES):
        key = (seed, RandomStream.WRITTEN_COHORT, number, attempt)
        cohort = sample_cohort(key, grid, settings)
        if cohort.structures:
            return cohort
    raise DataError(f"no structure fits on a grid of {grid} voxels; use a larger one")


def _write_cohort(
    location: Location,
    number: int,
    *,
    settings: SynthConfig,
    subjects: int,
    grid: Shape3,
    seed: int,
    spacing_mm: float,
) -> None:
    store = location / store_name(number)
    cohort = numbered_cohort(seed, number, grid, settings)
    _clear(store)  # remains of a killed command
    create_store(store, f"synthetic_{seed}_{number:04}", ["synthetic"], cohort.names)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = -spacing_mm * (np.array(grid) - 1) / 2
    for index in range(subjects):
        image, label = cohort.subject(index)
        write_case(store, f"subject_{index:04}", image[None], label, affine)
    finish_store(store)


def _clear(store: Location) -> None:
    if store.directory is None:
        store.delete()
    elif store.directory.exists():
        shutil.rmtree(store.directory)


def _mapped(write, numbers: Sequence[int], workers: int) -> Iterator[None]:
    if min(workers, len(numbers)) < 2:
        yield from map(write, numbers)
        return
    context = multiprocessing.get_context("spawn")  # TensorStore's threads do not survive a fork
    with ProcessPoolExecutor(min(workers, len(numbers)), mp_context=context) as pool:
        try:
            yield from pool.map(write, numbers)
        except BrokenProcessPool as error:
            raise DataError(
                "a process was lost, most likely for lack of memory; give the same command again, "
                "with fewer --workers"
            ) from error


def _begin(location: Location, record: dict[str, Any]) -> None:
    """Write the record of the settings, or compare it with the existing one."""
    directory = location.directory
    if directory is not None and directory.exists() and not directory.is_dir():
        raise DataError(f"{location} is a file; name a directory to write cohorts to")
    content = location.read(_RECORD)
    if content is None:
        if directory is not None:
            # A killed command may have left a part of the record.
            others = directory.iterdir() if directory.exists() else ()
            has_content = any(not other.name.startswith(_RECORD) for other in others)
        else:
            has_content = next(location.keys(), None) is not None
        if has_content:
            raise DataError(f"{location} is not empty and holds no cohorts; name another output")
        location.write(_RECORD, (json.dumps(record, indent=1) + "\n").encode())
        return
    try:
        before = _flat(parse_json(content))
    except (ValueError, AttributeError) as error:
        raise DataError(f"{location / _RECORD} is damaged; name another output") from error
    now = _flat(record)
    differences = [
        f"{key} {before.get(key)} (now {now.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differences:
        raise DataError(
            f"{location} was begun with {', '.join(differences[:3])}; give the same command to "
            "go on, or name another output"
        )


def _is_finished(store: Location) -> bool:
    return store.read(CATALOGUE) is not None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
