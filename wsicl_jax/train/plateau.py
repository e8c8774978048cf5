"""Lowers the learning rate while the validation loss does not fall (`train.schedule: plateau`)."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from wsicl_jax.config import TrainConfig
from wsicl_jax.distributed.placement import replicated
from wsicl_jax.train.state import TrainState

_FACTOR = 0.5


class Plateau:
    """Follows the validation loss of a run; without effect on other schedules.

    `before` is the `record` of a run that continues.
    """

    def __init__(self, config: TrainConfig, before: Mapping[str, Any] | None = None):
        self._config = config
        self._is_used = config.schedule == "plateau"
        before = before or {}
        self._scale: float = before.get("scale", 1.0)
        # Records without it followed the Dice: the loss starts anew.
        self._lowest: float | None = before.get("lowest_loss")
        self._waited: int = before.get("waited", 0) if "lowest_loss" in before else 0

    @property
    def record(self) -> dict[str, Any] | None:
        """What a checkpoint keeps of it; None for other schedules."""
        if not self._is_used:
            return None
        return {"scale": self._scale, "lowest_loss": self._lowest, "waited": self._waited}

    def add(self, loss: float | None) -> None:
        """Add an evaluation; all processes must add the same number.

        Without a loss, or with one that is not finite, it counts as no lower.
        """
        if not self._is_used:
            return
        if loss is not None and np.isfinite(loss) and (self._lowest is None or loss < self._lowest):
            self._lowest, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited >= self._config.plateau_patience:
            self._scale = max(self._config.plateau_floor, self._scale * _FACTOR)
            self._waited = 0

    def applied(self, state: TrainState, mesh: Mesh) -> TrainState:
        """The state with the present share of the learning rate."""
        if not self._is_used:
            return state
        scale = jax.device_put(np.float32(self._scale), replicated(mesh))
        return state._replace(rate_scale=scale)
