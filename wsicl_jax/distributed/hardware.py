"""Accelerators: rates and sizes from their data sheets, and what their compilers need to know."""

import math
from dataclasses import dataclass

from wsicl_jax.errors import ConfigError, hint

_MIB = 2**20


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
    """Dense bfloat16 operations, without sparsity (V100: float16)."""
    memory: float
    """GB (10^9 bytes)."""
    bandwidth: float
    """Bytes to and from its memory."""
    link: float
    """Bytes that it sends to its neighbours, over all links: NVLink, PCIe or a TPU's own."""
    neighbours: int
    """Devices that these links connect: of a host, or of a TPU pod."""
    network: float | None
    """Bytes that it sends to devices of other hosts; None: not planned for."""
    target: GpuTarget | TpuTarget | None
    """None: no compiler for it is at hand."""


CHIPS = {
    "h200": Chip(
        "NVIDIA H200", 989e12, 141, 4.8e12, 450e9, 8, 50e9, GpuTarget((9, 0), 132, 1.98, 50 * _MIB)
    ),
    "h100": Chip(
        "NVIDIA H100", 989e12, 80, 3.35e12, 450e9, 8, 50e9, GpuTarget((9, 0), 132, 1.98, 50 * _MIB)
    ),
    "h100-pcie": Chip(
        "NVIDIA H100 PCIe",
        756e12,
        80,
        2.0e12,
        64e9,
        8,
        25e9,
        GpuTarget((9, 0), 114, 1.755, 50 * _MIB),
    ),
    "b200": Chip(
        "NVIDIA B200",
        2250e12,
        180,
        8.0e12,
        900e9,
        8,
        50e9,
        GpuTarget((10, 0), 148, 1.965, 132_644_864),
    ),
    "a100": Chip(
        "NVIDIA A100", 312e12, 80, 2.039e12, 300e9, 8, 25e9, GpuTarget((8, 0), 108, 1.41, 40 * _MIB)
    ),
    "a100-40": Chip(
        "NVIDIA A100", 312e12, 40, 1.555e12, 300e9, 8, 25e9, GpuTarget((8, 0), 108, 1.41, 40 * _MIB)
    ),
    "l4": Chip(
        "NVIDIA L4", 121e12, 24, 300e9, 32e9, 8, 1.5e9, GpuTarget((8, 9), 58, 2.04, 48 * _MIB)
    ),
    "l40s": Chip(
        "NVIDIA L40S", 362e12, 48, 864e9, 32e9, 8, 12.5e9, GpuTarget((8, 9), 142, 2.52, 96 * _MIB)
    ),
    "v100": Chip("Tesla V100", 125e12, 32, 900e9, 150e9, 8, 12.5e9, None),
    "v4": Chip("TPU v4", 275e12, 32, 1.228e12, 300e9, 4096, None, TpuTarget("v4", 3, "megacore")),
    "v5e": Chip("TPU v5 lite", 197e12, 16, 819e9, 200e9, 256, None, TpuTarget("v5e", 2)),
    "v5p": Chip("TPU v5", 459e12, 95, 2.765e12, 600e9, 8960, None, TpuTarget("v5p", 3)),
    "v6e": Chip("TPU v6 lite", 918e12, 32, 1.638e12, 400e9, 256, None, TpuTarget("v6e", 2)),
}
"""By the names of `wsicl check --chip`. GPUs of a host are joined by NVLink or, if they have none
(L4, L40S, H100 PCIe), by PCIe; the network is that of the vendors' reference systems."""

_OTHER_KINDS = {"TPU v5p": "v5p"}
"""Further names of devices."""


def chip_to_compile_for(name: str) -> Chip:
    """The chip of a name of `CHIPS` that has a compiler.

    Raises:
        ConfigError: there is none of this name.
    """
    known = [known for known, chip in CHIPS.items() if chip.target]
    if name not in known:
        raise ConfigError(f"--chip is {name!r}; {hint(name, known)}")
    return CHIPS[name]


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 floating-point operations per second of one device; None if unknown.

    `device_kind` is that of `jax.Device`, such as `NVIDIA H100 80GB HBM3`.
    """
    kinds = {chip.kind: chip for chip in CHIPS.values()}
    kinds |= {kind: CHIPS[name] for kind, name in _OTHER_KINDS.items()}
    # A longer name is the same GPU with its form and memory, but another TPU.
    beginnings = [
        name
        for name in kinds
        if device_kind == name
        or (name[:3] != "TPU" and device_kind.startswith((f"{name} ", f"{name}-")))
    ]
    return kinds[max(beginnings, key=len)].flops if beginnings else None
