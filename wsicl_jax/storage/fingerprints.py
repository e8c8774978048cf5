"""Fingerprints of arrays, which show whether values have changed since they were written.

Array file formats do not detect every changed byte. A fingerprint is independent of how an array
is sharded, and changes with every single changed bit.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt32


def fingerprint_arrays(arrays: Mapping[str, Array]) -> dict[str, int]:
    """The fingerprint of each array, by name: sum of bits[i] * (2 i + 1) modulo 2^32.

    Computed on the arrays' devices. Collective: all processes that hold shards call it and get
    the same numbers.
    """
    values = jax.device_get(_on_devices(dict(arrays)))
    return {name: int(value) for name, value in values.items()}


def fingerprint_on_host(array: np.ndarray) -> int:
    """The same fingerprint of an array in host memory, by one process alone."""
    bits = np.ascontiguousarray(array).view(f"uint{8 * array.dtype.itemsize}").reshape(-1)
    factors = np.arange(bits.size, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return int((bits.astype(np.uint32) * factors).sum(dtype=np.uint32))


def differing(actual: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    """Names that only one of the two has, or whose fingerprints differ."""
    return [name for name in actual | expected if actual.get(name) != expected.get(name)]


def name_list(names: Iterable[str], limit: int = 2) -> str:
    """The first `limit` names and the number of others, for a message."""
    names = list(names)
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


@jax.jit
def _on_devices(arrays: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    # One program for all: simulated devices deadlock when several run at once.
    return {name: _fingerprint(array) for name, array in arrays.items()}


def _fingerprint(array: Array) -> UInt32[Array, ""]:
    # The flat index is computed axis by axis, because flattening would gather the shards.
    flat_index = jnp.zeros(array.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(array.ndim)):
        index = lax.broadcasted_iota(jnp.uint32, array.shape, axis)
        flat_index += index * np.uint32(stride % 2**32)
        stride *= array.shape[axis]
    return jnp.sum(_words(array) * (2 * flat_index + 1), dtype=jnp.uint32)


def _words(array: Array) -> UInt32[Array, "*shape"]:
    if array.dtype == jnp.bool:
        return array.astype(jnp.uint32)
    if array.dtype.itemsize > 4:
        raise TypeError(f"no fingerprint of {array.dtype}; arrays have at most 32 bits an entry")
    unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
    return lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
