"""Pictures of the report: best, median and worst targets, with the prediction of every model."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wsicl_jax.errors import WsiclError
from wsicl_jax.evaluate.records import Score
from wsicl_jax.report.model_groups import ModelGroup, main_kind
from wsicl_jax.report.replay import ReplayedCase
from wsicl_jax.report.results import Results
from wsicl_jax.report.style import WIDTH, new_figure
from wsicl_jax.report.wording import number

Rank = Literal["best", "median", "worst"]

_TRUTH, _PREDICTION, _PROMPT = "#56b4e9", "#ffb000", "#f0e442"
_BACKGROUND, _TEXT = "#0d1117", "#d7dde5"

MOST_MODELS = 6
"""Models in one picture."""
MOST_CONTEXTS = 4
"""Context images in one picture."""

_PLANES = ("sagittal", "coronal", "axial")
_SIDES = (("P", "A", "I", "S"), ("L", "R", "I", "S"), ("L", "R", "P", "A"))
"""Directions at the left, right, lower and upper edge of each plane."""

_SURROUNDINGS = 2.2
"""Side of the visible part of an image, as a multiple of the side of the structure in it."""
_MIN_PART = 0.45
"""Smallest visible part, as a share of the image."""

_MIN_PROMPT = 0.25
"""Smallest value of a prompt channel that counts as part of a smoothed prompt."""

_ROW, _HEAD, _FOOT = 2.5, 0.3, 0.32
"""Heights in inches: of the images of a model, of the title above them, and of the legend."""

_Window = list[tuple[float, float]]
"""First and last visible position along each axis, in voxels."""


@dataclass(frozen=True, eq=False)
class PicturedTarget:
    """A target with the prediction of each model that can be run again."""

    rank: Rank
    score: Score
    """Of the model by which targets are ranked."""
    cases: tuple[ReplayedCase, ...]
    """One for each model."""
    scored: int
    """Number of models that were scored on the target at this setting."""


def choose_targets(results: Results, group: ModelGroup) -> list[tuple[Rank, tuple[Score, ...]]]:
    """Best, median and worst episode by Dice of each data set, at the group's main setting.

    Each with the scores of all models at that setting; the first is the one that is ranked. A data
    set with fewer than three episodes has each once.
    """
    chosen: list[tuple[Rank, tuple[Score, ...]]] = []
    for data_set in group.data_sets:
        if not (main := group.main(data_set)):
            continue
        setting = main[main_kind(list(main))]
        ranked = sorted(
            (s for s in results.rows[setting] if s.dice is not None),
            key=lambda s: (-s.dice, s.episode),
        )
        if not ranked:
            continue
        others = [setting._replace(model=m) for m in results.models if m != setting.model]
        by_place: dict[int, Rank] = {}
        last = len(ranked) - 1
        for place, rank in ((0, "best"), (last, "worst"), (len(ranked) // 2, "median")):
            by_place.setdefault(place, rank)
        for place, rank in sorted(by_place.items()):
            first = ranked[place]
            same = [
                s
                for other in others
                for s in results.rows.get(other, ())
                if (s.structure, s.episode) == (first.structure, first.episode)
            ]
            chosen.append((rank, (first, *same)))
    return chosen


def replay_targets(
    chosen: Sequence[tuple[Rank, tuple[Score, ...]]], replay: Callable[[Score], ReplayedCase]
) -> tuple[list[PicturedTarget], dict[str, str]]:
    """The chosen targets with their images, and why models without a picture have none."""
    targets, reasons = [], {}
    for rank, scores in chosen:
        cases: list[ReplayedCase] = []
        for score in scores:
            if len(cases) == MOST_MODELS:
                break
            try:
                cases.append(replay(score))
            except WsiclError as error:
                reasons.setdefault(score.model, str(error))
        if cases:
            targets.append(PicturedTarget(rank, scores[0], tuple(cases), len(scores)))
    return targets, reasons


def prediction_words(case: ReplayedCase) -> str:
    """A model's name with its Dice, and whether its prediction is empty."""
    empty = "" if case.mask.any() else ", empty prediction"
    return f"{case.score.model}: Dice {number(case.score.dice)}{empty}"


