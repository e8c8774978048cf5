"""Equal shapes of masks and images that are compared."""

import numpy as np

from wsicl_jax.errors import ShapeError


def _check_same_shape(name: str, given: np.ndarray, truth: np.ndarray) -> None:
    if given.shape != truth.shape:
        raise ShapeError(
            f"the {name} is {given.shape} but the truth {truth.shape}; bring both to one grid"
        )
