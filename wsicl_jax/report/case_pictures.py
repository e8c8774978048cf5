"""Cases of the report's gallery: which ones, and how each is drawn."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wsicl_jax.evaluate.records import Score
from wsicl_jax.report.model_groups import ModelGroup, main_kind
from wsicl_jax.report.replay import GalleryCase, Rank
from wsicl_jax.report.results import Results
from wsicl_jax.report.style import WIDTH, new_figure

ShowCases = Callable[[Sequence[Score]], Sequence[GalleryCase] | str]
"""From chosen scores to what was seen and found, in their order; or why that is not to be had."""

_TRUTH, _FOUND, _PROMPT = "#56b4e9", "#ffb000", "#f0e442"
_BACKGROUND, _TEXT = "#0d1117", "#d7dde5"

_MOST_CONTEXTS = 4
_PLANES = ("sagittal", "coronal", "axial")
_SIDES = (("P", "A", "I", "S"), ("L", "R", "I", "S"), ("L", "R", "P", "A"))
"""What lies at the left, right, lower and upper edge of each plane."""

_SURROUNDINGS = 2.2
"""The shown part of an image is this much wider than what is outlined in it."""
_SMALLEST_PART = 0.45
"""And never a smaller share of the image than this."""

_FAINT = 0.25
"""A smoothing of prompts is looked at down to this value of their channel."""

_Window = list[tuple[float, float]]
"""First and last position that is shown along each axis, in voxels."""


def choose_cases(results: Results, group: ModelGroup) -> list[tuple[Rank, Score]]:
    """Best, median and worst episode by Dice of each data set, at its main setting.

    A data set with fewer than three episodes shows each once.
    """
    chosen: list[tuple[Rank, Score]] = []
    for data_set in group.data_sets:
        if not (main := group.main(data_set)):
            continue
        rows = results.rows[main[main_kind(list(main))]]
        ranked = sorted((s for s in rows if s.dice is not None), key=lambda s: (-s.dice, s.episode))
        if not ranked:
            continue
        first: dict[int, Rank] = {}
        last = len(ranked) - 1
        for place, rank in ((0, "best"), (last, "worst"), (len(ranked) // 2, "median")):
            first.setdefault(place, rank)
        chosen += [(rank, ranked[place]) for place, rank in sorted(first.items())]
    return chosen


def find_cases(
    chosen: Sequence[tuple[Rank, Score]], gallery_cases: ShowCases
) -> tuple[list[GalleryCase], str]:
    """The chosen cases with their images, or the reason why there are none."""
    found = gallery_cases([score for _, score in chosen])
    if isinstance(found, str):
        return [], found
    ranks = {score: rank for rank, score in chosen}
    return [replace(case, rank=ranks.get(case.score, case.rank)) for case in found], ""


def case_figure(case: GalleryCase) -> Figure:
    """The target in three planes with truth and prediction, and the first of its contexts.

    Planes go through the largest cross-sections of the truth; axes are RAS+, in true proportions,
    left is the subject's left. Contexts are shown on the slice with most of their prompts.
    """
    contexts = case.contexts[:_MOST_CONTEXTS]
    across = -(-len(contexts) // 2)
    figure = new_figure(WIDTH, 3.2)
    figure.set_facecolor(_BACKGROUND)
    figure.set_layout_engine("none")
    left = 0.74 if contexts else 0.985
    grid = figure.add_gridspec(1, 1, left=0.012, right=left, bottom=0.1, top=0.91)
    outlined = case.truth | case.mask
    window = _window(outlined, case.spacing_mm)
    planes = GridSpecFromSubplotSpec(1, 3, grid[0], wspace=0.035)
    for flat in range(3):
        axis = figure.add_subplot(planes[flat])
        index = _largest(case.truth if case.truth.any() else outlined, flat)
        _draw(axis, case.image, flat, index, case.spacing_mm, window)
        _outline(axis, case.truth.take(index, flat), _TRUTH)
        _outline(axis, case.mask.take(index, flat), _FOUND)
        _mark_sides(axis, flat)
        axis.set_title(_PLANES[flat], fontsize=8, color=_TEXT, pad=4)
    if contexts:
        grid = figure.add_gridspec(1, 1, left=left + 0.02, right=0.99, bottom=0.1, top=0.91)
        small = GridSpecFromSubplotSpec(
            min(2, len(contexts)), across, grid[0], wspace=0.05, hspace=0.16
        )
        places = itertools.product(range(min(2, len(contexts))), range(across))
        for number, (context, (row, column)) in enumerate(zip(contexts, places, strict=False), 1):
            axis = figure.add_subplot(small[row, column])
            flat, index = _prompted_slice(context.prompts, context.truth)
            outlined = _on_slice(context.truth | (context.prompts > _FAINT), flat, index)
            window = _window(outlined, case.spacing_mm)
            _draw(axis, context.image, flat, index, case.spacing_mm, window)
            _overlay(axis, context.prompts.take(index, flat))
            _outline(axis, context.truth.take(index, flat), _TRUTH, width=1.0)
            axis.set_title(f"context {number}, {_PLANES[flat]}", fontsize=7, color=_TEXT, pad=3)
    handles = [
        Line2D([], [], color=_TRUTH, lw=1.6, label="truth"),
        Line2D([], [], color=_FOUND, lw=1.6, label="prediction"),
    ]
    if contexts:
        handles.append(Patch(color=_PROMPT, alpha=0.6, label="prompts, all that contexts show"))
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.005, 0.0), ncols=3, fontsize=7.5,
        labelcolor=_TEXT, handlelength=1.4, columnspacing=1.6,
    )  # fmt: skip
    return figure


def _draw(
    axis: Axes,
    image: Float[np.ndarray, "x y z"],
    flat: int,
    index: int,
    spacing_mm: tuple[float, float, float],
    window: _Window,
) -> None:
    right, up = (a for a in range(3) if a != flat)
    axis.imshow(
        image.take(index, flat).T,
        cmap="gray",
        origin="lower",
        vmin=0,
        vmax=1,
        aspect=spacing_mm[up] / spacing_mm[right],
        interpolation="bilinear",
    )
    axis.set(xlim=window[right], ylim=window[up], xticks=[], yticks=[])
    axis.grid(False)
    axis.set_facecolor(_BACKGROUND)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _overlay(axis: Axes, prompts: Float[np.ndarray, "a b"]) -> None:
    colours = np.empty((*prompts.T.shape, 4))
    colours[..., :3] = to_rgb(_PROMPT)
    colours[..., 3] = 0.5 * np.clip(prompts.T, 0, 1)
    axis.imshow(colours, origin="lower", aspect=axis.get_aspect(), interpolation="nearest")


def _outline(axis: Axes, mask: Bool[np.ndarray, "a b"], colour: str, width: float = 1.3) -> None:
    if not mask.any():
        return
    closed = np.pad(mask.T, 1)  # or an outline at the border would stay open
    up, right = (np.arange(-1, n - 1) for n in closed.shape)
    limits = axis.get_xlim(), axis.get_ylim()
    axis.contour(right, up, closed, [0.5], colors=[colour], linewidths=width)
    axis.set(xlim=limits[0], ylim=limits[1])


def _mark_sides(axis: Axes, flat: int) -> None:
    places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.04), (0.5, 0.96))
    for (x, y), side in zip(places, _SIDES[flat], strict=True):
        axis.text(
            x, y, side, transform=axis.transAxes, color=_TEXT, fontsize=7, ha="center", va="center"
        )


def _largest(mask: Bool[np.ndarray, "x y z"], flat: int) -> int:
    """The slice with most of a mask; the middle one if it is empty."""
    if not mask.any():
        return mask.shape[flat] // 2
    return int(_areas(mask, flat).argmax())


def _prompted_slice(
    prompts: Float[np.ndarray, "x y z"], truth: Bool[np.ndarray, "x y z"]
) -> tuple[int, int]:
    """Axis and slice with most of the prompts (without any, of the truth); axial if alike."""
    values = prompts if prompts.any() else truth
    areas = {flat: _areas(values, flat) for flat in (2, 1, 0)}
    flat = max(areas, key=lambda axis: float(areas[axis].max()))
    # A box on a slice is three voxels thick: the middle one is its own.
    most = np.flatnonzero(areas[flat] >= areas[flat].max() * (1 - 1e-6))
    return flat, int(most[len(most) // 2])


def _on_slice(mask: Bool[np.ndarray, "x y z"], flat: int, index: int) -> Bool[np.ndarray, "x y z"]:
    on_it = np.arange(mask.shape[flat]) == index
    return mask & np.expand_dims(on_it, [a for a in range(3) if a != flat])


def _areas(values: np.ndarray, flat: int) -> np.ndarray:
    return values.sum(tuple(a for a in range(3) if a != flat), dtype=np.float64)


def _window(outlined: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> _Window:
    """A cube around what is outlined, so that all slices of an image have one scale."""
    sides = np.array(outlined.shape) * spacing_mm
    centre, widest = sides / 2, float(sides.max())
    if outlined.any():
        voxels = np.argwhere(outlined)
        low, high = voxels.min(0) * spacing_mm, (voxels.max(0) + 1) * spacing_mm
        centre = (low + high) / 2
        widest = min(
            max(_SURROUNDINGS * float((high - low).max()), _SMALLEST_PART * widest), widest
        )
    # Moved inwards at the border, where the image is large enough.
    room = np.maximum(sides - widest, 0) / 2
    centre = np.clip(centre, sides / 2 - room, sides / 2 + room)
    low, high = ((centre + sign * widest / 2) / spacing_mm - 0.5 for sign in (-1, 1))
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
