"""Draws images in three planes, with the outlines of labels and prompts.

Every picture names the side convention and has letters at the sides of each plane: L, R (left,
right), A, P (anterior, posterior), S, I (superior, inferior).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Num
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wsicl_jax.data.store import Store
from wsicl_jax.geometry.axes import Index3, spacing_of
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.prompts import SECONDS, Prompt, ball_radius, kind_of, on_grid
from wsicl_jax.storage.safe_names import in_figure, literal_text
from wsicl_jax.tools.show.prompt_outlines import draw_outline, draw_prompt, planes_of

Convention = Literal["neurological", "radiological"]
"""`neurological` draws the subject's left at the left, `radiological` (as 3D Slicer) its right; the
sagittal plane has anterior at the right, or at the left."""

Color = tuple[float, ...]

_NOTES: dict[Convention, str] = {
    "neurological": "neurological convention: the subject's left is drawn at the left",
    "radiological": "radiological convention: the subject's right is drawn at the left",
}

_MAX_NAMES = 200
"""Labels that the legend names, the largest ones."""

_NAMES_AT_THE_SIDE = 16
"""A longer legend lies below the planes, in columns."""

_LEGEND_COLUMNS = 5
_GOLDEN_RATIO = 0.618034
"""Hues that are this far apart differ from each other, whatever their number."""

_PLANES = ("sagittal", "coronal", "axial")
_SIDES = (("P", "A", "I", "S"), ("L", "R", "I", "S"), ("L", "R", "P", "A"))
"""At the low and high end of both axes of each plane."""

_EDGES = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.02), (0.5, 0.98))
_PERCENTILES = (0.5, 99.5)


class Row(NamedTuple):
    """One image of a picture, with arrays and prompts on its own grid."""

    name: str
    image: Num[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    """From voxels to RAS+ mm."""
    label: Integer[np.ndarray, "x y z"] | None = None
    """Outlined with solid lines."""
    prediction: Integer[np.ndarray, "x y z"] | None = None
    """Outlined with dotted lines, in the colours of the same labels."""
    prompts: Sequence[Prompt] = ()


def case_figure(
    store: Store, name: str, path: Path, *, convention: Convention = "neurological"
) -> None:
    """Write a PNG of a case: a row for each channel, as `rows_figure` draws them.

    Raises:
        DataError: there is no such case, or it cannot be read.
    """
    case = store.case(name)
    label = store.read_label(name)
    rows = [
        Row(channel, store.read_image(name, number), case.affine, label)
        for number, channel in enumerate(store.channel_names)
    ]
    size = size_text(case.shape, case.spacing_mm)
    title = "   ".join([in_figure(store.name), in_figure(name), f"{size}, {case.orientation}"])
    rows_figure(rows, store.label_names, title, path, convention=convention)


@literal_text()
def rows_figure(
    rows: Sequence[Row],
    names: Mapping[int, str],
    title: str,
    path: Path,
    *,
    convention: Convention = "neurological",
) -> None:
    """Write a PNG: a row for each image, with the planes that cut most labels and prompts.

    Axes are turned to RAS+ and drawn in true proportions. `names` are those of labels. A prompt
    that a plane does not cut is drawn dotted, so that every prompt is on every plane.
    """
    turned = [_turned(row) for row in rows]
    counts = _label_sizes(turned)
    kinds = [kind for kind in SECONDS if any(kind == kind_of(p) for r in turned for p in r.prompts)]
    keys = [*sorted(counts), *kinds]
    colors = {key: colormaps["hsv"](i * _GOLDEN_RATIO % 1) for i, key in enumerate(keys)}
    legend = _legend(turned, names, counts, kinds, colors)
    below = len(legend) > _NAMES_AT_THE_SIDE
    legend_inches = 0.2 * -(-len(legend) // _LEGEND_COLUMNS) if below else 0.0

    extents = [row.image.shape * np.array(spacing_of(row.affine)) for row in turned]
    widest = np.max(extents, axis=0)
    figure = Figure(figsize=(11, 3.7 * len(rows) + 0.6 + legend_inches), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        len(rows), 3, squeeze=False, width_ratios=[widest[1], widest[0], widest[0]]
    )
    for row, axes in zip(turned, grid, strict=True):
        planes = _planes(row)
        for flat, axis in enumerate(axes):
            _draw_plane(axis, row, flat, planes[flat], colors, convention)
        axes[0].set_ylabel(in_figure(row.name), fontsize=10, color="white")
    if legend:
        figure.legend(
            handles=legend,
            loc="outside lower center" if below else "outside right upper",
            ncols=_LEGEND_COLUMNS if below else 1,
            fontsize=8,
            frameon=False,
            labelcolor="white",
        )
    figure.suptitle(f"{title}\n{_NOTES[convention]}", fontsize=10, color="white")
    figure.set_facecolor("black")
    figure.savefig(path, dpi=110)


def size_text(shape: Sequence[int], spacing_mm: Sequence[float]) -> str:
    """Voxels and spacing of an image, for a title."""
    voxels, steps = (" x ".join(f"{v:.4g}" for v in x) for x in (shape, spacing_mm))
    return f"{voxels} voxels of {steps} mm"


def _turned(row: Row) -> Row:
    """The row with its arrays and prompts turned to RAS+ axes."""
    grid = WorkingGrid.of(row.image.shape, row.affine)
    return Row(
        row.name,
        grid.label(row.image),
        grid.affine(row.affine),
        None if row.label is None else grid.label(row.label),
        None if row.prediction is None else grid.label(row.prediction),
        [on_grid(prompt, grid) for prompt in row.prompts],
    )


def _label_sizes(rows: Sequence[Row]) -> Counter[int]:
    sizes: Counter[int] = Counter()
    for row in rows:
        for label in (row.label, row.prediction):
            if label is not None:
                values, counts = np.unique(label[label != 0], return_counts=True)
                sizes.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return sizes


def _legend(
    rows: Sequence[Row],
    names: Mapping[int, str],
    sizes: Counter[int],
    kinds: Sequence[str],
    colors: Mapping[int | str, Color],
) -> list[Line2D]:
    named = sorted(value for value, _ in sizes.most_common(_MAX_NAMES))
    texts = {value: in_figure(names.get(value, str(value))) for value in named}
    legend = [Line2D([], [], color=colors[value], label=text) for value, text in texts.items()]
    if len(sizes) > len(named):
        legend.append(Line2D([], [], alpha=0, label=f"and {len(sizes) - len(named)} more"))
    legend += [Line2D([], [], color=colors[kind], label=kind) for kind in kinds]
    if any(row.prediction is not None for row in rows):
        legend.append(Line2D([], [], color="white", label="solid: label map"))
        legend.append(Line2D([], [], color="white", ls=":", label="dotted: prediction"))
    if kinds:
        legend.append(Line2D([], [], color="white", ls=":", label="dotted: on another slice"))
    return legend


def _draw_plane(
    axis: Axes,
    row: Row,
    flat: int,
    index: int,
    colors: Mapping[int | str, Color],
    convention: Convention,
) -> None:
    across, up = (a for a in range(3) if a != flat)
    spacing = spacing_of(row.affine)
    low, high = np.percentile(row.image, _PERCENTILES)
    axis.imshow(
        row.image.take(index, flat).T,
        cmap="gray",
        origin="lower",
        vmin=low,
        vmax=high if high > low else low + 1,
        aspect=spacing[up] / spacing[across],
    )
    for label, style in ((row.label, "solid"), (row.prediction, "dotted")):
        if label is not None:
            section = label.take(index, flat)
            for value in np.unique(section[section != 0]).tolist():
                draw_outline(axis, section == value, colors[value], style)
    radius = ball_radius(row.image.shape)
    for prompt in row.prompts:
        draw_prompt(axis, prompt, row.image.shape, flat, index, radius, colors[kind_of(prompt)])
    width, height = row.image.shape[across], row.image.shape[up]
    left, right, bottom, top = _SIDES[flat]
    axis.set_xlim(-0.5, width - 0.5)
    if convention == "radiological":
        axis.set_xlim(width - 0.5, -0.5)
        left, right = right, left
    axis.set_ylim(-0.5, height - 0.5)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(f"{_PLANES[flat]} {index}", fontsize=9, color="white")
    style = {"transform": axis.transAxes, "color": "#ffd400", "fontsize": 8}
    for (x, y), letter in zip(_EDGES, (left, right, bottom, top), strict=True):
        axis.text(x, y, letter, ha="center", va="center", **style)


def _planes(row: Row) -> Index3:
    """Along each axis the plane with most labels and prompts, then most voxels of them.

    Of several such planes the middle one.
    """
    x, y, z = (_plane(row, axis) for axis in range(3))
    return x, y, z


def _plane(row: Row, axis: int) -> int:
    interest = np.zeros(row.image.shape[axis])
    for label in (row.label, row.prediction):
        if label is not None:
            planes = np.moveaxis(label, axis, 0).reshape(len(interest), -1)
            interest += [len(np.unique(plane)) for plane in planes]
            interest += (planes != 0).mean(axis=1)
    for prompt in row.prompts:
        interest += planes_of(prompt, row.image.shape, axis)
    best = np.flatnonzero(interest == interest.max())
    return int(best[len(best) // 2])
