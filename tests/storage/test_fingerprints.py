"""What was changed is noticed, and how an array is spread does not matter."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from wsicl_jax.storage.fingerprints import differing, fingerprint_arrays, fingerprint_on_host

KINDS = ("float32", "bfloat16", "float16", "int32", "int8", "uint32")


def array(kind: str = "float32", shape: tuple[int, ...] = (3, 5, 7)):
    values = np.random.default_rng(0).normal(0, 50, shape)
    return jnp.asarray(values.astype(np.int32 if "int" in kind else np.float32)).astype(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_devices_and_host_give_the_same_fingerprint(kind):
    given = array(kind)
    assert fingerprint_arrays({"x": given}) == {"x": fingerprint_on_host(np.asarray(given))}


def test_the_fingerprint_is_as_defined():
    bits = np.asarray(array()).view(np.uint32).reshape(-1)
    expected = sum(int(word) * (2 * i + 1) for i, word in enumerate(bits)) % 2**32
    assert fingerprint_arrays({"x": array()}) == {"x": expected}


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_bit_changes_the_fingerprint(kind):
    given = np.asarray(array(kind, (4, 3)))
    before = fingerprint_on_host(given)
    bits = given.view(f"uint{8 * given.dtype.itemsize}")
    for at in np.ndindex(bits.shape):
        for bit in range(8 * given.dtype.itemsize):
            changed = bits.copy()
            changed[at] ^= np.array(1 << bit).astype(bits.dtype)
            assert fingerprint_on_host(changed.view(given.dtype)) != before


def test_exchanged_entries_change_the_fingerprint():
    given = np.asarray(array())
    assert fingerprint_on_host(given[::-1]) != fingerprint_on_host(given)


_SPREAD = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from wsicl_jax.storage.fingerprints import fingerprint_arrays
import numpy as np
mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
x = jax.random.normal(jax.random.key(0), (4, 6, 8))
specs = [P(), P("a"), P("b"), P("a", None, "b"), P(None, "a", "b"), P(None, None, ("b", "a"))]
placed = [jax.device_put(x, NamedSharding(mesh, spec)) for spec in specs]
found = [fingerprint_arrays({"x": y})["x"] for y in [x, *placed]]
assert len(set(found)) == 1, found
"""


def test_the_fingerprint_does_not_depend_on_the_sharding():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
    }
    subprocess.run([sys.executable, "-c", _SPREAD], env=environment, check=True)


def test_differing_names_are_those_missing_or_of_other_values():
    assert differing({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "d": 3}) == ["b", "c", "d"]
