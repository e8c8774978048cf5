"""Types and rules that the settings of several areas share."""

import os
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

SYNTHETIC = "synthetic"
"""Stands for synthetic cohorts in place of a store's path."""

RULES = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""Of every dataclass of settings."""


def _check_axes(letters: str) -> str:
    directions = [pair for x in letters for pair in ("RL", "AP", "SI") if x in pair]
    if len(letters) != 3 or sorted(directions) != ["AP", "RL", "SI"]:
        raise ValueError(
            "expected three letters such as RAS or LPS, in the order of the axes: R or L, A or P, "
            "and S or I"
        )
    return letters


def _check_ascending(limits: tuple[int | float, int | float]) -> tuple[int | float, int | float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{limits}: give the smaller number first")
    return limits


def _check_percentiles(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= limits[0] < limits[1] <= 100:
        raise ValueError(f"{limits}: expected 0 <= low < high <= 100")
    return limits


# Integers are strict, so that `true` and 2.0 are refused.
Positive = Annotated[int, Field(ge=1, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Shards = Annotated[int, Field(ge=-1, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]

ASCENDING = AfterValidator(_check_ascending)
"""Of a pair of a smallest and a largest value."""

Range = Annotated[tuple[Positive, Positive], ASCENDING]
Percentiles = Annotated[tuple[Amount, Amount], AfterValidator(_check_percentiles)]

LocalPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, where `~` is the home directory, or a URL or name in its place."""

Orientation = Annotated[str, AfterValidator(_check_axes)]

PromptKind = Literal["point", "box", "scribble", "box3d", "mask2d", "mask"]
EvaluatedKind = Literal[PromptKind, "mixed"]
InteractiveKind = Literal["point", "box", "scribble"]
RestorationTask = Literal["denoising", "inpainting", "super_resolution"]
BaselineName = Literal["prompt_mean", "intensity", "registered_mean"]
Task = Literal["segmentation", RestorationTask]


def numbers_as_lists(arguments: Any, names: Collection[str], length: int) -> Any:
    """The arguments of a section, with a single number for any of `names` repeated `length` times.

    For validators of mode `before`; other arguments come back unchanged.
    """
    settings = getattr(arguments, "kwargs", arguments)
    if not isinstance(settings, dict):
        return arguments
    single = {name: settings[name] for name in names if type(settings.get(name)) in (int, float)}
    return settings | {name: [value] * length for name, value in single.items()}
