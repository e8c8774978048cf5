"""Agreement of a restored image with the original."""

import math

import numpy as np
from jaxtyping import Float

from wsicl_jax.errors import DataError, ShapeError
from wsicl_jax.metrics.shapes import check_same_shape

HIGHEST_PSNR = 100.0
"""Upper limit of the PSNR in dB, for equal images, whose PSNR would be infinite."""

SSIM_WINDOW = 7
"""Side of the window of SSIM in voxels; smaller in images where it does not fit."""


def psnr(
    image: Float[np.ndarray, "x y z"], truth: Float[np.ndarray, "x y z"], data_range: float
) -> float:
    """Peak signal-to-noise ratio in dB; at most `HIGHEST_PSNR`, as for equal images.

    `data_range` is the largest possible value minus the least: 1 for images in [0, 1].

    Raises:
        ShapeError: the shapes differ.
        DataError: a value is not finite, or the range is not positive.
    """
    from skimage.metrics import peak_signal_noise_ratio

    image, truth = _checked(image, truth, data_range)
    with np.errstate(divide="ignore"):
        ratio = peak_signal_noise_ratio(truth, image, data_range=data_range)
    return min(float(ratio), HIGHEST_PSNR)


def ssim(
    image: Float[np.ndarray, "x y z"], truth: Float[np.ndarray, "x y z"], data_range: float
) -> float:
    """Structural similarity, at most 1 (equal images), as the mean over a 3D image.

    After Wang et al. 2004 (doi:10.1109/TIP.2003.819861), in uniform windows of `SSIM_WINDOW`
    voxels a side; in a shorter image, the largest odd number that fits.
    `data_range` as in `psnr`.

    Raises:
        ShapeError: the shapes differ, or a side has less than 3 voxels.
        DataError: a value is not finite, or the range is not positive.
    """
    from skimage.metrics import structural_similarity

    image, truth = _checked(image, truth, data_range)
    shortest = min(image.shape)
    if shortest < 3:
        raise ShapeError(
            f"the image is {image.shape}; SSIM needs 3 voxels or more along each axis: compare "
            "larger images"
        )
    window = min(SSIM_WINDOW, shortest - 1 + shortest % 2)
    return float(structural_similarity(image, truth, data_range=data_range, win_size=window))


def _checked(
    image: np.ndarray, truth: np.ndarray, data_range: float
) -> tuple[np.ndarray, np.ndarray]:
    check_same_shape("image", image, truth)
    if not (math.isfinite(data_range) and data_range > 0):
        raise DataError(f"the range of values is {data_range}; expected a positive number")
    for name, values in (("image", image), ("truth", truth)):
        if not np.isfinite(values).all():
            raise DataError(f"the {name} has values that are not finite; it cannot be compared")
    return image.astype(np.float64), truth.astype(np.float64)
