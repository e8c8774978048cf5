"""Normalisation of intensities to the range of the network's input."""

import numpy as np
from jaxtyping import Float, Num


def normalise(
    image: Num[np.ndarray, "*shape"], percentiles: tuple[float, float]
) -> Float[np.ndarray, "*shape"]:
    """Clip to two percentiles (0 to 100) and scale to [0, 1], float32; constant images become 0.

    As the published preprocessing of each volume: percentiles 0.5 and 99.5, then min-max.
    """
    return scaled(image, *percentile_range(image, percentiles))


def scaled(
    image: Num[np.ndarray, "*shape"], low: float, high: float
) -> Float[np.ndarray, "*shape"]:
    """Clip to two values and scale to [0, 1], float32; 0 everywhere if they are the same."""
    image = np.asarray(image, np.float32)
    span = np.float32(high - low)
    # Near 0, the range can be 0 in float32 only.
    if not span > 0:
        return np.zeros_like(image)
    # In place, so that a large image has one copy only.
    result = image - np.float32(low)
    result /= span
    return np.clip(result, 0, 1, out=result)


def percentile_range(
    image: Num[np.ndarray, "*shape"], percentiles: tuple[float, float]
) -> tuple[float, float]:
    """The values at two percentiles (0 to 100), in float32."""
    low, high = np.percentile(np.asarray(image, np.float32), percentiles)
    return float(low), float(high)
