"""Cases to look at: which ones, and what the network was shown and found in them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from wsicl_jax.evaluate.records import Score

Rank = Literal["best", "median", "worst"]


@dataclass(frozen=True, eq=False)
class ShownContext:
    """A context image as the network saw it, and the structure, which it did not see."""

    name: str
    image: Float[np.ndarray, "x y z"]
    prompts: Float[np.ndarray, "x y z"]
    """The prompt channel."""
    truth: Bool[np.ndarray, "x y z"]


@dataclass(frozen=True, eq=False)
class ShownCase:
    """A target with its context set, all on the working grid (axes in RAS+ order)."""

    rank: Rank
    score: Score
    spacing_mm: tuple[float, float, float]
    """Of the working grid, for this target."""
    image: Float[np.ndarray, "x y z"]
    truth: Bool[np.ndarray, "x y z"]
    mask: Bool[np.ndarray, "x y z"]
    """What the network found."""
    contexts: tuple[ShownContext, ...]
