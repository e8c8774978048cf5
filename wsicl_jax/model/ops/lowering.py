"""The choice of an operation's lowering, by platform."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import jax
import numpy as np
from jax import lax
from jaxtyping import Array

from wsicl_jax.model.ops import onednn_support

# Part of JAX's cache keys, so that no program of another choice is reused.
_lowering = jax.make_user_context(default_value="fastest")

_tpu_convolutions = jax.make_user_context(default_value="planes")


def tpu_convolutions(kind: Literal["planes", "volumes"]) -> AbstractContextManager[None]:
    """Within the block, programs for TPUs have convolutions of this kind.

    `ParallelConfig.tpu_convolutions` describes them.
    """
    return _tpu_convolutions(kind)


def native_lowering(platform: str = "gpu") -> AbstractContextManager[None]:
    """Within the block, programs are lowered as for an accelerator, also on CPU.

    For estimates about accelerators on a machine without one.
    """
    return _lowering("tpu" if platform == "tpu" else "native")


def portable_lowering() -> AbstractContextManager[None]:
    """Within the block, programs have nothing that is specific to this version of XLA.

    For programs in files.
    """
    return _lowering("portable")


def cpu_convolution() -> str:
    """The implementation of float32 convolutions on this process's CPU, for people."""
    return "oneDNN" if uses_onednn(np.dtype(np.float32)) else "stacked planes"


def uses_onednn(dtype: np.dtype) -> bool:
    return _lowering.value == "fastest" and onednn_support.usable(dtype)


def convolves_planes_on_tpu() -> bool:
    return _tpu_convolutions.value == "planes"


def by_platform(
    *inputs: Array, cpu: Callable, default: Callable, tpu: Callable | None = None
) -> Any:
    """The operation on the platform for which the program is lowered.

    Without `tpu`, TPUs have the default.
    """
    if _lowering.value == "native":
        return default(*inputs)
    if _lowering.value == "tpu":
        return (tpu or default)(*inputs)
    others = {} if tpu is None else {"tpu": tpu}
    return lax.platform_dependent(*inputs, cpu=cpu, default=default, **others)
