"""Settings of `wsicl convert`."""

from typing import Annotated

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import RULES, AboveZero, Percentiles, Positive
from wsicl_jax.config.reading import AssumptionConfig


@dataclass(frozen=True, kw_only=True, config=RULES)
class PreparationConfig(AssumptionConfig):
    """What `wsicl convert` does to every case. The store records it, so that predictions can be
    mapped back. The default changes nothing."""

    ras: bool = False
    """Permute and flip the axes to RAS+ order: right, anterior, superior."""
    crop: bool = False
    """Crop to the content: the box outside of which all channels are constant and no label is."""
    spacing_mm: tuple[AboveZero, AboveZero, AboveZero] | None = None
    """Resample to this voxel spacing in mm, rounded so that whole voxels cover the volume."""
    grid: tuple[Positive, Positive, Positive] | None = None
    """Resize each volume to this number of voxels. With `ras` and an equal `volume.grid`,
    training has nothing left to resize."""
    percentiles: Percentiles | None = None
    """Clip intensities to these percentiles (0 to 100) after `crop`, and scale them to [0, 1]."""
    replace_nonfinite: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Value for voxels that are NaN or infinite; None: cases with such voxels are skipped."""

    @model_validator(mode="after")
    def _check(self):
        if self.spacing_mm and self.grid:
            raise ValueError("spacing_mm and grid cannot both be; give one of them")
        return self
