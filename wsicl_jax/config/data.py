"""Settings of one data set."""

import re
from dataclasses import field, fields

from pydantic import (
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import _RULES, SYNTHETIC, Amount, LocalPath, Positive


@dataclass(frozen=True, kw_only=True, config=_RULES)
class DatasetConfig:
    """One source of episodes."""

    store: LocalPath = SYNTHETIC
    """Path of a store made by `wsicl convert`, or `synthetic` for the built-in generator."""
    weight: Amount = 1.0
    """Relative frequency of its episodes in training; 0: none, it is there for evaluation alone."""
    labels: tuple[Positive, ...] = ()
    """Label values that training may show; empty: all."""
    channels: tuple[str, ...] = ()
    """Names of the channels (modalities) that are shown, in training and evaluation; empty: all."""
    structures: dict[str, tuple[Positive, ...]] = field(default_factory=dict)
    """Structure name to the label values that it unites: the tasks of evaluation, and of training
    if `episode.structures` is `named`; empty: every label by its name."""
    structure_weights: dict[str, Amount] = field(default_factory=dict)
    """Relative frequency of these structures in training, the others have 1; 0: never."""
    min_voxels: Positive = 1
    """Voxels, in the store, below which a case does not count as having a label."""
    subject_pattern: str = ""
    """Regular expression whose first group, or else the whole match, in a case's name is its
    subject; empty: what the store says. Cases of one subject are never parted."""

    @model_validator(mode="after")
    def _check(self):
        try:
            re.compile(self.subject_pattern)
        except re.error as error:
            raise ValueError(
                f"subject_pattern {self.subject_pattern!r} is no regular expression: {error}"
            ) from None
        if self.store == SYNTHETIC:
            usual = DatasetConfig(store="", weight=self.weight)
            names = [name.name for name in fields(self) if name.name != "store"]
            if given := [n for n in names if getattr(self, n) != getattr(usual, n)]:
                raise ValueError(
                    f"{', '.join(given)} can be set for stores alone; `synth` describes synthetic "
                    "cohorts"
                )
        return self
