"""Settings of synthetic cohorts."""

from dataclasses import fields
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import (
    ASCENDING,
    RULES,
    AboveZero,
    Amount,
    Count,
    LocalPath,
    Positive,
    Share,
    numbers_as_lists,
)

_Amounts = Annotated[tuple[Amount, Amount], ASCENDING]


@dataclass(frozen=True, kw_only=True, config=RULES)
class KindsConfig:
    """Relative frequency of each kind of structure in a synthetic anatomy."""

    organ: Amount = 4.0
    """Solid with an uneven surface."""
    nested: Amount = 1.0
    """Solid inside another structure."""
    lobes: Amount = 1.0
    """Two to four neighbours that share one region, each with its own label."""
    tube: Amount = 1.0
    """Curved tube that may branch."""
    shell: Amount = 1.0
    """Wall of a hollow organ."""
    lesions: Amount = 1.0
    """Small blobs inside another structure with one label; others in each subject."""
    pair: Amount = 1.0
    """Two mirrored solids, with two labels or one."""

    @model_validator(mode="after")
    def _check(self):
        if not any(getattr(self, kind.name) for kind in fields(self)):
            raise ValueError("at least one kind needs a frequency above 0")
        return self


@dataclass(frozen=True, kw_only=True, config=RULES)
class ScannerConfig:
    """Probability of each effect of the scanner, sampled for every synthetic subject."""

    invert: Share = 0.05
    """Inverted intensities."""
    bias: Share = 0.6
    """Smooth multiplicative bias field."""
    blur: Share = 0.8
    """Gaussian blur of 0.3 to 1.2 voxels."""
    thick_slices: Share = 0.15
    """Slices of 2 to 4 voxels along one axis, resampled to voxels."""
    gaussian: Share = 0.6
    """Gaussian noise."""
    rician: Share = 0.2
    """Rician noise, as in magnitude images of MR."""
    speckle: Share = 0.1
    """Multiplicative noise, as in ultrasound."""
    cut_field_of_view: Share = 0.1
    """A field of view that ends inside the volume; image and label are empty outside."""
    strength: Amount = 1.0
    """Factor on the strength of bias, blur and noise."""


@dataclass(frozen=True, kw_only=True, config=RULES)
class PriorConfig:
    """A store whose cases serve as anatomies of synthetic cohorts."""

    store: LocalPath
    """Path or URL of the store. All its cases are used; remove those that you evaluate
    on."""
    weight: AboveZero = 1.0
    """Relative frequency of its cohorts."""


@dataclass(frozen=True, kw_only=True, config=RULES)
class SynthConfig:
    """Synthetic cohorts: each has one random anatomy, which its subjects deform."""

    structures: Annotated[tuple[Positive, Annotated[Positive, Field(le=200)]], ASCENDING] = (5, 18)
    """Fewest and most labels of an anatomy; fewer if they do not fit."""
    kinds: KindsConfig = KindsConfig()
    """Frequency of each kind of structure."""
    radius: Annotated[tuple[Share, Share], ASCENDING] = (0.12, 0.45)
    """Smallest and largest mean radius of organs, as a share of half the volume's side."""
    distractors: Annotated[tuple[Count, Annotated[Count, Field(le=40)]], ASCENDING] = (2, 8)
    """Fewest and most structures without a label."""
    body: Share = 0.75
    """Probability that the body ends inside the volume; otherwise tissue fills the volume."""
    deformation: _Amounts = (0.04, 0.04)
    """Smallest and largest typical displacement between subjects, as a share of half the volume's
    side; sampled for each cohort. A single number stands for both."""
    intensity_sd: _Amounts = (0.03, 0.03)
    """Smallest and largest standard deviation of a structure's intensity over the subjects of a
    cohort, for intensities of about [0, 1]. A single number stands for both."""
    intensity_levels: Annotated[tuple[Count, Count], ASCENDING] = (0, 0)
    """Fewest and most intensity levels that the tissues of an anatomy share approximately;
    0: each tissue has its own level, so that most structures contrast with their surroundings."""
    same_appearance: Share = 0.0
    """Probability that the lobes of one region, or a pair with two labels, have the same
    appearance, so that only their positions differ."""
    parcellation: Share = 0.0
    """Probability that the tissue that fills the body is divided into 2 to 6 more labels without
    visible borders."""
    texture: Amount = 0.05
    """Largest standard deviation of the texture of a tissue, for intensities of about [0, 1]."""
    scanner: ScannerConfig = ScannerConfig()
    """Effects of the scanner."""
    min_structure_share: Share = 0.001
    """Smallest structure in training, as a share of the working grid's voxels."""
    priors: tuple[PriorConfig, ...] = ()
    """Stores whose label maps serve as anatomies; empty: random shapes only."""
    shapes_weight: Amount = 0.0
    """Relative frequency of anatomies of random shapes, next to the `weight` of each prior."""
    prior_image: Share = 0.0
    """Probability that a prior's cohort keeps the intensities of its image, deformed like the
    labels; otherwise intensities are synthesized."""
    prior_crop: Share = 0.0
    """Probability that a cohort shows a crop of its case, 0.35 to 0.9 of each side, around a
    labelled voxel."""
    prior_drop: Share = 0.1
    """Probability that a label of the prior becomes a structure without a label."""
    prior_merge: Share = 0.1
    """Probability that a label of the prior is united with another one."""

    @model_validator(mode="before")
    @classmethod
    def _one_for_two(cls, arguments: Any) -> Any:
        return numbers_as_lists(arguments, ("deformation", "intensity_sd"), length=2)
