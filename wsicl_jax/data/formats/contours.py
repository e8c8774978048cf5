"""Outlines of masks as polygons, one for each connected region; keyholes lead to its holes.

A keyhole is a channel without width: the polygon runs from its outline to the hole, around the
hole, and back on the same line. So a reader needs no rule for contours inside each other.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage


def outlines(mask: Bool[np.ndarray, "rows columns"]) -> list[Float[np.ndarray, "points 2"]]:
    """The outline (row, column) of each region of a mask, in pixels from the first centre.

    It runs midway between the centres of pixels inside and outside, without its first point
    again at the end. Pixels that touch at a corner are regions of their own.
    """
    from skimage.measure import find_contours  # slow to import, and few need it

    regions, _ = ndimage.label(mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(regions), start=1):
        # A border of background closes outlines at the edge of the image.
        region = np.pad(regions[box] == number, 1).astype(np.float64)
        rings = [ring[:-1] for ring in find_contours(region, 0.5)]
        rings.sort(key=_area, reverse=True)
        polygon = _with_keyholes(region, *rings)
        start = np.array([box[0].start, box[1].start])
        found.append(_corners(polygon) + start - 1)
    return found


def _area(ring: np.ndarray) -> float:
    return float(np.ptp(ring[:, 0]) * np.ptp(ring[:, 1]))


def _with_keyholes(
    region: np.ndarray, outline: np.ndarray, *holes: np.ndarray
) -> Float[np.ndarray, "points 2"]:
    """One polygon of a region's outline and its holes.

    From the top of each hole, a keyhole runs straight up through the region to the next ring: the
    outline, or a hole whose top is higher.
    """
    if not holes:
        return outline
    rolled = [np.roll(hole, -int(hole[:, 0].argmin()), axis=0) for hole in holes]
    # The lowest first, so that a hole has all that hang on it before it hangs on another.
    rings = [*sorted(rolled, key=lambda hole: -hole[0, 0]), outline]
    places = {
        tuple(point): (ring, at)
        for ring, points in enumerate(rings)
        for at, point in enumerate(points.tolist())
    }
    hanging: list[dict[int, np.ndarray]] = [{} for _ in rings]
    for ring, points in enumerate(rings[:-1]):
        row, column = int(points[0, 0]), int(points[0, 1])
        above = np.flatnonzero(region[: row + 1, column] == 0)[-1]
        parent, at = places[above + 0.5, column]
        hanging[parent][at] = _joined(points, hanging[ring])
    return _joined(outline, hanging[-1])


def _joined(ring: np.ndarray, hanging: Mapping[int, np.ndarray]) -> np.ndarray:
    """A ring that makes a detour around a hole at each of these points."""
    parts, begin = [], 0
    for at, hole in sorted(hanging.items()):
        parts += [ring[begin : at + 1], hole, hole[:1]]
        begin = at
    return np.concatenate([*parts, ring[begin:]])


def _corners(polygon: np.ndarray) -> np.ndarray:
    """A polygon without the points on its straight edges."""
    before = polygon - np.roll(polygon, 1, axis=0)
    after = np.roll(polygon, -1, axis=0) - polygon
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return polygon[turns != 0]
