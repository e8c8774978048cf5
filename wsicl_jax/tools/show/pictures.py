"""Images as pictures: three planes of each, with the outlines of its labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Num
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wsicl_jax.data.images import Volume
from wsicl_jax.data.store import Store
from wsicl_jax.geometry.axes import Index3, spacing_of
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.storage.safe_names import in_figure, literal_text

_NAMES_SHOWN = 16
"""Labels that are named, the largest ones."""

_GOLDEN = 0.618034
"""Hues that are this far apart stay different, however many there are."""

_PLANES = ("sagittal", "coronal", "axial")
_SIDES = (("P", "A", "I", "S"), ("L", "R", "I", "S"), ("L", "R", "P", "A"))
"""What lies at the left, right, lower and upper edge of each plane."""

_PERCENTILES = (0.5, 99.5)


class Row(NamedTuple):
    """One image of a picture, on its own grid."""

    name: str
    image: Num[np.ndarray, "x y z"]
    label: Integer[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    """From voxels to RAS+ mm."""


def case_figure(store: Store, name: str, path: Path) -> None:
    """Write a PNG of a case: a row for each channel, as `rows_figure` draws them.

    Raises:
        DataError: there is no such case, or it cannot be read.
    """
    case = store.case(name)
    label = store.read_label(name)
    rows = [
        Row(channel, store.read_image(name, number), label, case.affine)
        for number, channel in enumerate(store.channel_names)
    ]
    counts = {value: case.voxel_counts[value] for value in sorted(case.voxel_counts)}
    about = f"{_size(case.shape, case.spacing_mm)}, {case.orientation}"
    title = "   ".join([in_figure(store.name), in_figure(name), about])
    rows_figure(rows, store.label_names, title, path, counts)


@literal_text()
def rows_figure(
    rows: Sequence[Row],
    names: Mapping[int, str],
    title: str,
    path: Path,
    counts: Mapping[int, int] | None = None,
) -> None:
    """Write a PNG: a row for each image, the planes through where most of its labels meet.

    Axes are turned to RAS+ and drawn in true proportions; left is the subject's left. `names` are
    those of the labels, of which the largest ones by `counts` of voxels are named.
    """
    if counts is None:
        present = [np.unique(row.label, return_counts=True) for row in rows]
        found: Counter[int] = Counter()
        for values, sizes in present:
            found.update(dict(zip(values.tolist(), sizes.tolist(), strict=True)))
        counts = {value: found[value] for value in sorted(found) if value}
    values = list(counts)
    color_of = {value: colormaps["hsv"](i * _GOLDEN % 1) for i, value in enumerate(values)}
    ways = [WorkingGrid.of(row.label.shape, row.affine) for row in rows]
    extents = [
        way.turned_shape * np.array(spacing_of(way.affine(row.affine)))
        for way, row in zip(ways, rows, strict=True)
    ]
    widest = np.max(extents, axis=0)
    figure = Figure(figsize=(11, 3.7 * len(rows) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        len(rows), 3, squeeze=False, width_ratios=[widest[1], widest[0], widest[0]]
    )
    for row, way, extent, axes in zip(rows, ways, extents, grid, strict=True):
        label = way.label(row.label)
        image = way.label(row.image)
        ends = np.percentile(image, _PERCENTILES)
        centre = _centre(label)
        for flat, axis in enumerate(axes):
            _draw(axis, image, label, flat, centre, extent / label.shape, ends, color_of)
        axes[0].set_ylabel(in_figure(row.name), fontsize=10, color="white")
    shown = sorted(sorted(values, key=counts.__getitem__)[-_NAMES_SHOWN:])
    handles = [
        Line2D([], [], color=color_of[v], label=in_figure(names.get(v, str(v)))) for v in shown
    ]
    if len(values) > len(shown):
        handles.append(Line2D([], [], alpha=0, label=f"and {len(values) - len(shown)} more"))
    if handles:
        figure.legend(
            handles=handles,
            loc="outside right upper",
            fontsize=8,
            frameon=False,
            labelcolor="white",
        )
    figure.suptitle(title, fontsize=10, color="white")
    figure.set_facecolor("black")
    figure.savefig(path, dpi=110)


def size_of(volume: Volume) -> str:
    """Voxels and spacing of an image, for a title."""
    return _size(volume.image.shape, volume.spacing_mm)


def _size(shape: Sequence[int], spacing_mm: Sequence[float]) -> str:
    voxels, steps = (" x ".join(f"{v:.4g}" for v in x) for x in (shape, spacing_mm))
    return f"{voxels} voxels of {steps} mm"


def _draw(
    axis,
    image: Num[np.ndarray, "x y z"],
    label: Integer[np.ndarray, "x y z"],
    flat: int,
    centre: Index3,
    spacing: np.ndarray,
    ends: np.ndarray,
    color_of: dict[int, tuple[float, ...]],
) -> None:
    across, up = (a for a in range(3) if a != flat)
    low, high = ends if ends[1] > ends[0] else (ends[0] - 1, ends[0] + 1)
    axis.imshow(
        image.take(centre[flat], flat).T,
        cmap="gray",
        origin="lower",
        vmin=low,
        vmax=high,
        aspect=spacing[up] / spacing[across],
    )
    cut = label.take(centre[flat], flat).T
    for value in np.unique(cut[cut != 0]).tolist():
        inside = np.pad(cut == value, 1)  # or an outline at the border would stay open
        sides = [np.arange(-1, n + 1) for n in cut.shape]
        axis.contour(sides[1], sides[0], inside, [0.5], colors=[color_of[value]], linewidths=1.1)
    axis.set_xlim(-0.5, cut.shape[1] - 0.5)
    axis.set_ylim(-0.5, cut.shape[0] - 0.5)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(f"{_PLANES[flat]} {centre[flat]}", fontsize=9, color="white")
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.02), (0.5, 0.98))
    for (x, y), side in zip(places, _SIDES[flat], strict=True):
        axis.text(
            x,
            y,
            side,
            transform=axis.transAxes,
            color="#ffd400",
            fontsize=8,
            ha="center",
            va="center",
        )


def _centre(label: np.ndarray) -> Index3:
    """The planes on which most different labels are, and of those most voxels; else the middle."""
    if not label.any():
        x, y, z = (side // 2 for side in label.shape)
        return x, y, z
    x, y, z = (int(np.argmax(_interest(label, axis))) for axis in range(3))
    return x, y, z


def _interest(label: np.ndarray, axis: int) -> np.ndarray:
    planes = np.moveaxis(label, axis, 0).reshape(label.shape[axis], -1)
    kinds = np.array([len(np.unique(plane)) for plane in planes], float)
    share = (planes != 0).sum(axis=1) / planes.shape[1]
    return kinds + share
