"""Small volumes on grids that tell every axis apart."""

import nibabel as nib
import numpy as np

from wsicl_jax.config import VolumeConfig
from wsicl_jax.data.images import Volume, read_volume

VOLUME = VolumeConfig(grid=(8, 6, 10), percentiles=(2.0, 98.0))
SHAPE = (9, 7, 5)
# Sides of 1.5, 0.75 and 3 mm, turned by 30 degrees in the plane, with x and y to the left and back.
OBLIQUE = np.array(
    [
        [-1.5 * np.sqrt(3) / 2, 0.375, 0, 20],
        [-0.75, -0.75 * np.sqrt(3) / 2, 0, 7.5],
        [0, 0, 3, 100],
        [0, 0, 0, 1],
    ]
)
LPS = np.diag([-1.5, -0.75, 3, 1.0])
TURNS = [((0, 1, 2), (1, 0, 1)), ((2, 0, 1), (0, 1, 0)), ((1, 0, 2), (1, 1, 1))]


def volume(seed, shape=SHAPE, affine=OBLIQUE):
    image = np.random.default_rng(seed).gamma(2, 100, shape).astype(np.float32)
    return Volume(image, affine)


def reoriented(volume, order, flips):
    """The same volume in the world with permuted and mirrored axes, and how arrays follow."""

    def turn(array):
        return np.ascontiguousarray(np.flip(array.transpose(order), np.flatnonzero(flips)))

    # Columns: the old index that each new one counts, from its end if mirrored.
    old_of_new = np.zeros((4, 4))
    old_of_new[3, 3] = 1
    for new, old in enumerate(order):
        old_of_new[old, new] = -1 if flips[new] else 1
        old_of_new[old, 3] = volume.image.shape[old] - 1 if flips[new] else 0
    return Volume(turn(volume.image), volume.affine @ old_of_new), turn


def through_file(path, volume):
    nib.save(nib.Nifti1Image(volume.image, volume.affine), path)
    return read_volume(path)
