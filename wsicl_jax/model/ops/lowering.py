"""Which lowering an operation gets, by platform."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
import numpy as np
from jax import lax
from jaxtyping import Array

from wsicl_jax.model.ops import onednn

# Part of the keys of JAX's caches, so that no program traced with another choice is reused.
_lowering = jax.make_user_context(default_value="fastest")


def native_lowering() -> AbstractContextManager[None]:
    """Within the block, programs are lowered as for accelerators, also on CPU.

    For what is compiled on a machine without one to learn about those that have.
    """
    return _lowering("native")


def portable_lowering() -> AbstractContextManager[None]:
    """Within the block, programs hold nothing that only this version of XLA knows.

    For programs that are written to a file.
    """
    return _lowering("portable")


def cpu_convolution() -> str:
    """What makes float32 convolutions on this process's CPU, in words."""
    return "oneDNN" if uses_onednn(np.dtype(np.float32)) else "stacked planes"


def uses_onednn(dtype: np.dtype) -> bool:
    return _lowering.value == "fastest" and onednn.usable(dtype)


def by_platform(*inputs: Array, cpu: Callable, default: Callable):
    if _lowering.value == "native":
        return default(*inputs)
    return lax.platform_dependent(*inputs, cpu=cpu, default=default)
