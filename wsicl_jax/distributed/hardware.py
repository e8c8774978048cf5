"""Accelerators: rates and sizes from their data sheets, and what their compilers need to know."""

import math
from dataclasses import dataclass

from wsicl_jax.errors import ConfigError, hint


@dataclass(frozen=True)
class GpuTarget:
    """What XLA's compiler for NVIDIA GPUs asks of a device."""

    capability: tuple[int, int]
    """CUDA compute capability."""
    cores: int
    """Streaming multiprocessors."""
    clock: float
    """GHz, the highest."""
    cache: int
    """Bytes of the L2 cache."""

    platform = "cuda"

    def description(self, chip: "Chip") -> str:
        """A `GpuTargetConfigProto` as text, with the figures that CUDA gives for a device."""
        major, minor = self.capability
        shared, threads, units = _MULTIPROCESSORS[self.capability]
        # From 9.0 on there are instructions that only this one capability has.
        own = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
        return f"""
            gpu_device_info {{
              cuda_compute_capability {{ major: {major} minor: {minor} {own} }}
              core_count: {self.cores}
              fpus_per_core: {units}
              clock_rate_ghz: {self.clock}
              memory_bandwidth: {chip.bandwidth:.0f}
              device_memory_size: {chip.memory * 1e9:.0f}
              l2_cache_size: {self.cache}
              shared_memory_per_core: {shared}
              shared_memory_per_block_optin: {shared - _RESERVED_SHARED}
              shared_memory_per_block: {48 * 1024}
              registers_per_core_limit: {64 * 1024}
              registers_per_block_limit: {64 * 1024}
              threads_per_core_limit: {threads}
              threads_per_block_limit: 1024
              threads_per_warp: 32
              block_dim_limit_x: {2**31 - 1}
              block_dim_limit_y: {2**16 - 1}
              block_dim_limit_z: {2**16 - 1}
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: {_CUDNN[0]} minor: {_CUDNN[1]} }}
            device_description_str: "{chip.kind}"
        """


_MULTIPROCESSORS = {
    (8, 0): (164 * 1024, 2048, 64),
    (8, 9): (100 * 1024, 1536, 128),
    (9, 0): (228 * 1024, 2048, 128),
    (10, 0): (228 * 1024, 2048, 128),
}
"""By compute capability, of a multiprocessor: bytes of shared memory, threads, float32 units."""

_RESERVED_SHARED = 1024
"""Bytes of shared memory that CUDA keeps for each block."""

_CUDNN = (9, 10)
"""Version whose convolutions the compiler may choose."""


@dataclass(frozen=True)
class TpuTarget:
    """What XLA's compiler for TPUs asks of a slice."""

    name: str
    """The generation, in names of slices."""
    axes: int
    """Axes of the torus of chips."""
    cores: str | None = None
    """How JAX uses a chip's cores, where it could use each as a device."""

    platform = "tpu"

    def slice(self, devices: int) -> str:
        """The name of the smallest slice of so many chips or more, such as `v4:2x2x1`."""
        return f"{self.name}:{'x'.join(map(str, self._sides(devices)))}"

    def devices_of_slice(self, devices: int) -> int:
        """The number of chips of the smallest slice of so many or more."""
        return math.prod(self._sides(devices))

    def _sides(self, devices: int) -> list[int]:
        sides = [2, 2, 1][: self.axes]
        while math.prod(sides) < devices:
            # The last of the shortest sides, as the slices that are offered.
            sides[max(range(len(sides)), key=lambda i: (-sides[i], i))] *= 2
        return sides


@dataclass(frozen=True)
class Chip:
    """An accelerator: one device of JAX. Rates are per second, one way."""

    kind: str
    """JAX's name of the device; of a GPU its beginning."""
    flops: float
    """Dense bfloat16 operations, without sparsity."""
    memory: float
    """GB (10^9 bytes)."""
    bandwidth: float
    """Bytes to and from its memory."""
    link: float
    """Bytes that it sends to its neighbours, over all links: NVLink, PCIe or a TPU's own."""
    network: float | None
    """Bytes that it sends to devices of other hosts; None: not planned for."""
    neighbours: int
    """Devices that these links connect: of a host, or of a TPU pod."""
    target: GpuTarget | TpuTarget


