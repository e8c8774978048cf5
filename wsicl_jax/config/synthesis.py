"""Settings of synthetic cohorts."""

from dataclasses import fields
from typing import Annotated, Any

from pydantic import (
    Field,
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import (
    _RULES,
    Amount,
    Count,
    LocalPath,
    Positive,
    Share,
    _in_place_of_lists,
)


@dataclass(frozen=True, kw_only=True, config=_RULES)
class KindsConfig:
    """Relative frequency of each kind of structure in a synthetic anatomy."""

    organ: Amount = 4.0
    """A solid with a wavy surface."""
    nested: Amount = 1.0
    """A solid within another structure, which surrounds it."""
    lobes: Amount = 1.0
    """Two to four neighbours that share one region, each with its own label."""
    tube: Amount = 1.0
    """A curved tube that may branch."""
    shell: Amount = 1.0
    """The wall of a hollow organ."""
    lesions: Amount = 1.0
    """Small blobs within another structure, others in each subject; one label."""
    pair: Amount = 1.0
    """Two solids that mirror each other, with two labels or with one."""

    @model_validator(mode="after")
    def _check(self):
        if not any(getattr(self, kind.name) for kind in fields(self)):
            raise ValueError("at least one kind needs a frequency above 0")
        return self


@dataclass(frozen=True, kw_only=True, config=_RULES)
class ScannerConfig:
    """Probability of each effect of the scanner, drawn anew for every synthetic subject."""

    invert: Share = 0.05
    """Bright becomes dark."""
    bias: Share = 0.6
    """Intensities are multiplied by a smooth field."""
    blur: Share = 0.8
    """Gaussian blur of 0.3 to 1.2 voxels."""
    thick_slices: Share = 0.15
    """Slices of 2 to 4 voxels along one axis, resampled to voxels again."""
    gaussian: Share = 0.6
    """Gaussian noise."""
    rician: Share = 0.2
    """Rician noise, as in magnitudes of MR."""
    speckle: Share = 0.1
    """Noise that is multiplied, as in ultrasound."""
    cut_field_of_view: Share = 0.1
    """The field of view ends within the volume: image and label are empty beyond."""
    strength: Amount = 1.0
    """Factor on the strength of bias, blur and noise."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class PriorConfig:
    """A store whose cases serve as anatomies of synthetic cohorts."""

    store: LocalPath
    """Path or URL of the store. All its cases are used: give one without the cases that you
    evaluate on."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Relative frequency of its cohorts."""


@dataclass(frozen=True, kw_only=True, config=_RULES)
class SynthConfig:
    """Synthetic cohorts: one random anatomy each, and subjects that deform it."""

    structures: tuple[Positive, Annotated[Positive, Field(le=200)]] = (5, 18)
    """Fewest and most labels of an anatomy, as far as there is room."""
    kinds: KindsConfig = KindsConfig()
    """How often each kind of structure is drawn."""
    radius: tuple[Share, Share] = (0.12, 0.45)
    """Smallest and largest mean radius of organs, as a share of half the volume."""
    distractors: tuple[Count, Annotated[Count, Field(le=40)]] = (2, 8)
    """Fewest and most structures without a label."""
    body: Share = 0.75
    """Probability that a body ends within the volume; otherwise tissue fills it."""
    deformation: tuple[Amount, Amount] = (0.04, 0.04)
    """Least and greatest typical displacement between the subjects of a cohort, as a share of half
    the volume; drawn for each cohort, and one number may stand for two alike."""
    intensity_sd: tuple[Amount, Amount] = (0.03, 0.03)
    """Least and greatest standard deviation of a structure's intensity over the subjects of a
    cohort; all intensities lie about in [0, 1]. One number may stand for two alike."""
    intensity_levels: tuple[Count, Count] = (0, 0)
    """Fewest and most levels of intensity that the tissues of an anatomy share, but for a little;
    0: each tissue has its own, and most structures differ from what surrounds them."""
    same_appearance: Share = 0.0
    """Probability that the lobes of one region, or the two of a pair with two labels, look the
    same, so that their place alone tells them apart."""
    parcellation: Share = 0.0
    """Probability that what fills the body, with its structures without a label, is divided into 2
    to 6 more labels, whose borders cannot be seen."""
    texture: Amount = 0.05
    """Largest standard deviation of the texture of a tissue."""
    scanner: ScannerConfig = ScannerConfig()
    """Effects of the scanner."""
    min_structure_share: Share = 0.001
    """Share of the working grid below which a structure is not asked for in training."""
    priors: tuple[PriorConfig, ...] = ()
    """Stores whose label maps serve as anatomies; empty: shapes alone."""
    shapes_weight: Amount = 0.0
    """Relative frequency of anatomies of shapes, beside the `weight` of each prior."""
    prior_image: Share = 0.0
    """Probability that the subjects of a prior's case keep the intensities of its image, deformed
    as the labels are; otherwise they are painted anew."""
    prior_crop: Share = 0.0
    """Probability that a cohort shows a part of its case, 0.35 to 0.9 of each side, around a
    voxel of one of its labels."""
    prior_drop: Share = 0.1
    """Probability that a label of the prior becomes a structure without a label."""
    prior_merge: Share = 0.1
    """Probability that a label of the prior is united with another one."""

    @model_validator(mode="before")
    @classmethod
    def _one_for_two(cls, arguments: Any) -> Any:
        return _in_place_of_lists(arguments, ("deformation", "intensity_sd"), length=2)

    @model_validator(mode="after")
    def _check(self):
        limits = (
            "structures",
            "radius",
            "distractors",
            "deformation",
            "intensity_sd",
            "intensity_levels",
        )
        for name in limits:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is ({low}, {high}); give the smaller number first")
        return self
