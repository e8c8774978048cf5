"""Peak rates of accelerators, to compute the share that is used."""

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
"""Dense bfloat16 operations per second (V100: float16), from the data sheets, without sparsity. The
keys are JAX's names of devices, for GPUs their beginning."""


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 floating-point operations per second of one device; None if unknown.

    `device_kind` is that of `jax.Device`, such as `NVIDIA H100 80GB HBM3`.
    """
    # A longer name is the same GPU with its form and memory, but another TPU.
    beginnings = [
        name
        for name in PEAK_FLOPS
        if device_kind == name
        or (name[:3] != "TPU" and device_kind.startswith((f"{name} ", f"{name}-")))
    ]
    return PEAK_FLOPS[max(beginnings, key=len)] if beginnings else None
