"""Settings of `wsicl convert`."""

from typing import Annotated

from pydantic import (
    Field,
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import _RULES, Amount, Positive, Spacing, _check_percentiles
from wsicl_jax.config.reading import AssumptionConfig


@dataclass(frozen=True, kw_only=True, config=_RULES)
class PreparationConfig(AssumptionConfig):
    """What `wsicl convert` does to every case, once; recorded in the store, so that it can be
    undone. A store of cases as they were needs none of it."""

    ras: bool = False
    """Axes are permuted and mirrored to RAS+ order: to the right, to the front, up."""
    crop: bool = False
    """Only the box is kept in which a channel, without its margins of one value, or a label is."""
    spacing_mm: tuple[Spacing, Spacing, Spacing] | None = None
    """Volumes are resampled to about this voxel spacing in mm, so that a whole number of voxels
    covers them."""
    grid: tuple[Positive, Positive, Positive] | None = None
    """Volumes are resized as a whole to this number of voxels; with `ras`, training at an equal
    `volume.grid` has nothing left to do."""
    percentiles: tuple[Amount, Amount] | None = None
    """Intensities are clipped to these percentiles (0 to 100) of what `crop` leaves, and scaled to
    [0, 1]."""
    replace_nonfinite: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Voxels that are NaN or infinite become this; without it their cases are left out."""

    @model_validator(mode="after")
    def _check(self):
        if self.spacing_mm and self.grid:
            raise ValueError("spacing_mm and grid cannot both be; give one of them")
        _check_percentiles(self.percentiles or (0.0, 100.0))
        return self
