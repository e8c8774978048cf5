"""Settings of one data set."""

import re
from dataclasses import field, fields

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from wsicl_jax.config.fields import RULES, SYNTHETIC, Amount, LocalPath, Positive


@dataclass(frozen=True, kw_only=True, config=RULES)
class DatasetConfig:
    """One source of episodes."""

    store: LocalPath = SYNTHETIC
    """Path or URL of a store, or `synthetic` for synthetic cohorts."""
    weight: Amount = 1.0
    """Relative frequency of its episodes in training; 0: evaluation only."""
    labels: tuple[Positive, ...] = ()
    """Label values that training may use; empty: all."""
    channels: tuple[str, ...] = ()
    """Names of the channels (modalities) to use, in training and evaluation; empty: all."""
    structures: dict[str, tuple[Positive, ...]] = field(default_factory=dict)
    """Structure name to the label values that it unites. Evaluation segments these; training too,
    if `episode.structures` is `named`. Empty: every label by its name."""
    structure_weights: dict[str, Amount] = field(default_factory=dict)
    """Relative frequency of structures in training; 1 for those not listed, 0: never."""
    min_voxels: Positive = 1
    """A case has a label if the store holds at least this many voxels of it."""
    subject_pattern: str = ""
    """Regular expression for a case's name; the first group, or else the whole match, is the
    subject. Empty: the subject that the store names. All cases of a subject stay in one part of
    the split."""

    @model_validator(mode="after")
    def _check(self):
        try:
            re.compile(self.subject_pattern)
        except re.error as error:
            raise ValueError(
                f"subject_pattern {self.subject_pattern!r} is no regular expression: {error}"
            ) from None
        if self.store == SYNTHETIC:
            default = DatasetConfig(store="", weight=self.weight)
            names = [setting.name for setting in fields(self) if setting.name != "store"]
            if changed := [n for n in names if getattr(self, n) != getattr(default, n)]:
                raise ValueError(
                    f"{', '.join(changed)} can be set for stores alone; `synth` describes "
                    "synthetic cohorts"
                )
        return self
