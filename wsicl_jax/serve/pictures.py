"""Small pictures of images, for lists."""

import io

import matplotlib.image
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from wsicl_jax.data.images import Volume

_SIDE = 96
"""Longest side, in pixels."""


def picture(volume: Volume) -> bytes:
    """The middle axial slice as PNG: the subject's right at the right, its front at the top."""
    turned = apply_orientation(volume.image, io_orientation(volume.affine))
    plane = turned[:, :, turned.shape[2] // 2].T[::-1]
    columns, rows = (np.array(volume.spacing_mm)[_order(volume)][:2] * turned.shape[:2]).tolist()
    scale = _SIDE / max(columns, rows)
    height, width = (max(round(size * scale), 1) for size in (rows, columns))
    y = np.linspace(0, plane.shape[0] - 1, height).round().astype(int)
    x = np.linspace(0, plane.shape[1] - 1, width).round().astype(int)
    small = plane[np.ix_(y, x)]
    low, high = np.percentile(plane, (1, 99)).tolist()
    file = io.BytesIO()
    matplotlib.image.imsave(
        file, small, vmin=low, vmax=high if high > low else low + 1, cmap="gray", format="png"
    )
    return file.getvalue()


def _order(volume: Volume) -> np.ndarray:
    """The voxel axis that runs along each RAS+ axis."""
    return np.argsort(io_orientation(volume.affine)[:, 0])
