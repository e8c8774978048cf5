"""What segmenting a target will take of the host's memory, known before it is begun."""

import math
from dataclasses import dataclass

import psutil
from rich.table import Table

from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.inference.prepared_image import BYTES_PER_VOXEL

GB = 10**9

_READING = 8
"""Bytes that reading a file may hold for a voxel beside the image in float32: what was
decompressed, and values of another type."""
_WORKING = 64 * 2**20
"""Slabs that are put together, and other small things."""


@dataclass(frozen=True)
class Plan:
    """How one target will be segmented, and with how much memory."""

    looks: str
    """First look and second, for people."""
    tiles: int
    """Most tiles of the second look, for each structure; 0: there is none."""
    parts: dict[str, int]
    """Bytes by what they are for; they are not all held at one time."""
    peak_bytes: int
    """Most bytes of the process at one time."""

    @property
    def memory_gb(self) -> float:
        """Most memory of the process at one time, GB of 10^9 bytes."""
        return self.peak_bytes / GB

    def table(self) -> Table:
        """The parts, for `console().print`."""
        table = Table("memory for")
        table.add_column("GB", justify="right")
        for what, size in self.parts.items():
            table.add_row(what, f"{size / GB:.2f}")
        table.add_section()
        table.add_row("at one time", f"{self.memory_gb:.2f}")
        return table

    def check(self, max_memory_gb: float | None) -> None:
        """Raises `DataError` if the plan takes more than `max_memory_gb`."""
        if max_memory_gb is not None and self.memory_gb > max_memory_gb:
            largest = ", ".join(f"{what} {size / GB:.2f}" for what, size in self.parts.items())
            raise DataError(
                f"segmenting needs {self.memory_gb:.2f} GB ({largest}), and max_memory_gb is "
                f"{max_memory_gb:g}; allow more, give a smaller image, or leave out probabilities"
            )


def plan(
    shape: Shape3,
    *,
    structures: int,
    tiles: int,
    tile_voxels: int,
    probabilities: bool,
    refine: bool,
    program_bytes: int,
    looks: str,
) -> Plan:
    """The plan for a target of this shape.

    `program_bytes` is what the compiled network holds while it runs, 0 where that is not in the
    host's memory.
    """
    voxels = math.prod(shape)
    own = 2 * voxels if refine else 0
    # Label map in one byte, best score so far, probabilities in two.
    result = voxels * (1 + (4 if structures > 1 else 0) + (2 * structures if probabilities else 0))
    scores = 4 * tile_voxels * (structures + tiles)
    parts = {
        "the process as it is": psutil.Process().memory_info().rss,
        "reading and preparing the target": (BYTES_PER_VOXEL + _READING) * voxels,
        "the network": program_bytes,
        "the target at its own resolution": own,
        "the result": result + scores + _WORKING,
    }
    before, reading, network, held, found = parts.values()
    peak = before + max(reading, held + found + network)
    return Plan(looks, tiles, parts, peak)
