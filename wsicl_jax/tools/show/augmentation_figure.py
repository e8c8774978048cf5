"""Draws the effect of every random augmentation of a configuration."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from wsicl_jax.config import ExperimentConfig, ParallelConfig, VolumeConfig
from wsicl_jax.data.augmentation.group import augment_group
from wsicl_jax.data.augmentation.intensity import augment_intensities
from wsicl_jax.data.augmentation.spatial import quarter_turns
from wsicl_jax.data.episodes.sampling import Episode, EpisodeSource, prompted_episode
from wsicl_jax.data.subject_group import Group
from wsicl_jax.distributed.placement import make_mesh

_DRAWS = 16
_COLUMNS = 5
_STRUCTURE, _INK, _FAINT = "#ff8a00", "#1b1f27", "#667080"

Changed = Callable[[Group, int], Group]
"""Applies one augmentation to a group, with a seed."""
Score = Callable[[Group, Group], float]
"""How visible an augmentation is, by the group before and after it."""


class _Change(NamedTuple):
    """An augmentation to draw; of several draws, the one with the highest score."""

    setting: str
    what: str
    score: Score
    probability: float = 1.0
    moves: bool = False
    """Whether it moves structures."""


class _Panel(NamedTuple):
    title: str
    what: str
    group: Group
    slices: Sequence[int]
    """For each image, the index along the last axis."""


def augmentation_figure(
    config: ExperimentConfig, path: Path, *, index: int = 0, dpi: int = 110
) -> None:
    """Write a PNG of every augmentation of `config.augment`, on a target and a context image.

    Subjects and structure are those of the first data set's episode of this index; the amounts
    are as configured. Of several draws, the most visible one is drawn, on the slice of each image
    that has most of its structure.

    Raises:
        DataError: the data set cannot be read, or has too few cases.
        OSError: the file cannot be written.
    """
    group = EpisodeSource(config).sources[0].group(index, 2, np.random.default_rng(index))
    on_host, on_devices = _host_changes(config), _device_changes(config)
    drawn = _Panel("as drawn", "target and context", group, _slices_of(group))
    sections = {
        "On the host, before prompts are drawn": [
            drawn,
            *(_panel(change, group, on_host(change)) for change in _ON_HOST),
        ],
        "On the accelerator, within the training step": [
            _panel(change, group, on_devices(change)) for change in _ON_DEVICES
        ],
    }
    rows = [-(-len(panels) // _COLUMNS) for panels in sections.values()]
    width, height, _ = config.volume.grid
    row_height = 0.75 + 1.35 * height / width  # inches: two lines of text, and the images
    figure = Figure(figsize=(15, row_height * sum(rows) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06, hspace=0.0)
    parts = figure.subfigures(len(sections), height_ratios=rows, hspace=0.0)
    for part, count, (title, panels) in zip(parts, rows, sections.items(), strict=True):
        part.suptitle(title, x=0.0067, ha="left", fontsize=14, color=_FAINT)
        axes = part.subplots(count, _COLUMNS).ravel()
        for axis, panel in zip(axes, panels, strict=True):
            _draw(axis, panel)
    figure.savefig(path, dpi=dpi)


def _host_changes(config: ExperimentConfig) -> Callable[[_Change], Changed]:
    def of(change: _Change) -> Changed:
        settings = config.augment.only(**{change.setting: change.probability})

        def changed(group: Group, seed: int) -> Group:
            rng = np.random.default_rng(seed)
            return augment_group(group, settings, rng, may_invert_mask=True, may_rotate90_each=True)

        return changed

    return of


def _device_changes(config: ExperimentConfig) -> Callable[[_Change], Changed]:
    alone = replace(config, parallel=ParallelConfig(), train=replace(config.train, batch=1))
    mesh = make_mesh(alone, jax.devices()[:1])

    def of(change: _Change) -> Changed:
        settings = config.augment.only(**{change.setting: change.probability})
        compiled = jax.jit(lambda batch, key: augment_intensities(batch, key, settings, mesh))

        def changed(group: Group, seed: int) -> Group:
            images, masks = group
            episode = prompted_episode(
                images, masks[0], [[mask] for mask in masks[1:]], VolumeConfig()
            )
            batch = compiled(Episode(*(part[None] for part in episode)), jax.random.key(seed))
            images = [batch.target[0], *batch.context_images[0]]
            return Group([np.asarray(image)[..., 0] for image in images], group.masks)

        return changed

    return of


def _panel(change: _Change, group: Group, changed: Changed) -> _Panel:
    drawn = [changed(group, seed) for seed in range(_DRAWS)]
    after = max(drawn, key=lambda after: change.score(group, after))
    slices = _slices_of(after if change.moves else group)
    return _Panel(change.setting, change.what, after, slices)


def _slices_of(group: Group) -> list[int]:
    return [int(mask.sum((0, 1)).argmax()) for mask in group.masks]


def _draw(axis: Axes, panel: _Panel) -> None:
    width, height, _ = panel.group.images[0].shape
    step = width + max(1, width // 24)
    for number, (image, mask, index) in enumerate(zip(*panel.group, panel.slices, strict=True)):
        left = number * step
        extent = (left - 0.5, left + width - 0.5, -0.5, height - 0.5)
        style = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
        axis.imshow(image[:, :, index].T, cmap="gray", vmin=0, vmax=1, **style)
        marked = mask[:, :, index].T
        # A tint shows which side of the outline is inside.
        axis.imshow(np.where(marked[..., None], (*to_rgb(_STRUCTURE), 0.25), 0), **style)
        if marked.any() and not marked.all():
            positions = (left + np.arange(width), np.arange(height))
            axis.contour(*positions, marked, [0.5], colors=_STRUCTURE, linewidths=1.3)
    axis.set(xlim=(-0.5, step + width - 0.5), ylim=(-0.5, height - 0.5))
    axis.set_axis_off()
    axis.set_title(panel.title, fontsize=11.5, fontweight="bold", color=_INK, loc="left", pad=17)
    below = {"fontsize": 9.5, "color": _FAINT, "va": "bottom", "transform": axis.transAxes}
    axis.text(0, 1.025, panel.what, **below)


def _difference(before: Group, after: Group) -> float:
    """How much the images differ."""
    return float(np.abs(np.stack(after.images) - np.stack(before.images)).mean())


def _growth(_: Group, after: Group) -> float:
    return float(np.sum(after.masks))


def _like(change: Callable[[np.ndarray], np.ndarray]) -> Score:
    """How close the target is to its image under a certain draw."""

    def score(before: Group, after: Group) -> float:
        return -float(np.abs(after.images[0] - change(before.images[0])).mean())

    return score


def _turned(image: np.ndarray) -> np.ndarray:
    square = image.shape[0] == image.shape[1]
    return quarter_turns(image, (1 if square else 2, 0, 0))


def _straight_along_second(_: Group, after: Group) -> float:
    """How much of the target is interpolated between planes of the second axis."""
    bends = np.abs(np.diff(after.images[0], 2, axis=1))
    return float((bends < 1e-5).mean())


def _brightness(_: Group, after: Group) -> float:
    return float(np.mean(after.images))


def _other_contrast(before: Group, after: Group) -> float:
    """How much contrasts have changed, minus a penalty for values outside of [0, 1]."""
    clipped = np.clip(after.images, 0, 1)
    likeness = np.corrcoef(clipped.ravel(), np.ravel(before.images))[0, 1]
    return float(clipped.std() * (1 - likeness) - 4 * np.abs(after.images - clipped).mean())


_ON_HOST = [
    _Change("flip", "axes mirrored", _like(lambda image: image[::-1]), 0.4, moves=True),
    _Change("rotate90", "quarter turns in planes", _like(_turned), 0.4, moves=True),
    _Change("rotate90_each", "each image by itself", _difference, moves=True),
    _Change("elastic", "one smooth deformation", _difference, moves=True),
    _Change("subsample", "planes lost, interpolated", _straight_along_second),
    _Change("resize_mask", "dilated by one voxel", _growth),
    _Change("resize_mask", "eroded by one voxel", lambda before, after: -_growth(before, after)),
    _Change("edge_mask", "Sobel edge", _difference),
    _Change("invert_mask", "structure and background", _difference),
]
_ON_DEVICES = [
    _Change("gin", "random convolution network", _other_contrast),
    _Change("invert_image", "bright becomes dark", _difference),
    _Change("scale", "times a factor", _difference),
    _Change("shift", "plus a constant", _brightness),
    _Change("noise", "new for each image", _difference),
]
