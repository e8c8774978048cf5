"""Measures how fast episodes are read from disk, against plain reading by the libraries."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from scipy import ndimage

from wsicl_jax.config import (
    SYNTHETIC,
    DatasetConfig,
    ExperimentConfig,
    PreparationConfig,
    config_to_dict,
)
from wsicl_jax.data.conversion.stored_case import to_stored_case
from wsicl_jax.data.episodes.loader import batches
from wsicl_jax.data.episodes.sampling import EpisodeSource
from wsicl_jax.data.store import IMAGE, LABEL, Store, open_array
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.geometry.grids import WorkingGrid, content_box
from wsicl_jax.geometry.intensity import normalise
from wsicl_jax.terminal.progress import track
from wsicl_jax.tools.bench.machine import machine

_RANDOM_SHAPE = (192, 160, 128)
_RANDOM_CASES = 12
_MAX_CASES = 32
_SECONDS = 4.0
"""Least time for which each reading is measured."""

_MEMORY_ENTRIES = 5

_FILES_ON_GRID = "nibabel, .nii.gz: read and put on the working grid"
_PLAIN_READING = "TensorStore, store at the working grid: read"
_PLAIN_EPISODES = "episodes, store at the working grid"


@dataclass(frozen=True)
class Rate:
    """Speed of one kind of reading; a volume is an image with its label map."""

    reading: str
    volumes_per_second: float


def bench_loader(
    config: ExperimentConfig, *, episodes: int, show: Callable[[RenderableType], None]
) -> dict[str, Any]:
    """Show volumes per second of several readings, and memory over many episodes.

    The cases are those of the first store in `config.data`, at most 32, or random ones: int16 of
    192 x 160 x 128 voxels. They are copied to files and stores in a temporary directory. Returns
    the numbers for JSON.
    """
    with tempfile.TemporaryDirectory() as folder:
        files, raw, ready = _write(config, Path(folder))
        rates = _rates(config, files, raw, ready)
        memory = _memory(_experiment(config, ready, cache=True), episodes)
    show(machine())
    show(_rate_table(rates))
    show(_memory_table(memory))
    return {
        "machine": machine(),
        "config": config_to_dict(config),
        "rates": [asdict(rate) for rate in rates],
        "memory": [{"episodes": n, "megabytes": mb} for n, mb in memory],
    }


def _rates(config: ExperimentConfig, files: Sequence[Path], raw: Store, ready: Store) -> list[Rate]:
    grid, percentiles = config.volume.grid, config.volume.percentiles

    def on_grid(file: Path) -> None:
        image, label, affine = _read_files(file)
        if config.volume.crop:
            inside = content_box(image).slices
            image, label = image[inside], label[inside]
        working = WorkingGrid.of(image.shape, affine, grid)
        working.image(normalise(image, percentiles))
        working.label(label)

    def arrays(store: Store, name: str) -> None:
        opened = (open_array(store.location, store.case(name), array) for array in (IMAGE, LABEL))
        image, label = (array[0] if array.ndim == 4 else array for array in opened)
        for read in [image.read(), label.read()]:
            read.result()

    def episodes(store: Store, *, cache: bool, augmented: bool = True) -> Iterator[int]:
        augment = config.augment if augmented else config.augment.only()
        return _stream(_experiment(replace(config, augment=augment), store, cache=cache))

    readings: list[tuple[str, Callable[[], Iterator[int]]]] = [
        ("nibabel, .nii.gz: read", lambda: _each(_read_files, files)),
        (_FILES_ON_GRID, lambda: _each(on_grid, files)),
        ("TensorStore, store as converted: read", lambda: _each_of(arrays, raw)),
        (_PLAIN_READING, lambda: _each_of(arrays, ready)),
        (_PLAIN_EPISODES, lambda: episodes(ready, cache=False, augmented=False)),
        ("episodes, the same, augmented", lambda: episodes(ready, cache=False)),
        ("episodes, store as converted, augmented", lambda: episodes(raw, cache=False)),
        ("episodes, cached", lambda: episodes(ready, cache=True, augmented=False)),
        ("episodes, cached, augmented", lambda: episodes(ready, cache=True)),
    ]
    rates = []
    with track(len(readings), "measuring") as bar:
        for reading, volumes in readings:
            rates.append(Rate(reading, _rate(volumes())))
            bar.advance()
    return rates


def _rate(volumes: Iterator[int]) -> float:
    warm = time.monotonic() + _SECONDS / 4
    while time.monotonic() < warm:
        next(volumes)
    start, count = time.monotonic(), 0
    while (elapsed := time.monotonic() - start) < _SECONDS:
        count += next(volumes)
    return count / elapsed


def _each(read: Callable[[Path], object], files: Sequence[Path]) -> Iterator[int]:
    for file in itertools.cycle(files):
        read(file)
        yield 1


def _each_of(read: Callable[[Store, str], object], store: Store) -> Iterator[int]:
    for name in itertools.cycle(store.cases):
        read(store, name)
        yield 1


def _stream(config: ExperimentConfig) -> Iterator[int]:
    for batch in batches(EpisodeSource(config)):
        yield len(batch.target) * (1 + batch.context_images.shape[1])


def _experiment(config: ExperimentConfig, store: Store, *, cache: bool) -> ExperimentConfig:
    data = (DatasetConfig(store=store.path),)
    train = replace(config.train, steps=10**7)
    volume = replace(config.volume, cache_gb=config.volume.cache_gb if cache else 0.0)
    return replace(config, data=data, train=train, volume=volume)


def _memory(config: ExperimentConfig, episodes: int) -> list[tuple[int, float]]:
    """Megabytes of this process and its workers after some numbers of episodes."""
    samples, done, process = [], 0, psutil.Process()
    stream = batches(EpisodeSource(config))
    with track(episodes, "watching memory") as bar:
        while done < episodes:
            batch = len(next(stream).target)
            done += batch
            bar.advance(batch)
            if done * _MEMORY_ENTRIES // episodes > len(samples):
                processes = [process, *process.children(recursive=True)]
                samples.append((done, sum(p.memory_info().rss for p in processes) / 1e6))
    return samples


def _write(config: ExperimentConfig, folder: Path) -> tuple[list[Path], Store, Store]:
    """The cases as .nii.gz files, as a store, and as one at the working grid."""
    volume = config.volume
    at_grid = PreparationConfig(
        ras=True, crop=volume.crop, grid=volume.grid, percentiles=volume.percentiles
    )
    stores = {"raw": PreparationConfig(), "ready": at_grid}
    source = config.data[0].store
    cases, label_names = _from_store(source) if source != SYNTHETIC else _random_cases()
    for kind, preparation in stores.items():
        create_store(folder / kind, kind, ("image",), label_names, preparation)
    files = []
    with track(len(cases), "writing cases") as bar:
        for number, case in enumerate(cases):
            image, label, affine = case()
            name = f"case_{number:03d}"
            files.append(_write_files(folder / name, image, label, affine))
            for kind, preparation in stores.items():
                made = to_stored_case(image[None], label, affine, (), preparation)
                write_case(folder / kind, name, *made[:3], source=made.source)
            bar.advance()
    for kind in stores:
        finish_store(folder / kind)
    return files, Store.open(folder / "raw"), Store.open(folder / "ready")


Volume = tuple[np.ndarray, np.ndarray, np.ndarray]


def _from_store(path: str) -> tuple[list[Callable[[], Volume]], dict[int, str]]:
    store = Store.open(path)

    def case(name: str) -> Callable[[], Volume]:
        return lambda: (
            store.read_image(name),
            store.read_label(name),
            store.case(name).affine,
        )

    return [case(name) for name in store.cases[:_MAX_CASES]], store.label_names


def _random_cases() -> tuple[list[Callable[[], Volume]], dict[int, str]]:
    def case(seed: int) -> Volume:
        rng = np.random.default_rng(seed)
        coarse = rng.normal(0, 300, [side // 16 for side in _RANDOM_SHAPE]).astype(np.float32)
        smooth = ndimage.zoom(coarse, 16, order=1)
        label = np.digitize(smooth, (150, 300)).astype(np.uint8)
        image = smooth + 15 * rng.standard_normal(smooth.shape, np.float32)
        return image.astype(np.int16), label, np.diag([1.0, 1.0, 2.0, 1.0])

    return [lambda seed=seed: case(seed) for seed in range(_RANDOM_CASES)], {1: "one", 2: "two"}


def _write_files(stem: Path, image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> Path:
    import nibabel as nib

    for kind, array in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(array, affine), f"{stem}_{kind}.nii.gz")
    return stem


def _read_files(stem: Path) -> Volume:
    import nibabel as nib

    image, label = (nib.load(f"{stem}_{kind}.nii.gz") for kind in ("image", "label"))
    return np.asarray(image.dataobj), np.asarray(label.dataobj), image.affine


def _rate_table(rates: Sequence[Rate]) -> Table:
    table = Table("reading", title="Volumes, each an image and its label map")
    table.add_column("volumes/s", justify="right")
    table.add_column("of nibabel's on the grid", justify="right")
    per_second = {rate.reading: rate.volumes_per_second for rate in rates}
    on_files = per_second[_FILES_ON_GRID]
    for reading, rate in per_second.items():
        table.add_row(Text(reading), f"{rate:,.1f}", f"{rate / on_files:,.1f} x")
    table.add_section()
    share = per_second[_PLAIN_EPISODES] / per_second[_PLAIN_READING]
    table.add_row("episodes, as a share of plain reading", f"{share:.2f}", "")
    return table


def _memory_table(memory: Sequence[tuple[int, float]]) -> Table:
    table = Table(title="Memory by episodes read")
    table.add_column("episodes", justify="right")
    table.add_column("MB, all processes", justify="right")
    for episodes, megabytes in memory:
        table.add_row(f"{episodes:,}", f"{megabytes:,.0f}")
    return table
