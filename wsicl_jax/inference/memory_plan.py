"""Peak memory of segmenting a target, computed before the work begins."""

import math
from dataclasses import dataclass

import psutil
from rich.table import Table

from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.inference.postprocessing import BYTES_PER_VOXEL as POSTPROCESSING_BYTES
from wsicl_jax.inference.prepared_images import BYTES_PER_VOXEL

GB = 10**9

_READING = 8
"""Bytes per voxel while a file is read, beside the image in float32: decompressed content, and
values of another type."""
_WORKING = 64 * 2**20
"""Bytes of slabs and of other small arrays."""


@dataclass(frozen=True)
class Plan:
    """The steps of segmenting one target, and their memory."""

    steps: str
    """Coarse prediction and refinement, for people."""
    tiles: int
    """Largest number of tiles for each structure; 0 without refinement."""
    parts: dict[str, int]
    """Bytes by purpose; not all are in use at the same time."""
    peak_bytes: int
    """Peak memory of the process."""

    @property
    def memory_gb(self) -> float:
        """Peak memory of the process, in GB of 10^9 bytes."""
        return self.peak_bytes / GB

    def table(self) -> Table:
        """The parts, for `console().print`."""
        table = Table("memory for")
        table.add_column("GB", justify="right")
        for purpose, size in self.parts.items():
            table.add_row(purpose, f"{size / GB:.2f}")
        table.add_section()
        table.add_row("peak", f"{self.memory_gb:.2f}")
        return table

    def check(self, max_memory_gb: float | None) -> None:
        """Raises `DataError` if the peak is above `max_memory_gb`."""
        if max_memory_gb is not None and self.memory_gb > max_memory_gb:
            parts = ", ".join(f"{purpose} {size / GB:.2f}" for purpose, size in self.parts.items())
            raise DataError(
                f"segmenting needs {self.memory_gb:.2f} GB ({parts}), and max_memory_gb is "
                f"{max_memory_gb:g}; allow more, give a smaller image, or leave out probabilities"
            )


def plan(
    shape: Shape3,
    *,
    structures: int,
    tiles: int,
    tile_voxels: int,
    probabilities: bool,
    program_bytes: int,
    steps: str,
    postprocessing: bool = False,
) -> Plan:
    """The plan for a target of this shape.

    `tiles` is the largest number of tiles for each structure, 0 without refinement.
    `program_bytes` is the host memory of the compiled network while it runs.
    """
    voxels = math.prod(shape)
    full = 2 * voxels if tiles else 0
    # Label map in one byte, best score so far, probabilities in two.
    result = voxels * (1 + (4 if structures > 1 else 0) + (2 * structures if probabilities else 0))
    if postprocessing:
        result += POSTPROCESSING_BYTES * voxels
    scores = 4 * tile_voxels * (structures + tiles)
    parts = {
        "the process so far": psutil.Process().memory_info().rss,
        "reading and preparing the target": (BYTES_PER_VOXEL + _READING) * voxels,
        "the network": program_bytes,
        "the target at full resolution": full,
        "the result": result + scores + _WORKING,
    }
    before, reading, network, kept, composed = parts.values()
    return Plan(steps, tiles, parts, before + max(reading, kept + composed + network))
