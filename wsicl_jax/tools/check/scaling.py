"""Predicts how the time of a training step scales with the number of devices, without a compiler.

More devices along `data` take more episodes; along `context` and `space` they share those of the
smallest number of devices.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax

from wsicl_jax.config import ExperimentConfig
from wsicl_jax.data.episodes.sampling import context_sizes
from wsicl_jax.distributed.hardware import Chip
from wsicl_jax.distributed.mesh import CONTEXT, DATA, SPACE
from wsicl_jax.distributed.placement import make_mesh, simulate_devices
from wsicl_jax.errors import ConfigError
from wsicl_jax.model import ops
from wsicl_jax.tools.check.device_memory import on_device, placed
from wsicl_jax.tools.check.step_cost import StepCost, step_cost
from wsicl_jax.tools.check.step_time import StepTime, step_time
from wsicl_jax.train.lowering import abstract_state, trace_step


@dataclass(frozen=True)
class Predicted:
    """A step on a number of devices."""

    axis: str
    """The axis that has more devices than with the smallest number."""
    mesh: dict[str, int]
    episodes: int
    """In a step."""
    contexts: int
    time: StepTime

    @property
    def rate(self) -> float:
        """Episodes per second and device."""
        return self.episodes / self.time.total / math.prod(self.mesh.values())


def predict_scaling(
    config: ExperimentConfig, chip: Chip, devices: Sequence[int]
) -> list[Predicted]:
    """The predicted steps, first that of the fewest devices; impossible meshes are left out.

    Raises:
        ConfigError: a number of devices is no multiple of the smallest one.
    """
    first, *more = sorted(set(devices))
    if first < 1 or any(count % first for count in more):
        numbers = ",".join(map(str, devices))
        raise ConfigError(f"--devices is {numbers}; expected multiples of the smallest number")
    each = max(1, config.train.batch // first)
    splits = [
        {axis: count // first}
        for axis, count in itertools.product((CONTEXT, SPACE), more)
        if _possible(config, **{axis: count // first})
    ]
    simulate_devices(max((math.prod(split.values()) for split in splits), default=1))
    # Along data, every device does the same: one stands for all.
    cost, accessed, contexts = _on_mesh(config, each, {})
    predicted = []
    for count in (first, *more):
        mesh = {DATA: count, CONTEXT: 1, SPACE: 1}
        time = step_time(cost, chip, mesh, accessed)
        predicted.append(Predicted(DATA, mesh, each * count, contexts, time))
    for split in splits:
        [axis] = split
        mesh = {DATA: first, CONTEXT: 1, SPACE: 1} | split
        cost, accessed, contexts = _on_mesh(config, each, split)
        time = step_time(cost, chip, mesh, accessed)
        predicted.append(Predicted(axis, mesh, each * first, contexts, time))
    return predicted


def _possible(config: ExperimentConfig, context: int = 1, space: int = 1) -> bool:
    planes = space * config.model.size_multiple
    return context <= config.episode.contexts[1] and config.volume.grid[0] % planes == 0


def _on_mesh(
    config: ExperimentConfig, episodes: int, parts: dict[str, int]
) -> tuple[StepCost, int, int]:
    """Cost of a step on a device, the least bytes it accesses, and the number of context images."""
    split = replace(config.parallel, **{DATA: 1, CONTEXT: 1, SPACE: 1} | parts)
    config = replace(config, parallel=split, train=replace(config.train, batch=episodes))
    mesh = make_mesh(config, jax.devices("cpu")[: math.prod(parts.values())])
    multiple = math.lcm(config.episode.context_multiple, mesh.shape[CONTEXT])
    contexts = context_sizes(config.episode, multiple)[-1]
    with ops.native_lowering():
        cost = step_cost(trace_step(config, mesh, contexts))
    state, _ = abstract_state(config, mesh)
    updated = on_device([*placed(state.parameters), *placed(state.optimizer)])
    return cost, cost.bytes + 2 * updated, contexts