def case_figure(target: PicturedTarget, headline: str = "") -> Figure:
    """A row for each model: the target in three planes with truth and prediction.

    Beside the first row the first context images. Planes go through the largest cross-sections of
    the truth. Axes are RAS+, in true proportions; the subject's left is at the left. A context
    image is drawn on the slice with most of its prompts. A `headline` comes above them all.
    """
    cases = target.cases
    contexts = cases[0].contexts[:MOST_CONTEXTS]
    above = _HEAD if headline else 0.0
    height = above + len(cases) * (_ROW + _HEAD) + _FOOT
    figure = new_figure(WIDTH, height)
    figure.set_facecolor(_BACKGROUND)
    figure.set_layout_engine("none")
    right = 0.74 if contexts else 0.985
    for row, case in enumerate(cases):
        top = 1 - (above + row * (_ROW + _HEAD) + _HEAD) / height
        planes = figure.add_gridspec(
            1, 3, left=0.012, right=right, bottom=top - _ROW / height, top=top, wspace=0.035
        )
        visible = _window(case.truth | case.mask, case.spacing_mm)
        for flat in range(3):
            axis = figure.add_subplot(planes[flat])
            index = _largest(case.truth if case.truth.any() else case.mask, flat)
            _draw(axis, case.image, flat, index, case.spacing_mm, visible)
            _outline(axis, case.truth.take(index, flat), _TRUTH)
            _outline(axis, case.mask.take(index, flat), _PREDICTION)
            _mark_sides(axis, flat)
            axis.set_title(_PLANES[flat], loc="right", fontsize=8, color=_TEXT, pad=4)
            if flat == 0:
                axis.set_title(
                    prediction_words(case), loc="left", fontsize=8.5, color=_TEXT, pad=4
                )  # fmt: skip
    if contexts:
        rows, columns = min(2, len(contexts)), -(-len(contexts) // 2)
        top = 1 - (above + _HEAD) / height
        small = figure.add_gridspec(
            rows, columns, left=right + 0.02, right=0.99, bottom=top - _ROW / height, top=top,
            wspace=0.05, hspace=0.16,
        )  # fmt: skip
        places = itertools.product(range(rows), range(columns))
        for count, (context, (row, column)) in enumerate(zip(contexts, places, strict=False), 1):
            axis = figure.add_subplot(small[row, column])
            flat, index = _prompted_slice(context.prompts, context.truth)
            outlined = _on_slice(context.truth | (context.prompts > _MIN_PROMPT), flat, index)
            spacing_mm = cases[0].spacing_mm
            _draw(axis, context.image, flat, index, spacing_mm, _window(outlined, spacing_mm))
            _overlay(axis, context.prompts.take(index, flat))
            _outline(axis, context.truth.take(index, flat), _TRUTH, width=1.0)
            axis.set_title(f"context {count}, {_PLANES[flat]}", fontsize=7, color=_TEXT, pad=3)
    if headline:
        figure.text(0.012, 1 - 0.5 * above / height, headline, va="center", color=_TEXT, size=9.5)
    handles = [
        Line2D([], [], color=_TRUTH, lw=1.6, label="truth"),
        Line2D([], [], color=_PREDICTION, lw=1.6, label="prediction"),
    ]
    if contexts:
        handles.append(Patch(color=_PROMPT, alpha=0.6, label="prompts on the context images"))
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
    closed = np.pad(mask.T, 1)  # so that an outline at the border is closed
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
    """Axis and slice with most of the prompts (without any, of the truth); axial of equals."""
    values = prompts if prompts.any() else truth
    areas = {flat: _areas(values, flat) for flat in (2, 1, 0)}
    flat = max(areas, key=lambda axis: float(areas[axis].max()))
    # A box on a slice is three voxels thick; its own slice is the middle one.
    most = np.flatnonzero(areas[flat] >= areas[flat].max() * (1 - 1e-6))
    return flat, int(most[len(most) // 2])


def _on_slice(mask: Bool[np.ndarray, "x y z"], flat: int, index: int) -> Bool[np.ndarray, "x y z"]:
    is_slice = np.arange(mask.shape[flat]) == index
    return mask & np.expand_dims(is_slice, [a for a in range(3) if a != flat])


def _areas(values: np.ndarray, flat: int) -> np.ndarray:
    return values.sum(tuple(a for a in range(3) if a != flat), dtype=np.float64)


def _window(outlined: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> _Window:
    """A cube around the outlined voxels, so that all slices of an image have one scale."""
    sides = np.array(outlined.shape) * spacing_mm
    centre, widest = sides / 2, float(sides.max())
    if outlined.any():
        voxels = np.argwhere(outlined)
        low, high = voxels.min(0) * spacing_mm, (voxels.max(0) + 1) * spacing_mm
        centre = (low + high) / 2
        widest = min(max(_SURROUNDINGS * float((high - low).max()), _MIN_PART * widest), widest)
    # Move it inside the image, as far as the image is large enough.
    room = np.maximum(sides - widest, 0) / 2
    centre = np.clip(centre, sides / 2 - room, sides / 2 + room)
    low, high = ((centre + sign * widest / 2) / spacing_mm - 0.5 for sign in (-1, 1))
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
