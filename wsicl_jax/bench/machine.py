"""What measured: without it a figure says nothing."""

import os

import jax


def machine() -> str:
    """The device and the version that measured."""
    device = jax.local_devices()[0]
    cores = f", {os.cpu_count()} cores" if device.platform == "cpu" else ""
    return f"{device.device_kind}{cores}, jax {jax.__version__}"
