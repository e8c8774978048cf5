"""Draws one prompt on a plane of its image: solid where the plane cuts it, else dotted."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle

from wsicl_jax.geometry.axes import Box, Shape3
from wsicl_jax.prompts import Negative, Point, Prompt, Scribble, SliceMask, positions_of

Style = Literal["solid", "dotted"]
Color = tuple[float, ...]

_WIDTH = 1.1


def draw_prompt(
    axis: Axes, prompt: Prompt, shape: Shape3, flat: int, index: int, radius: float, color: Color
) -> None:
    """Draw a prompt on the plane `index` across the axis `flat` of an image of this shape.

    Data coordinates of `axis` are voxels. `radius` is that of a point's ball, in voxels. A
    negative prompt has crosses.
    """
    across, up = (a for a in range(3) if a != flat)
    if isinstance(prompt, Negative):
        draw_prompt(axis, prompt.prompt, shape, flat, index, radius, color)
        path = positions_of(prompt.prompt)
        axis.plot(path[:, across], path[:, up], "x", color=color, ms=7)
    elif isinstance(prompt, Point):
        is_cut = abs(prompt[flat] - index) <= radius
        centre = (prompt[across], prompt[up])
        style = _style(is_cut)
        axis.add_patch(Circle(centre, radius, fill=False, ec=color, ls=style, lw=_WIDTH))
        axis.plot(*centre, "o" if is_cut else ".", color=color, ms=3)
    elif isinstance(prompt, Box):
        style = _style(prompt.start[flat] <= index < prompt.stop[flat])
        corner = (prompt.start[across] - 0.5, prompt.start[up] - 0.5)
        size = (prompt.extent[across], prompt.extent[up])
        axis.add_patch(Rectangle(corner, *size, fill=False, ec=color, ls=style, lw=_WIDTH))
    elif isinstance(prompt, Scribble):
        path = np.array(prompt.path)
        low, high = path[:, flat].min(), path[:, flat].max()
        style = _style(low - radius / 2 <= index <= high + radius / 2)
        axis.plot(path[:, across], path[:, up], color=color, ls=style, lw=2, marker=".", ms=3)
    else:
        mask = _volume(prompt, shape)
        section = mask.take(index, flat)
        is_cut = bool(section.any())
        draw_outline(axis, section if is_cut else mask.any(flat), color, _style(is_cut))


def draw_outline(axis: Axes, mask: Bool[np.ndarray, "a b"], color: Color, style: Style) -> None:
    """Draw the border of a mask on a plane, also along the edges of the image."""
    sides = [np.arange(-1, side + 1) for side in mask.shape]
    padded = np.pad(mask, 1).T
    axis.contour(*sides, padded, [0.5], colors=[color], linewidths=_WIDTH, linestyles=style)


def planes_of(prompt: Prompt, shape: Shape3, axis: int) -> Float[np.ndarray, " planes"]:
    """1 for each plane across `axis` that cuts a prompt, and the share of a mask's voxels on it."""
    planes = np.zeros(shape[axis])
    if isinstance(prompt, Negative):
        return planes_of(prompt.prompt, shape, axis)
    if isinstance(prompt, Point | Scribble):
        path = positions_of(prompt)[:, axis]
        planes[round(path.min()) : round(path.max()) + 1] = 1
    elif isinstance(prompt, Box):
        planes[prompt.start[axis] : prompt.stop[axis]] = 1
    else:
        voxels = _volume(prompt, shape).sum(tuple(a for a in range(3) if a != axis))
        planes = (voxels > 0) + voxels / voxels.sum()
    return planes


def _style(is_cut: bool) -> Style:
    return "solid" if is_cut else "dotted"


def _volume(prompt: SliceMask | Bool[np.ndarray, "x y z"], shape: Shape3) -> np.ndarray:
    if not isinstance(prompt, SliceMask):
        return np.asarray(prompt, bool)
    volume = np.zeros(shape, bool)
    volume[prompt.box.slices] = np.expand_dims(prompt.mask, prompt.axis)
    return volume
