"""Lowers the learning rate while the validation Dice does not rise (`train.schedule: plateau`)."""

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
    """Follows the validation Dice of a run; without effect on other schedules.

    `before` is the `record` of a run that continues.
    """

    def __init__(self, config: TrainConfig, before: Mapping[str, Any] | None = None):
        self._config = config
        self._is_used = config.schedule == "plateau"
        self._scale, self._best, self._waited = 1.0, float("-inf"), 0
        if before:
            self._scale, self._best, self._waited = (before[name] for name in _RECORD)

    @property
    def record(self) -> dict[str, Any] | None:
        """What a checkpoint keeps of it; None for other schedules, or before an evaluation."""
        if not self._is_used or self._best == float("-inf"):
            return None
        return dict(zip(_RECORD, (self._scale, self._best, self._waited), strict=True))

    def add(self, dice: float) -> None:
        """Add an evaluation; all processes must add the same number."""
        if not self._is_used:
            return
        if dice > self._best:
            self._best, self._waited = dice, 0
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


_RECORD = ("scale", "best", "waited")
