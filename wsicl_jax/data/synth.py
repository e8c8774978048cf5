"""Synthetic cohorts: subjects that share an anatomy nobody has seen, for training and demos.

One cohort is one template of random shapes, painted with random intensities; its
subjects are smooth deformations of that template, each with its own contrast, blur,
bias field and noise. Domain randomisation in the spirit of SynthICL (arXiv 2509.19711).
Everything follows from (seed, index).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage

from wsicl_jax.axes import Shape3

_TEMPLATE_DETAIL = 1.5
"""Template voxels per voxel of a subject, so that a deformed edge stays smooth."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Subjects with one anatomy: `labels` structures over a background of 0."""

    seed: tuple[int, ...]
    shape: Shape3
    template: Integer[np.ndarray, "x y z"]
    brightness: Float[np.ndarray, "label"]
    """Mean intensity of the outside (0), the body (1) and each structure (2 ...)."""

    @property
    def structures(self) -> int:
        """Number of structures; their label values are 1 to this."""
        return len(self.brightness) - 2

    def subject(
        self, index: int
    ) -> tuple[Float[np.ndarray, "X Y Z"], Integer[np.ndarray, "X Y Z"]]:
        """Image in arbitrary units (float32) and label map (uint8) of one subject."""
        rng = np.random.default_rng([*self.seed, index])
        tissue = self._deformed(rng)
        image = self._painted(tissue, rng)
        return image, np.maximum(tissue, 1) - np.uint8(1)

    def _deformed(self, rng: np.random.Generator) -> np.ndarray:
        grid = np.stack(_coordinates(self.shape), -1)
        turn = np.eye(3) + rng.normal(0, 0.05, (3, 3))
        shift = rng.normal(0, 0.03, 3)
        bend = smooth_field(rng, self.shape, 3, frequency=1.5) * rng.uniform(0.02, 0.06)
        position = grid @ turn + shift + bend
        size = np.array(self.template.shape)
        index = np.floor((position + 1) / 2 * size).astype(np.int32)
        index = np.clip(index, 0, size - 1)
        return self.template[index[..., 0], index[..., 1], index[..., 2]]

    def _painted(self, tissue: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        means = self.brightness + rng.normal(0, 0.03, self.brightness.shape)
        image = means.astype(np.float32)[tissue]
        image += smooth_field(rng, self.shape, 1, frequency=6.0)[..., 0] * rng.uniform(0, 0.05)
        image = ndimage.gaussian_filter(image, rng.uniform(0.2, 0.8))
        image *= np.exp(smooth_field(rng, self.shape, 1, frequency=1.0)[..., 0] * 0.15)
        image += rng.normal(0, rng.uniform(0.01, 0.05), self.shape).astype(np.float32)
        return image.astype(np.float32)


def draw_cohort(seed: tuple[int, ...], shape: Shape3) -> Cohort:
    """The cohort of a seed: 2 to 6 structures inside a body."""
    rng = np.random.default_rng(seed)
    structures = int(rng.integers(2, 7))
    detail = tuple(round(side * _TEMPLATE_DETAIL) for side in shape)
    coordinates = _coordinates(detail)
    body = _inside(coordinates, np.zeros(3), rng.uniform(0.75, 0.95, 3), rng.uniform(2, 4), rng)
    template = body.astype(np.uint8)
    for label in range(2, structures + 2):
        template[_structure(coordinates, rng) & body] = label
    brightness = np.empty(structures + 2, np.float32)
    brightness[0] = rng.choice([0.0, rng.uniform(0, 1)])
    # Levels are spread out, so that most structures differ from what surrounds them.
    levels = np.linspace(0.15, 1, structures + 1) + rng.uniform(-0.06, 0.06, structures + 1)
    brightness[1:] = rng.permutation(levels)
    return Cohort(seed, shape, template, brightness)


def smooth_field(
    rng: np.random.Generator, shape: Shape3, channels: int, frequency: float
) -> Float[np.ndarray, "x y z c"]:
    """A random smooth field of unit variance: a few plane waves of up to `frequency` periods.

    Plane waves are products over the axes, which makes them cheap at any size.
    """
    waves = 8
    direction = rng.uniform(-frequency, frequency, (3, waves)) * np.pi
    factors = [
        np.exp(1j * np.linspace(-1, 1, side)[:, None] * direction[axis]).astype(np.complex64)
        for axis, side in enumerate(shape)
    ]
    phase = np.exp(2j * np.pi * rng.random((waves, channels)))
    amplitude = (phase * rng.normal(0, 1, (waves, channels)) * np.sqrt(2 / waves)).astype(
        np.complex64
    )
    plane = np.einsum("yk,zk->kyz", factors[1], factors[2])
    weighted = np.einsum("kyz,kc->kyzc", plane, amplitude).reshape(waves, -1)
    # Not `@`: the threads of a matrix library would fight with the training's for the cores.
    return np.einsum("xk,kn->xn", factors[0], weighted).real.reshape(*shape, channels)


def _coordinates(shape: Shape3) -> Sequence[np.ndarray]:
    axes = [(np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1 for side in shape]
    return np.meshgrid(*axes, indexing="ij")


def _structure(coordinates: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    centre = rng.uniform(-0.5, 0.5, 3)
    radii = rng.uniform(0.25, 0.55) * np.exp(rng.normal(0, 0.25, 3))
    # Exponent 1: octahedra, 2: ellipsoids, 6: almost cuboids.
    power = float(rng.choice([1.2, 2, 2, 3, 6]))
    wavy = smooth_field(rng, coordinates[0].shape, 1, frequency=2.5)[..., 0]
    shape = _inside(coordinates, centre, radii, power, rng, wavy * rng.uniform(0, 0.3))
    if rng.random() < 0.25:  # a shell: its core is left to what lies there
        shape &= ~_inside(coordinates, centre, radii * 0.55, power, rng)
    return shape


def _inside(
    coordinates: Sequence[np.ndarray],
    centre: np.ndarray,
    radii: np.ndarray,
    power: float,
    rng: np.random.Generator,
    wavy: np.ndarray | float = 0.0,
) -> np.ndarray:
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    offsets = [c - np.float32(m) for c, m in zip(coordinates, centre, strict=True)]
    total = np.zeros_like(coordinates[0])
    for row, radius in zip(turn, radii, strict=True):
        along = sum(w * o for w, o in zip(row, offsets, strict=True)) / np.float32(radius)
        total += np.abs(along) ** np.float32(power)
    return total < 1 + wavy
