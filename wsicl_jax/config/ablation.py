"""Settings of an ablation."""

from dataclasses import field
from typing import Annotated, Any

from pydantic import (
    Field,
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import _RULES, Count, LocalPath


@dataclass(frozen=True, kw_only=True, config=_RULES)
class AblationConfig:
    """Training runs that differ in a few settings, for `wsicl ablate`."""

    base: LocalPath = ""
    """YAML file of the experiment that every cell starts from, seen from the ablation's file."""
    output: LocalPath = ""
    """Directory of the cells: each is the run OUTPUT/NAME."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Settings in which all cells differ from `base` alike, such as `train.steps: 500`."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = field(default_factory=dict)
    """Setting to its values, such as `episode.contexts: [[2, 2], [4, 4]]`; every combination is
    a cell."""
    cells: tuple[dict[str, Any], ...] = ()
    """Further cells, each by its settings and their values, and a `name` if it should have one."""
    seeds: tuple[Annotated[Count, Field(lt=2**32)], ...] = ()
    """Every cell is run with each of these; empty: with the seed of `base`."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """What each cell asks of Slurm, in the words of submitit; `time_min` is needed."""

    @model_validator(mode="after")
    def _check(self):
        if missing := [name for name in ("base", "output") if not getattr(self, name)]:
            raise ValueError(f"{' and '.join(missing)} must be given in the ablation's file")
        return self
