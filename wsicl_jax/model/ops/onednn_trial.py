"""Compares oneDNN's convolution with NumPy: `python -m wsicl_jax.model.ops.onednn_trial`.

`onednn_support` runs it in a process of its own, since a call that jaxlib misunderstands can end
the process. It prints a JSON object: whether oneDNN is `usable`, and the `reason` if it is not.
"""

import json
from typing import NamedTuple

import jax
import numpy as np

from wsicl_jax.model.ops import onednn

_TOLERANCE = 1e-5
"""Largest deviation, as a share of the largest magnitude."""


class _Case(NamedTuple):
    """A call; each of its settings differs from its default in one case at least."""

    shape: tuple[int, ...]
    c_out: int
    size: int
    padding: tuple[tuple[int, int], ...]
    stride: int = 1
    dilation: tuple[int, int, int] = (1, 1, 1)


_CASES = (
    _Case((2, 5, 4, 6, 3), 40, 3, ((0, 1), (1, 1), (2, 1))),
    _Case((1, 4, 6, 8, 16), 1, 4, ((1, 1), (0, 2), (1, 1)), stride=2),
    _Case((1, 7, 6, 5, 2), 16, 2, ((1, 1), (1, 1), (0, 0)), dilation=(2, 2, 1)),
)


def main() -> None:
    inputs = [_inputs(case) for case in _CASES]
    try:
        found = jax.jit(_by_onednn)(inputs)
    except jax.errors.JaxRuntimeError as error:
        reason = f"jaxlib refuses it: {error}"
    else:
        deviation = np.max(list(map(_deviation, _CASES, inputs, found)))
        # A deviation that is no number is too large as well.
        reason = "" if deviation <= _TOLERANCE else f"its results deviate by {deviation:.1e}"
    print(json.dumps({"usable": not reason, "reason": reason}))


def _inputs(case: _Case) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    kernel = (case.size,) * 3 + (case.shape[-1], case.c_out)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in (case.shape, kernel))
    return x, kernel


def _by_onednn(inputs):
    return [
        onednn.convolve(*pair, case.padding, stride=case.stride, dilation=case.dilation)
        for case, pair in zip(_CASES, inputs, strict=True)
    ]


def _deviation(case: _Case, pair: tuple[np.ndarray, np.ndarray], found: jax.Array) -> float:
    x, kernel = (array.astype(np.float64) for array in pair)
    padded = np.pad(x, ((0, 0), *case.padding, (0, 0)))
    expected = np.zeros(found.shape)
    for place in np.ndindex(kernel.shape[:3]):
        region = [
            slice(at := where * apart, at + (n - 1) * case.stride + 1, case.stride)
            for where, apart, n in zip(place, case.dilation, found.shape[1:4], strict=True)
        ]
        expected += padded[:, *region] @ kernel[place]
    return float(np.abs(found - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    main()
