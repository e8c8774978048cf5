"""Synthetic cohorts: subjects that share a random anatomy, for training and demos.

A cohort is a random anatomy with random intensities. Its subjects are smooth deformations of it,
each with another contrast, texture, lesions and scanner effects. This is domain randomization in
the spirit of SynthICL (arXiv 2509.19711). Everything follows from (seed, index, settings).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage

from wsicl_jax.config import SynthConfig
from wsicl_jax.data.synthesis.anatomy import DETAIL, sample_anatomy
from wsicl_jax.data.synthesis.canvas import OUTSIDE, Anatomy
from wsicl_jax.data.synthesis.fields import interpolate, linear, nearest, sample_deformation
from wsicl_jax.data.synthesis.prior import prior_anatomy, sample_prior
from wsicl_jax.data.synthesis.scanner import cut, scan
from wsicl_jax.geometry.axes import Shape3

_WITHIN_LEVEL = 0.02
"""Standard deviation of the intensities of tissues that share a level."""

_TONE = 5.0
"""Standard deviation of the logarithm of a real image's exponent, per that of intensities."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Subjects with one anatomy: `structures` labels over a background of 0."""

    seed: tuple[int, ...]
    shape: Shape3
    settings: SynthConfig
    anatomy: Anatomy
    deformation: float
    """Typical displacement between subjects, as a share of half the volume."""
    intensity_sd: float
    """Standard deviation of a tissue's intensity over subjects."""
    brightness: Float[np.ndarray, "tissue"]
    """Mean intensity of each tissue, about 0 to 1."""
    texture: Float[np.ndarray, "2 tissue"]
    """Standard deviation of the fine and the coarse texture of each tissue."""

    @property
    def structures(self) -> int:
        """Number of structures; their label values are 1 to this."""
        return len(self.names)

    @property
    def names(self) -> dict[int, str]:
        """Structure of each label value."""
        return self.anatomy.names

    def subject(
        self, index: int
    ) -> tuple[Float[np.ndarray, "X Y Z"], Integer[np.ndarray, "X Y Z"]]:
        """Image in arbitrary units (float32) and label map (uint8) of one subject."""
        # From 1: with 0, numpy would repeat the random numbers of the cohort itself.
        rng = np.random.default_rng([*self.seed, 1 + index])
        volume, amount = self.anatomy.with_lesions(rng), self.deformation
        positions = sample_deformation(rng, volume.shape, self.shape, bend=amount, pose=amount)
        tissue = nearest(volume, positions)
        label = self.anatomy.label_of[tissue]
        if self.anatomy.image is None:
            image = self._painted(tissue, rng)
        else:
            image = self._kept(tissue, linear(self.anatomy.image, positions), rng)
        image = scan(rng, image, self.settings.scanner)
        if rng.random() < self.settings.scanner.cut_field_of_view:
            cut(rng, image, label)
        return image, label

    def _kept(self, tissue: np.ndarray, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A real image with a random tone curve and small intensity shifts of its tissues."""
        curve = np.exp(rng.normal(0, _TONE * self.intensity_sd))
        return np.maximum(image, 0) ** np.float32(curve) + self._shifts(rng)[tissue]

    def _shifts(self, rng: np.random.Generator) -> np.ndarray:
        """Random difference of each tissue's intensity from the cohort's; float32."""
        shift = rng.normal(0, self.intensity_sd, len(self.brightness))[self.anatomy.appearance_of]
        shift[OUTSIDE] = 0
        return shift.astype(np.float32)

    def _painted(self, tissue: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = (self.brightness + self._shifts(rng))[tissue]
        if self.settings.texture:
            for amplitude, voxels in zip(self.texture, (1.5, 3.5), strict=True):
                image += amplitude[tissue] * _texture(rng, self.shape, voxels)
        return image


def sample_cohort(seed: tuple[int, ...], shape: Shape3, settings: SynthConfig) -> Cohort:
    """The cohort of a seed, with subjects of this shape.

    Raises:
        DataError: a store of `settings.priors` cannot be read.
    """
    rng = np.random.default_rng(seed)
    detail = tuple(round(side * DETAIL) for side in shape)
    deformation, intensity_sd = (
        _sampled(rng, x) for x in (settings.deformation, settings.intensity_sd)
    )
    if prior := sample_prior(rng, settings):
        anatomy = prior_anatomy(rng, detail, settings, prior, 2 * deformation)
    else:
        anatomy = sample_anatomy(rng, detail, settings)
    tissues = len(anatomy.label_of)
    brightness = np.empty(tissues, np.float32)
    brightness[OUTSIDE] = rng.choice([0.0, 0.0, rng.uniform(0, 1)])
    brightness[1:] = _levels(rng, tissues - 1, settings)
    texture = rng.uniform(0, settings.texture, (2, tissues)).astype(np.float32)
    texture[:, OUTSIDE] = 0
    appearances = anatomy.appearance_of
    return Cohort(
        seed,
        shape,
        settings,
        anatomy,
        deformation,
        intensity_sd,
        brightness[appearances],
        texture[:, appearances],
    )


def _levels(
    rng: np.random.Generator, tissues: int, settings: SynthConfig
) -> Float[np.ndarray, "tissue"]:
    low, high = settings.intensity_levels
    shared = int(rng.integers(low, high + 1)) if high else 0
    # Levels are spread out, so that most structures differ from their surroundings.
    count = shared or tissues
    levels = np.linspace(0.15, 1, count) + rng.uniform(-0.06, 0.06, count)
    if not shared:
        return rng.permutation(levels)
    return levels[rng.integers(count, size=tissues)] + rng.normal(0, _WITHIN_LEVEL, tissues)


def _sampled(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    low, high = limits
    # A single value uses no random number, so all later ones stay the same.
    return low if low == high else float(rng.uniform(low, high))


def _texture(rng: np.random.Generator, shape: Shape3, voxels: float) -> np.ndarray:
    """Smooth noise of unit variance, with grains of `voxels` voxels."""
    coarse = [max(round(side / voxels), 2) for side in shape]
    noise = ndimage.gaussian_filter(rng.standard_normal(coarse, np.float32), 0.7, truncate=2)
    field = interpolate(noise[None], shape)[0]
    return field / field.std()
