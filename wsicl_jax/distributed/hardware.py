"""What accelerators can do at best, to say how much of it is used."""

PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "Tesla V100": 125e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""Dense bfloat16 operations per second (V100: float16) by the name that JAX gives the device, for
GPUs its beginning; from the makers' data sheets, without sparsity."""


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 floating-point operations per second of one device; None if unknown.

    `device_kind` is that of `jax.Device`, such as `NVIDIA H100 80GB HBM3`.
    """
    # A GPU's name goes on with its form and memory, a TPU's with what makes it another chip.
    beginnings = [
        name
        for name in PEAK_FLOPS
        if device_kind == name
        or (name[:3] != "TPU" and device_kind.startswith((f"{name} ", f"{name}-")))
    ]
    return PEAK_FLOPS[max(beginnings, key=len)] if beginnings else None
