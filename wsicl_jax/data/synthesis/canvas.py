"""The grid of tissues that an anatomy is painted on.

A tissue is a number with one mean intensity. A label may unite several tissues; tissues without
a label are the rest of the body.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from wsicl_jax.data.synthesis.shapes import Region, solid
from wsicl_jax.geometry.axes import Shape3

OUTSIDE, BODY = 0, 1
"""Tissues of every anatomy: the surroundings of the body, and what fills it."""


class Lesions(NamedTuple):
    """Blobs in a host tissue; every subject has them at other positions."""

    tissue: int
    host: int
    """The tissue that contains them."""
    mean_count: float
    radii: tuple[float, float]
    """Smallest and largest, in voxels of the anatomy."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The common anatomy of a cohort's subjects."""

    tissue: Integer[np.ndarray, "x y z"]
    label_of: Integer[np.ndarray, "tissue"]
    """Label of each tissue; 0: none."""
    appearance_of: Integer[np.ndarray, "tissue"]
    """The tissue, itself or another one, that gives each tissue its intensity and texture."""
    names: dict[int, str]
    """Structure of each label; labels are 1, 2, ..."""
    lesions: tuple[Lesions, ...] = ()
    image: Float[np.ndarray, "x y z"] | None = None
    """Intensities of a real image in [0, 1] that subjects keep; None: they are synthetic."""

    def with_lesions(self, rng: np.random.Generator) -> Integer[np.ndarray, "x y z"]:
        """Tissues of one subject with its lesions, before its deformation."""
        if not self.lesions:
            return self.tissue
        tissue = self.tissue.copy()
        scale = 2 / np.array(tissue.shape)
        for lesions in self.lesions:
            host = np.flatnonzero(self.tissue == lesions.host)
            for _ in range(1 + rng.poisson(lesions.mean_count - 1)):
                place = np.unravel_index(rng.choice(host), tissue.shape)
                centre = (np.array(place) + 0.5) * scale - 1
                radii = rng.uniform(*lesions.radii) * scale * np.exp(rng.normal(0, 0.2, 3))
                blob = solid(rng, tissue.shape, centre, radii, wavy=0.3)
                if blob is not None:
                    view = tissue[blob.box]
                    view[blob.mask & (view == lesions.host)] = lesions.tissue
        return tissue


class Canvas:
    """An unfinished anatomy. Painted tissues stay, unless a tube cuts through."""

    def __init__(self, shape: Shape3):
        self.tissue = np.full(shape, BODY, np.uint8)
        self.label_of = [0, 0]
        self.appearance_of = [OUTSIDE, BODY]
        self.names: dict[int, str] = {}
        self.regions: dict[int, tuple[slice, slice, slice]] = {}
        """Box of each tissue that may contain others."""
        self.mirrored: list[int] = []
        """Tissues of pairs, which stay mirror images."""
        self.lesions: list[Lesions] = []

    @property
    def shape(self) -> Shape3:
        x, y, z = self.tissue.shape
        return x, y, z

    def new_label(self, kind: str, number: int = 0, side: str = "") -> int:
        """The next label, named by its kind and number."""
        label = len(self.names) + 1
        self.names[label] = f"{kind} {number or label} {side}".rstrip()
        return label

    def new_tissue(self, label: int = 0, appearance: int | None = None) -> int:
        """The next tissue, with or without a label; `appearance`: a tissue that looks alike."""
        tissue = len(self.label_of)
        self.label_of.append(label)
        self.appearance_of.append(tissue if appearance is None else self.appearance_of[appearance])
        return tissue

    def paint(
        self, region: Region, label: int = 0, *, holds: bool = False, appearance: int | None = None
    ) -> int:
        """Paint a new tissue; with `holds` it may contain other structures."""
        tissue = self.new_tissue(label, appearance)
        self.tissue[region.box][region.mask] = tissue
        if holds:
            self.regions[tissue] = region.box
        return tissue

    def finished(self) -> Anatomy:
        """The finished anatomy."""
        return Anatomy(
            self.tissue,
            np.array(self.label_of, np.uint8),
            np.array(self.appearance_of, np.uint8),
            dict(self.names),
            tuple(self.lesions),
        )
