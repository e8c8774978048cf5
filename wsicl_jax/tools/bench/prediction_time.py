"""Times the segmentation of one target, from its file to the file of its label map."""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from flax import nnx
from rich.console import RenderableType
from rich.table import Table

from wsicl_jax.config import ExperimentConfig, InferenceConfig, SynthConfig
from wsicl_jax.data.formats.writing import write_label_map
from wsicl_jax.data.synthesis.cohort import sample_cohort
from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.geometry.grids import resize, resize_nearest
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.memory_plan import GB
from wsicl_jax.inference.segmenter import Segmenter
from wsicl_jax.inference.task import Task
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.storage.object_path import Place
from wsicl_jax.terminal.progress import track
from wsicl_jax.tools.bench.machine import machine

_COARSE = 64
"""Sides of the synthetic subjects before they are resized to the measured shape."""

_SECONDS_BETWEEN_SAMPLES = 0.01


@dataclass
class Stages:
    """Seconds of one target, by stage."""

    reading: float = 0.0
    """Reading the file and preparing the image."""
    network: float = 0.0
    """The network: coarse prediction and refinement."""
    composing: float = 0.0
    """Tiles of the images, and the label map on the target's own grid."""
    writing: float = 0.0
    """Writing the label map."""

    @property
    def total(self) -> float:
        """The sum of all stages."""
        return self.reading + self.network + self.composing + self.writing


class _MemoryWatch:
    """The largest memory of this process, in bytes, while the block runs."""

    peak = 0

    def __enter__(self) -> "_MemoryWatch":
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stopped.is_set():
            self.peak = max(self.peak, process.memory_info().rss)
            self._stopped.wait(_SECONDS_BETWEEN_SAMPLES)


class _TimedSegmenter(Segmenter):
    """Adds up the seconds that the network takes."""

    seconds = 0.0

    def encode(self, target: Any) -> Any:
        with self._timed():
            # JAX returns at once: without waiting, the time would be counted elsewhere.
            return jax.block_until_ready(super().encode(target))

    def predict(self, *inputs: Any) -> Any:
        with self._timed():
            return super().predict(*inputs)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def bench_predict(
    config: ExperimentConfig,
    checkpoint: Place | None,
    shape: Shape3,
    *,
    contexts: int,
    structures: int,
    refine: bool | None,
    repeats: int,
    show: Callable[[RenderableType], None],
) -> dict[str, Any]:
    """Show seconds and memory for a synthetic .nii.gz target of this shape; return them for JSON.

    The network is that of a checkpoint, or a random one of `config`. Target and context images
    are subjects of one synthetic cohort, all of this shape, with masks as prompts. The first run,
    which compiles, is not counted.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    segmenter = _segmenter(config, checkpoint, refine)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = _task(segmenter, folder, shape, contexts, structures)
        target = folder / "target.nii.gz"
        planned = task.plan(shape, np.eye(4)).peak_bytes
        before = psutil.Process().memory_info().rss
        with _MemoryWatch() as watch, track(repeats + 1, "segmenting") as bar:
            runs = []
            for _ in range(repeats + 1):
                runs.append(_run(task, segmenter, target))
                bar.advance()
    memory = {"before": before, "peak": watch.peak, "planned": planned}
    show(machine())
    show(_table(runs[1:], memory))
    return {
        "machine": machine(),
        "shape": list(shape),
        "contexts": contexts,
        "structures": structures,
        "grid": list(segmenter.volume.grid),
        "seconds": [asdict(run) for run in runs[1:]],
        "bytes": memory,
    }


def _segmenter(
    config: ExperimentConfig, checkpoint: Place | None, refine: bool | None
) -> _TimedSegmenter:
    if checkpoint is not None:
        return _TimedSegmenter.load(checkpoint, refine=refine)
    model = DualBranch(config.model, rngs=nnx.Rngs(0))
    return _TimedSegmenter(model, config.volume, InferenceConfig(refine=refine))


def _task(
    segmenter: Segmenter, folder: Path, shape: Shape3, contexts: int, structures: int
) -> Task:
    cohort = sample_cohort((0,), (_COARSE,) * 3, SynthConfig())
    images: list[Path] = []
    labels: list[Path] = []
    with track(contexts + 1, "writing synthetic images") as bar:
        for number in range(contexts + 1):
            image, label = cohort.subject(number)
            noise = np.random.default_rng(number).integers(-10, 11, shape, dtype=np.int16)
            # Integers, as scanners store them.
            voxels = (1000 * resize(image, shape)).astype(np.int16) + noise
            name = f"context_{number}.nii.gz" if number < contexts else "target.nii.gz"
            write_label_map(folder / name, voxels - voxels.min(), np.eye(4), {})
            if number < contexts:
                images.append(folder / name)
                labels.append(folder / f"label_{number}.nii.gz")
                write_label_map(labels[-1], resize_nearest(label, shape), np.eye(4), {})
            bar.advance()
    largest = np.argsort(np.bincount(label.ravel())[1:])[::-1][:structures] + 1
    examples_of = {
        f"structure {value}": [
            Example(image, mask=mask, labels=[int(value)])
            for image, mask in zip(images, labels, strict=True)
        ]
        for value in largest
    }
    return segmenter.task(examples_of)


def _run(task: Task, segmenter: _TimedSegmenter, target: Path) -> Stages:
    segmenter.seconds = 0.0
    start = time.perf_counter()
    task.open(target)
    opened = time.perf_counter()
    result = task.segment(show=False)
    segmented = time.perf_counter()
    result.save(target.with_name("result.nii.gz"), [target])
    written = time.perf_counter()
    network = segmenter.seconds
    return Stages(opened - start, network, segmented - opened - network, written - segmented)


def _table(runs: Sequence[Stages], memory: dict[str, int]) -> Table:
    table = Table("one target", title="From its file to the file of its label map")
    table.add_column("median s", justify="right")
    table.add_column("spread", justify="right")
    table.add_column("share", justify="right")
    total = statistics.median(run.total for run in runs)
    for stage in ("reading", "network", "composing", "writing", "total"):
        seconds = [getattr(run, stage) for run in runs]
        middle = statistics.median(seconds)
        if stage == "total":
            table.add_section()
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        table.add_row(stage, f"{middle:.2f}", spread, f"{middle / total:.0%}")
    table.add_section()
    for name, size in memory.items():
        table.add_row(f"memory, {name} (GB)", f"{size / GB:.2f}", "", "")
    return table
