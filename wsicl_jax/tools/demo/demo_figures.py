"""Figures of the demo: episodes with predictions, and Dice by size of the context set."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.geometry.axes import Box
from wsicl_jax.storage.safe_names import in_figure, literal_text

_TRUTH, _PREDICTION, _BOX = "#2ca02c", "#ff3030", "#ffd400"


class PicturedEpisode(NamedTuple):
    """An episode with its context masks, 2D boxes and prediction, all on the working grid."""

    title: str
    episode: Episode
    context_masks: Sequence[Bool[np.ndarray, "x y z"]]
    boxes: Sequence[Sequence[Box]]
    """The 2D boxes of each context."""
    mask: Bool[np.ndarray, "x y z"]
    """The prediction."""


@literal_text()
def episode_figure(path: Path, episodes: Sequence[PicturedEpisode]) -> None:
    """Write a PNG: a row for each episode with target, truth, prediction and context images.

    A context image is drawn on the slice of its first box, with the structure's outline, which the
    network does not receive.
    """
    columns = 2 + max(len(one.boxes) for one in episodes)
    figure = Figure(figsize=(1.9 * columns, 2.05 * len(episodes)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(episodes), columns, squeeze=False)
    for row, one in zip(axes, episodes, strict=True):
        image, truth = one.episode.target[..., 0], one.episode.truth[..., 0] > 0
        index = int(truth.sum((0, 1)).argmax())
        _show(row[0], image[:, :, index], f"{one.title}: target")
        _outline(row[0], truth[:, :, index], _TRUTH)
        _show(row[1], image[:, :, index], "prediction, truth")
        _outline(row[1], truth[:, :, index], _TRUTH)
        _outline(row[1], one.mask[:, :, index], _PREDICTION)
        contexts = zip(
            row[2:], one.episode.context_images, one.context_masks, one.boxes, strict=False
        )
        for number, (axis, image, mask, boxes) in enumerate(contexts, 1):
            _show_context(axis, image[..., 0], mask, boxes, f"context {number}")
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def context_size_figure(path: Path, dice: dict[int, float], *, wrong_prompts: float) -> None:
    """Write a PNG of mean Dice by number of context images, beside that with wrong prompts."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(list(dice), list(dice.values()), "o-", label="boxes of the structure")
    axis.axhline(wrong_prompts, ls="--", color="grey", label="boxes of another structure")
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(dice), [str(size) for size in dice])
    axis.set(xlabel="context images", ylabel="mean Dice, unseen structures", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def _show_context(axis, image: np.ndarray, truth: np.ndarray, boxes: Sequence[Box], title: str):
    flat, index = _slice_of(boxes[0])
    _show(axis, np.take(image, index, flat), title)
    _outline(axis, np.take(truth, index, flat), _TRUTH)
    for box in boxes:
        if _slice_of(box) != (flat, index):
            continue
        (row, column) = (a for a in range(3) if a != flat)
        axis.add_patch(
            Rectangle(
                (box.start[row] - 0.5, box.start[column] - 0.5),
                box.extent[row],
                box.extent[column],
                fill=False,
                color=_BOX,
                lw=1.5,
            )
        )


def _slice_of(box: Box) -> tuple[int, int]:
    """The axis across which a 2D box lies, and its slice."""
    axis = box.extent.index(1)
    return axis, box.start[axis]


def _show(axis, image: np.ndarray, title: str) -> None:
    axis.imshow(image.T, cmap="gray", origin="lower", vmin=0, vmax=1)
    axis.set_title(in_figure(title), fontsize=8)


def _outline(axis, mask: np.ndarray, color: str) -> None:
    if mask.any() and not mask.all():
        axis.contour(mask.T, [0.5], colors=color, linewidths=1.2)
