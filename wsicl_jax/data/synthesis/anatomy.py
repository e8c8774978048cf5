"""A random anatomy: a body with structures of several kinds, with and without labels."""

from collections.abc import Callable, Iterator
from dataclasses import fields

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from wsicl_jax.config import SynthConfig
from wsicl_jax.data.synthesis.canvas import BODY, OUTSIDE, Anatomy, Canvas, Lesions
from wsicl_jax.data.synthesis.fields import along, centres
from wsicl_jax.data.synthesis.shapes import (
    Region,
    cells,
    depth,
    largest_piece,
    random_turn,
    solid,
    tube,
    walk,
)
from wsicl_jax.geometry.axes import Shape3

DETAIL = 1.5
"""Voxels of an anatomy per voxel of a subject, so that a deformed edge stays smooth."""

_MIN_VOXELS = 24
_MIN_THICKNESS = 2.3
"""Smallest thickness of walls and tubes, in voxels of an anatomy, without holes in a subject."""
_MAX_CENTRE = 0.85
"""Largest position of a structure's centre along an axis."""

_MAX_CROSSED = 0.3
"""Largest share of an organ that a tube may replace."""

_MAX_PARCELS = 6
_TISSUES = 256
"""Possible numbers of a tissue."""

_TRIES = 3


def sample_anatomy(rng: np.random.Generator, shape: Shape3, settings: SynthConfig) -> Anatomy:
    """An anatomy with the number of labels that `settings` requests, if there is room."""
    canvas = Canvas(shape)
    paint_body(canvas, rng, settings)
    count = int(rng.integers(settings.structures[0], settings.structures[1] + 1))
    plan = _plan(rng, settings, count)
    for phase in _PHASES:
        if phase == _DISTRACTORS:
            paint_distractors(canvas, rng, settings)
        for kind, count in plan:
            if kind in phase and not _PAINTERS[kind](canvas, rng, settings, count):
                # Without room or a host for this kind, there may still be room for an organ.
                _paint_organ(canvas, rng, settings, 1)
    for _ in range(_TRIES * settings.structures[0]):
        if len(canvas.names) >= settings.structures[0]:
            break
        _paint_organ(canvas, rng, settings, 1)
    if settings.parcellation and rng.random() < settings.parcellation:
        divide_body(canvas, rng)
    return canvas.finished()


def paint_body(canvas: Canvas, rng: np.random.Generator, settings: SynthConfig) -> None:
    """A body within the volume, possibly with a rim under its skin; or tissue everywhere."""
    if rng.random() >= settings.body:
        return
    radii, power = rng.uniform(0.7, 0.97, 3), rng.uniform(2, 3)
    turn = np.linalg.qr(np.eye(3) + rng.normal(0, 0.08, (3, 3)))[0]
    centre = rng.normal(0, 0.03, 3)
    body = solid(rng, canvas.shape, centre, radii, power=power, wavy=0.06, turn=turn)
    if body is None:  # on a grid of a few voxels
        return
    canvas.tissue[:] = OUTSIDE
    canvas.tissue[body.box][body.mask] = BODY
    if rng.random() < 0.6:
        thin = radii * rng.uniform(0.82, 0.93)
        core = solid(rng, canvas.shape, centre, thin, power=power, wavy=0.06, turn=turn)
        rim = canvas.tissue == BODY
        if core is not None:
            rim[core.box] &= ~core.mask
        canvas.tissue[rim] = canvas.new_tissue()


def paint_distractors(canvas: Canvas, rng: np.random.Generator, settings: SynthConfig) -> None:
    """Structures without a label, in the remaining room."""
    for _ in range(int(rng.integers(settings.distractors[0], settings.distractors[1] + 1))):
        if rng.random() < 0.4:
            region = _tube_region(canvas, rng, settings)
        else:
            region = _organ_region(canvas, rng, settings)
        if region is not None:
            canvas.paint(region)


