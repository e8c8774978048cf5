"""Settings of an ablation."""

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import RULES, LocalPath, Seed


@dataclass(frozen=True, kw_only=True, config=RULES)
class AblationConfig:
    """Trainings that differ in a few settings, for `wsicl ablate`. Each training is a cell."""

    base: LocalPath = ""
    """YAML file of the experiment that every cell starts from; relative to the ablation's file."""
    output: LocalPath = ""
    """Directory of the cells. The cell NAME writes its run to OUTPUT/NAME."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Settings that all cells change in `base`, such as `train.steps: 500`."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = field(default_factory=dict)
    """Setting to its values, such as `episode.contexts: [[2, 2], [4, 4]]`. Every combination is a
    cell."""
    cells: tuple[dict[str, Any], ...] = ()
    """More cells, each as a mapping of settings to values, with an optional `name`."""
    seeds: tuple[Seed, ...] = ()
    """Every cell is trained with each seed; empty: with the seed of `base`."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """Slurm resources of each cell, by submitit's names; `time_min` (minutes) is required."""

    @model_validator(mode="after")
    def _check(self):
        if missing := [name for name in ("base", "output") if not getattr(self, name)]:
            raise ValueError(f"{' and '.join(missing)} must be given in the ablation's file")
        if "://" in self.output:
            raise ValueError(
                f"output = {self.output} is a URL, but an ablation is written to a directory; its "
                "cells can be trained one by one by wsicl train run=URL"
            )
        return self
