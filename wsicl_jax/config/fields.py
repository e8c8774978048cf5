"""Types and rules that the settings of several areas share."""

import os
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
)

SYNTHETIC = "synthetic"


def _axes_in_space(letters: str) -> str:
    directions = [pair for x in letters for pair in ("RL", "AP", "SI") if x in pair]
    if len(letters) != 3 or sorted(directions) != ["AP", "RL", "SI"]:
        raise ValueError(
            "expected three letters such as RAS or LPS, in the order of the axes: R or L, A or P, "
            "and S or I"
        )
    return letters


# Strict, so that `true` or 2.0 is no number of steps.
Positive = Annotated[int, Field(ge=1, strict=True)]

Count = Annotated[int, Field(ge=0, strict=True)]

Shards = Annotated[int, Field(ge=-1, strict=True)]

Share = Annotated[float, Field(ge=0, le=1)]

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]

LocalPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, where `~` is the home directory; or what else may stand for one."""

PromptKind = Literal["point", "box", "scribble", "box3d", "mask2d", "mask"]

EvaluatedKind = Literal[PromptKind, "mixed"]

InteractiveKind = Literal["point", "box", "scribble"]

RestorationTask = Literal["denoising", "inpainting", "super_resolution"]

BaselineName = Literal["prompt_mean", "intensity"]

Task = Literal["segmentation", RestorationTask]

Spacing = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Orientation = Annotated[str, AfterValidator(_axes_in_space)]

_RULES = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def _in_place_of_lists(arguments: Any, names: Collection[str], length: int) -> Any:
    """The arguments of a section, where one number may stand for a list of equal ones."""
    settings = getattr(arguments, "kwargs", arguments)
    if not isinstance(settings, dict):
        return arguments
    single = {name: settings[name] for name in names if type(settings.get(name)) in (int, float)}
    return settings | {name: [value] * length for name, value in single.items()}


def _check_percentiles(percentiles: tuple[float, float]) -> None:
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ValueError("percentiles must satisfy 0 <= low < high <= 100")
