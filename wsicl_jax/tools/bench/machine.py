"""Describes the machine that a benchmark ran on."""

import os
import platform
from pathlib import Path

import jax

from wsicl_jax.model import ops


def machine() -> str:
    """The first device of this process, and the versions of JAX and Python."""
    device = jax.local_devices()[0]
    versions = f"jax {jax.__version__}, Python {platform.python_version()}"
    if device.platform != "cpu":
        return f"{device.device_kind}, {versions}"
    cores = f"{os.cpu_count()} cores"
    return f"{_processor()}, {cores}, {versions}, convolutions by {ops.cpu_convolution()}"


def _processor() -> str:
    """The processor's name on Linux, elsewhere its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
