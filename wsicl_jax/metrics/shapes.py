"""A check that compared arrays have one shape."""

import numpy as np

from wsicl_jax.errors import ShapeError


def check_same_shape(name: str, array: np.ndarray, truth: np.ndarray) -> None:
    """Raises `ShapeError` if the shapes differ; `name` says what the array is."""
    if array.shape != truth.shape:
        raise ShapeError(
            f"the {name} is {array.shape} but the truth {truth.shape}; bring both to one grid"
        )
