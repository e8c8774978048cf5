"""Volumes of the service's tests as readers give them to napari, and layers without napari."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np

SCALE_MM = (3.0, 0.75, 1.5)
"""Of the axes z, y, x."""


def zyx(file):
    """The voxels of a file, in the order of SimpleITK's arrays."""
    return np.ascontiguousarray(np.asarray(nib.load(file).dataobj).T)


def layer(data, scale=(1, 1, 1), translate=(0, 0, 0), name="a layer", ndim=3, **others):
    """What conversion needs of a layer of napari."""

    def data_to_world(position):
        return tuple(np.multiply(position, scale) + translate)

    return SimpleNamespace(data=data, data_to_world=data_to_world, name=name, ndim=ndim, **others)