def divide_body(canvas: Canvas, rng: np.random.Generator) -> None:
    """Divide all tissue without a label into labelled parts with invisible borders.

    If there are too few tissue numbers for every part of every tissue, nothing happens.
    """
    unlabelled = [t for t, label in enumerate(canvas.label_of) if not label and t != OUTSIDE]
    max_parcels = min(_MAX_PARCELS, (_TISSUES - len(canvas.label_of)) // len(unlabelled))
    if max_parcels < 2:
        return
    inside = np.isin(canvas.tissue, unlabelled)
    everywhere = Region((slice(None),) * 3, inside)
    if inside.sum() < max_parcels * _MIN_VOXELS:
        return
    before = canvas.tissue.copy()
    for cell in cells(rng, everywhere, int(rng.integers(2, max_parcels + 1))):
        label = canvas.new_label("territory")
        for tissue in unlabelled:
            part = cell.mask & (before == tissue)
            if part.any():
                canvas.paint(Region(everywhere.box, part), label, appearance=tissue)


def _plan(rng: np.random.Generator, settings: SynthConfig, labels: int) -> list[tuple[str, int]]:
    """Kinds of structures and the number of labels of each, `labels` in all."""
    kinds = [kind.name for kind in fields(settings.kinds)]
    shares = np.array([getattr(settings.kinds, kind) for kind in kinds])
    plan = []
    while labels:
        kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
        count = {"lobes": int(rng.integers(2, 5)), "pair": int(rng.integers(1, 3))}.get(kind, 1)
        count = min(count, labels)
        plan.append(("organ" if kind == "lobes" and count == 1 else kind, count))
        labels -= count
    return plan


def _paint_organ(canvas: Canvas, rng: np.random.Generator, settings: SynthConfig, _: int) -> bool:
    region = _organ_region(canvas, rng, settings)
    if region is None:
        return False
    canvas.paint(region, canvas.new_label("organ"), holds=True)
    return True


def _paint_lobes(
    canvas: Canvas, rng: np.random.Generator, settings: SynthConfig, count: int
) -> bool:
    region = _organ_region(canvas, rng, settings, scale=1.4)
    if region is None or region.mask.sum() < count * _MIN_VOXELS:
        return False
    is_same = _have_same_appearance(rng, settings)
    appearance = None
    for cell in cells(rng, region, count):
        lobe = canvas.paint(cell, canvas.new_label("lobe"), holds=True, appearance=appearance)
        if is_same:
            appearance = lobe
    return True


def _paint_shell(canvas: Canvas, rng: np.random.Generator, settings: SynthConfig, _: int) -> bool:
    region = _organ_region(canvas, rng, settings, scale=1.2)
    if region is None:
        return False
    inward = depth(region.mask)
    lumen = inward > max(_MIN_THICKNESS, rng.uniform(0.15, 0.4) * inward.max())
    if lumen.sum() < _MIN_VOXELS:
        return False
    canvas.paint(Region(region.box, region.mask & ~lumen), canvas.new_label("shell"))
    canvas.paint(Region(region.box, lumen))
    return True


def _paint_pair(
    canvas: Canvas, rng: np.random.Generator, settings: SynthConfig, count: int
) -> bool:
    free = canvas.tissue == BODY
    free &= free[::-1]
    free[canvas.shape[0] // 2 - 1 :] = False  # the left half, and a gap at the middle
    region = _organ_region(canvas, rng, settings, free)
    if region is None:
        return False
    (x, y, z), side = region.box, canvas.shape[0]
    mirrored = Region((slice(side - x.stop, side - x.start), y, z), region.mask[::-1])
    label = canvas.new_label("pair", side="left" if count == 2 else "")
    left = canvas.paint(region, label, holds=True)
    other = canvas.new_label("pair", label, "right") if count == 2 else label
    appearance = left if count == 2 and _have_same_appearance(rng, settings) else None
    canvas.mirrored += [left, canvas.paint(mirrored, other, holds=True, appearance=appearance)]
    return True


def _have_same_appearance(rng: np.random.Generator, settings: SynthConfig) -> bool:
    return bool(settings.same_appearance) and rng.random() < settings.same_appearance


def _paint_tube(canvas: Canvas, rng: np.random.Generator, settings: SynthConfig, _: int) -> bool:
    region = _tube_region(canvas, rng, settings)
    if region is None:
        return False
    canvas.paint(region, canvas.new_label("tube"))
    return True


def _paint_nested(canvas: Canvas, rng: np.random.Generator, settings: SynthConfig, _: int) -> bool:
    for host, inward in _hosts(canvas, rng, min_depth=2 * _MIN_THICKNESS):
        box = canvas.regions[host]
        places = np.argwhere(inward >= 0.6 * inward.max())
        place = places[rng.integers(len(places))]
        radius = (inward[tuple(place)] - _MIN_THICKNESS / 2) * rng.uniform(0.8, 1.6)
        corner = [part.start for part in box]
        scale = 2 / np.array(canvas.shape)
        centre = (place + corner + 0.5) * scale - 1
        radii = radius * scale * np.exp(rng.normal(0, 0.3, 3))
        region = solid(rng, canvas.shape, centre, radii, power=_power(rng), wavy=0.2)
        if region is None:
            continue
        inner = np.zeros(canvas.shape, bool)
        inner[box] = inward > _MIN_THICKNESS
        mask = largest_piece(region.mask & inner[region.box])
        if mask.sum() >= _MIN_VOXELS // 2:
            canvas.paint(Region(region.box, mask), canvas.new_label("nested"), holds=True)
            return True
    return False


def _paint_lesions(canvas: Canvas, rng: np.random.Generator, settings: SynthConfig, _: int) -> bool:
    for host, inward in _hosts(canvas, rng, min_depth=_MIN_THICKNESS):
        max_radius = max(0.4 * float(inward.max()), 2.0)
        tissue = canvas.new_tissue(canvas.new_label("lesions"))
        radii = (max(0.4 * max_radius, 1.6), max_radius)
        canvas.lesions.append(Lesions(tissue, host, rng.uniform(2, 7), radii))
        return True
    return False


_Painter = Callable[[Canvas, np.random.Generator, SynthConfig, int], bool]

_PAINTERS: dict[str, _Painter] = {
    "organ": _paint_organ,
    "lobes": _paint_lobes,
    "shell": _paint_shell,
    "pair": _paint_pair,
    "tube": _paint_tube,
    "nested": _paint_nested,
    "lesions": _paint_lesions,
}
"""Each paints one structure of its kind; False: there is no room."""

_DISTRACTORS = ()
_PHASES = (("organ", "lobes", "shell", "pair"), ("tube",), _DISTRACTORS, ("nested",), ("lesions",))
"""The order of painting: a host before its content, tubes before structures they must not cut."""


def _hosts(
    canvas: Canvas, rng: np.random.Generator, min_depth: float
) -> Iterator[tuple[int, np.ndarray]]:
    """A few tissues that may contain others, mostly large ones first, with their depths."""
    tissues = list(canvas.regions)
    sizes = np.bincount(canvas.tissue.ravel(), minlength=len(canvas.label_of))[tissues]
    # Sampling without replacement, by size: the largest keys.
    keys = rng.exponential(1, len(tissues)) / np.maximum(sizes, 1)
    for position in np.argsort(keys)[:_TRIES]:
        tissue = tissues[position]
        inward = depth(canvas.tissue[canvas.regions[tissue]] == tissue)
        if inward.max() >= min_depth:
            yield tissue, inward


def _organ_region(
    canvas: Canvas,
    rng: np.random.Generator,
    settings: SynthConfig,
    free: Bool[np.ndarray, "x y z"] | None = None,
    scale: float = 1.0,
) -> Region | None:
    """One piece of a random solid in a free gap; None if there is no room."""
    for _ in range(_TRIES):
        radius = scale * rng.uniform(*settings.radius)
        gap = _gap(canvas, rng, radius, free)
        if gap is None:
            return None
        centre, radius = gap
        region = solid(
            rng,
            canvas.shape,
            centre,
            radius * np.exp(rng.normal(0, 0.25, 3)),
            power=_power(rng),
            wavy=rng.uniform(0, 0.25),
            bend=rng.normal(0, 0.25),
            turn=random_turn(rng),
        )
        if region is None:
            continue
        allowed = (canvas.tissue[region.box] == BODY) if free is None else free[region.box]
        mask = largest_piece(region.mask & allowed)
        if mask.sum() >= _MIN_VOXELS:
            return Region(region.box, mask)
    return None


def _gap(
    canvas: Canvas, rng: np.random.Generator, radius: float, free: np.ndarray | None
) -> tuple[np.ndarray, float] | None:
    """A position with room for a radius, or the widest one with the radius that fits there."""
    step = max(1, min(canvas.shape) // 14)
    offset = step // 2
    tissue = canvas.tissue[offset::step, offset::step, offset::step]
    room = tissue == BODY if free is None else free[offset::step, offset::step, offset::step]
    if not room.any():
        return None
    scale = 2 / np.array(canvas.shape)
    distance = ndimage.distance_transform_edt(room, sampling=scale * step)
    for axis, side in enumerate(canvas.shape):
        distance *= along(axis, np.abs(centres(side)[offset::step]) < _MAX_CENTRE)
    widest = distance.max()
    places = np.argwhere(distance >= min(0.7 * radius, 0.9 * widest))
    place = places[rng.integers(len(places))]
    radius = min(radius, 1.4 * distance[tuple(place)])
    if radius < _MIN_THICKNESS * scale.max() or not widest:
        return None
    jitter = rng.uniform(-0.5, 0.5, 3) * step
    return (place * step + offset + 0.5 + jitter) * scale - 1, radius


def _tube_region(canvas: Canvas, rng: np.random.Generator, settings: SynthConfig) -> Region | None:
    """A tube through the body and through organs, which keep most of their voxels."""
    min_radius = _MIN_THICKNESS * 2 / min(canvas.shape)
    for _ in range(_TRIES):
        gap = _gap(canvas, rng, min_radius, None)
        if gap is None:
            return None
        radius = max(settings.radius[0] * rng.uniform(0.5, 1.0), min_radius)
        region = tube(canvas.shape, *_tree(rng, gap[0], radius, min_radius))
        if region is None:
            continue
        here = canvas.tissue[region.box]
        taken = np.bincount(here[region.mask], minlength=len(canvas.label_of))
        whole = np.bincount(canvas.tissue.ravel(), minlength=len(canvas.label_of))
        crossable = np.zeros(len(canvas.label_of), bool)
        crossable[BODY] = True
        for tissue in canvas.regions:
            crossable[tissue] = taken[tissue] <= _MAX_CROSSED * whole[tissue]
        for tissue in canvas.mirrored:
            crossable[tissue] = False
        mask = largest_piece(region.mask & crossable[here])
        if mask.sum() >= _MIN_VOXELS:
            return Region(region.box, mask)
    return None


def _tree(
    rng: np.random.Generator, start: np.ndarray, radius: float, min_radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points and radii of a tube that becomes thinner and may branch."""
    heading = rng.normal(size=3)
    heading /= np.linalg.norm(heading)
    trunk = walk(rng, start, heading, length=rng.uniform(1.0, 2.0), step=radius / 2, curl=1.2)
    points, radii = [trunk], [radius * np.linspace(1, 0.75, len(trunk))]
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        fork = int(rng.integers(len(trunk) // 4, len(trunk)))
        heading = trunk[fork] - trunk[fork - 1] + rng.normal(0, 0.5 * radius, 3)
        thin = 0.7 * radius
        branch = walk(
            rng,
            trunk[fork],
            heading / np.linalg.norm(heading),
            length=rng.uniform(0.3, 0.9),
            step=thin / 2,
            curl=1.5,
        )
        points.append(branch)
        radii.append(thin * np.linspace(1, 0.75, len(branch)))
    return np.concatenate(points), np.maximum(np.concatenate(radii), min_radius / 2)


def _power(rng: np.random.Generator) -> float:
    return float(rng.choice([1.5, 2, 2, 2, 2.5, 3.5]))
