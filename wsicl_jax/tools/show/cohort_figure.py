"""Draws synthetic cohorts, with their labels outlined."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wsicl_jax.data.synthesis.cohort import Cohort
from wsicl_jax.geometry.intensity import normalise

MOST_COHORTS, MOST_SUBJECTS = 6, 6
"""Rows and columns of a picture that fits a screen."""

_PERCENTILES = (0.5, 99.5)
_COLOURS = colormaps["tab20"]


def cohort_figure(path: Path, cohorts: Sequence[Cohort], subjects: int) -> None:
    """Write a PNG: a row for each cohort with its first subjects, on one axial slice.

    The slice is the one that cuts most labels of the first subject.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(1.55 * subjects, 1.6 * len(cohorts)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(cohorts), subjects, squeeze=False)
    for number, (row, cohort) in enumerate(zip(axes, cohorts, strict=True), 1):
        drawn = [cohort.subject(index) for index in range(subjects)]
        index = _slice_of(drawn[0][1])
        for axis, (image, label) in zip(row, drawn, strict=True):
            grey = normalise(image, _PERCENTILES)[:, :, index]
            axis.imshow(grey.T, cmap="gray", origin="lower", vmin=0, vmax=1)
            _outline(axis, label[:, :, index])
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"cohort {number}: {cohort.structures} labels", fontsize=7)
    for number, axis in enumerate(axes[0], 1):
        axis.set_title(f"subject {number}", fontsize=7)
    figure.savefig(path, dpi=110)


def _slice_of(label: np.ndarray) -> int:
    """The slice along z with most labels, then most voxels of them."""
    labels = [len(np.unique(label[:, :, z])) for z in range(label.shape[2])]
    voxels = (label > 0).sum((0, 1))
    return int(np.lexsort((voxels, labels))[-1])


def _outline(axis: Axes, label: np.ndarray) -> None:
    for value in np.unique(label[label > 0]):
        colour = _COLOURS((int(value) - 1) % _COLOURS.N)
        mask = value == label.T
        if not mask.all():
            axis.contour(mask, [0.5], colors=[colour], linewidths=0.9)
