"""What the training loop gets from an evaluation of its network."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from wsicl_jax.model.dual_branch import DualBranch


class Evaluation(NamedTuple):
    """The network's quality on validation cases; the same in all processes but for rounding."""

    scores: Mapping[str, float]
    """By name; their mean ranks checkpoints."""
    loss: float | None = None
    """The training loss on the validation cases; the schedule `plateau` needs it."""
    pictures: Mapping[str, bytes] = MappingProxyType({})
    """PNG files by name; only the leading process needs them."""


Evaluator = Callable[[DualBranch], Evaluation]
