"""What measured: without it a figure says nothing."""

import os
import platform
from pathlib import Path

import jax

from wsicl_jax.model import ops


def machine() -> str:
    """The device and the versions that measured."""
    device = jax.local_devices()[0]
    versions = f"jax {jax.__version__}, Python {platform.python_version()}"
    if device.platform != "cpu":
        return f"{device.device_kind}, {versions}"
    cores = f"{os.cpu_count()} cores"
    return f"{_processor()}, {cores}, {versions}, convolutions by {ops.cpu_convolution()}"


def _processor() -> str:
    """The processor's name as Linux tells it, or its architecture."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
