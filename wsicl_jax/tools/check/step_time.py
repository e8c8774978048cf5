"""Predicts the time of a training step on a chip, from what a device does and the chip's rates.

The rates are those of data sheets, which no program reaches: the result is a bound from below.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wsicl_jax.distributed.hardware import Chip, GpuTarget
from wsicl_jax.distributed.placement import AXES
from wsicl_jax.errors import ConfigError
from wsicl_jax.tools.check.step_cost import Exchange, StepCost

LATENCY = 20e-6
"""Seconds that each exchange takes besides its bytes: an assumption."""

_COMBINED = 30 * 2**20
"""Bytes of arrays that XLA reduces or gathers together."""

_TRANSFERS = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}
"""How often each device sends the share that it does not hold."""


@dataclass(frozen=True)
class StepTime:
    """Least seconds of a step on one device."""

    computing: float
    """By the chip's peak."""
    memory: float
    """By the bandwidth of its memory."""
    exchange: float
    """By its links and `LATENCY`; 0 on one device."""

    @property
    def total(self) -> float:
        """Computing and memory access overlap; exchange is taken as not overlapping."""
        return max(self.computing, self.memory) + self.exchange

    @property
    def bound(self) -> str:
        """What takes the longest."""
        times = {"computing": self.computing, "memory": self.memory, "exchange": self.exchange}
        return max(times, key=times.__getitem__)


def step_time(cost: StepCost, chip: Chip, mesh: Mapping[str, int], accessed: int) -> StepTime:
    """The least time of a step; `mesh` has the devices along each axis, in its order.

    `accessed` are the bytes that a device reads from and writes to its memory.

    Raises:
        ConfigError: nothing is known about links between so many devices.
    """
    computing = math.fsum(flops / _rate(chip, dtype) for dtype, flops in cost.flops.items())
    memory = accessed / chip.bandwidth
    exchange = 0.0
    for one, size in cost.exchanged.items():
        if devices_of(one, mesh) > 1:
            exchange += _seconds(one, size, chip, mesh) + LATENCY * exchanges(cost, one)
    return StepTime(computing, memory, exchange)


def exchanges(cost: StepCost, one: Exchange) -> int:
    """How often devices exchange, where arrays are combined; border planes are not."""
    times = cost.exchanges[one]
    return times if one.kind == "permute" else min(times, -(-cost.exchanged[one] // _COMBINED))


def devices_of(exchange: Exchange, mesh: Mapping[str, int]) -> int:
    """Number of devices that exchange with each other."""
    return math.prod(mesh[axis] for axis in exchange.axes)


def link_of(exchange: Exchange, chip: Chip, mesh: Mapping[str, int]) -> str:
    """The slowest connection that an exchange uses, in words."""
    _, hosts = _within_and_hosts(exchange, chip, mesh)
    if hosts > 1:
        return "network between hosts"
    return "links within a host" if isinstance(chip.target, GpuTarget) else "links of the pod"


def _rate(chip: Chip, dtype: str) -> float:
    # GPUs multiply float32 as TF32, at half the rate; TPUs as bfloat16.
    half = dtype == "float32" and isinstance(chip.target, GpuTarget)
    return chip.flops / 2 if half else chip.flops


def _seconds(exchange: Exchange, size: int, chip: Chip, mesh: Mapping[str, int]) -> float:
    within, hosts = _within_and_hosts(exchange, chip, mesh)
    if hosts > 1 and chip.network is None:
        raise ConfigError(
            f"a pod of {chip.kind} has {chip.neighbours:,} chips; no prediction for more"
        )
    if exchange.kind == "permute":
        return size / (chip.link if hosts == 1 else chip.network)
    # First within a host, then each device of a host with its part among the hosts.
    transfers = _TRANSFERS[exchange.kind]
    seconds = transfers * size * (within - 1) / within / chip.link
    if hosts > 1:
        seconds += transfers * size / within * (hosts - 1) / hosts / chip.network
    return seconds


def _within_and_hosts(exchange: Exchange, chip: Chip, mesh: Mapping[str, int]) -> tuple[int, int]:
    """Of the devices of an exchange: how many share a host or pod, and over how many it extends."""
    numbers = np.arange(math.prod(mesh.values())).reshape([mesh[axis] for axis in AXES])
    # The first group has position 0 along all other axes.
    group = numbers[tuple(slice(None if axis in exchange.axes else 1) for axis in AXES)]
    within = int((group < chip.neighbours).sum())
    return within, -(-group.size // within)