_Number = int | float


def _gpu(
    kind: str,
    flops: int,
    memory: int,
    rates: tuple[int, int, _Number],
    capability: tuple[int, int],
    cores: int,
    clock: float,
    cache: _Number,
) -> Chip:
    """`flops` are 10^12, `rates` GB per second of memory, link and network, `cache` MiB."""
    target = GpuTarget(capability, cores, clock, int(cache * 2**20))
    return Chip(kind, flops * 1e12, float(memory), *(rate * 1e9 for rate in rates), 8, target)


def _tpu(
    kind: str, flops: int, memory: int, rates: tuple[int, int], pod: int, target: TpuTarget
) -> Chip:
    """As `_gpu`, without a network."""
    bandwidth, link = (rate * 1e9 for rate in rates)
    return Chip(kind, flops * 1e12, float(memory), bandwidth, link, None, pod, target)


CHIPS = {
    "h200": _gpu("NVIDIA H200", 989, 141, (4800, 450, 50), (9, 0), 132, 1.98, 50),
    "h100": _gpu("NVIDIA H100", 989, 80, (3350, 450, 50), (9, 0), 132, 1.98, 50),
    "h100-pcie": _gpu("NVIDIA H100 PCIe", 756, 80, (2000, 64, 25), (9, 0), 114, 1.755, 50),
    "b200": _gpu("NVIDIA B200", 2250, 180, (8000, 900, 50), (10, 0), 148, 1.965, 126.5),
    "a100": _gpu("NVIDIA A100", 312, 80, (2039, 300, 25), (8, 0), 108, 1.41, 40),
    "a100-40": _gpu("NVIDIA A100", 312, 40, (1555, 300, 25), (8, 0), 108, 1.41, 40),
    "l4": _gpu("NVIDIA L4", 121, 24, (300, 32, 12.5), (8, 9), 58, 2.04, 48),
    "l40s": _gpu("NVIDIA L40S", 362, 48, (864, 32, 12.5), (8, 9), 142, 2.52, 96),
    "v4": _tpu("TPU v4", 275, 32, (1228, 300), 4096, TpuTarget("v4", 3, "megacore")),
    "v5e": _tpu("TPU v5 lite", 197, 16, (819, 200), 256, TpuTarget("v5e", 2)),
    "v5p": _tpu("TPU v5", 459, 95, (2765, 600), 8960, TpuTarget("v5p", 3)),
    "v6e": _tpu("TPU v6 lite", 918, 32, (1638, 400), 256, TpuTarget("v6e", 2)),
}
"""By the names of `wsicl check --chip`. TFLOP/s and GB are from data sheets. Links are NVLink, or
PCIe for GPUs without it (L4, L40S, H100 PCIe). Networks are those of common servers: an adapter of
400 Gbit/s a GPU for H100, H200 and B200, of 200 for A100 and H100 PCIe, of 100 for the others."""

_OTHER_FLOPS = {"TPU v5p": CHIPS["v5p"].flops, "Tesla V100": 125e12}
"""By other names of devices."""


def chip_named(name: str) -> Chip:
    """The chip of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in CHIPS:
        raise ConfigError(f"--chip is {name!r}; {hint(name, CHIPS)}")
    return CHIPS[name]


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations per second of one device (V100: float16); None if unknown.

    `device_kind` is that of `jax.Device`, such as `NVIDIA H100 80GB HBM3`.
    """
    kinds = {chip.kind: chip.flops for chip in CHIPS.values()} | _OTHER_FLOPS
    # A longer name is the same GPU with its form and memory, but another TPU.
    beginnings = [
        name
        for name in kinds
        if device_kind == name
        or (name[:3] != "TPU" and device_kind.startswith((f"{name} ", f"{name}-")))
    ]
    return kinds[max(beginnings, key=len)] if beginnings else None
