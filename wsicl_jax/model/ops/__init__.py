"""Operations on volumes, lowered per platform: convolution, pooling, upsampling.

Functions of arrays without parameters; layers with parameters are in `model.blocks`.
"""

from wsicl_jax.model.ops.convolution import add_bias, conv3d, conv3d_down
from wsicl_jax.model.ops.lowering import (
    cpu_convolution,
    native_lowering,
    portable_lowering,
    tpu_convolutions,
)
from wsicl_jax.model.ops.resizing import max_pool2, upsample2

__all__ = [
    "add_bias",
    "conv3d",
    "conv3d_down",
    "cpu_convolution",
    "max_pool2",
    "native_lowering",
    "portable_lowering",
    "tpu_convolutions",
    "upsample2",
]
