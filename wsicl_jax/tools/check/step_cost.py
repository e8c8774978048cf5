"""Counts what one device does in a training step, from the step's operations on shapes.

It counts convolutions and matrix products, the arrays that they read and write, and the exchange
that the network itself asks for. All else is taken as fused with them.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jax.interpreters import partial_eval
from jax.stages import Traced

_EXCHANGES = {
    "psum": "all-reduce",
    "psum_invariant": "all-reduce",
    "pmax": "all-reduce",
    "all_gather": "all-gather",
    "all_gather_invariant": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "ppermute": "permute",
}
"""Names of exchanges, by those of JAX's operations."""


class Exchange(NamedTuple):
    """A kind of exchange along axes of the mesh."""

    kind: str
    axes: tuple[str, ...]


@dataclass
class StepCost:
    """What one device does in a step."""

    flops: Counter[str] = field(default_factory=Counter)
    """By number format; a multiply-add is 2."""
    bytes: int = 0
    """Read and written by convolutions and matrix products."""
    exchanged: Counter[Exchange] = field(default_factory=Counter)
    """Bytes of the whole array: the sum, the gathered or scattered array, or what is sent."""
    exchanges: Counter[Exchange] = field(default_factory=Counter)
    """How often."""

    def add(self, other: "StepCost", times: int) -> None:
        """Add the cost of a part that runs so many times."""
        self.bytes += times * other.bytes
        for name in ("flops", "exchanged", "exchanges"):
            mine, more = getattr(self, name), getattr(other, name)
            mine.update({key: times * value for key, value in more.items()})


def step_cost(traced: Traced) -> StepCost:
    """The cost of a traced training step on each device.

    Of the branches of a condition, the most expensive one counts.
    """
    jaxpr = traced.jaxpr.jaxpr
    # Recomputed activations that no gradient needs are not computed by any compiler.
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _cost(needed)


def _cost(jaxpr: Any) -> StepCost:
    cost = StepCost()
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            _add_product(cost, equation, _convolution_flops(equation))
        elif name == "dot_general":
            _add_product(cost, equation, _matrix_flops(equation))
        elif name in _EXCHANGES:
            _add_exchange(cost, equation, _EXCHANGES[name])
        elif name == "cond":
            branches = [_cost(branch) for branch in _inner(parameters)]
            cost.add(max(branches, key=lambda branch: sum(branch.flops.values())), 1)
        else:
            times = parameters["length"] if name == "scan" else 1
            for inner in _inner(parameters):
                cost.add(_cost(inner), times)
    return cost


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs within an operation."""
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one


def _add_product(cost: StepCost, equation: Any, flops: int) -> None:
    [out] = equation.outvars
    cost.flops[str(equation.invars[0].aval.dtype)] += flops
    cost.bytes += sum(_bytes(variable) for variable in (*equation.invars, out))


def _add_exchange(cost: StepCost, equation: Any, kind: str) -> None:
    axes = equation.params.get("axes", equation.params.get("axis_name"))
    axes = axes if isinstance(axes, tuple) else (axes,)
    exchange = Exchange(kind, axes)
    larger = max(sum(map(_bytes, side)) for side in (equation.invars, equation.outvars))
    cost.exchanged[exchange] += larger
    cost.exchanges[exchange] += 1


def _convolution_flops(equation: Any) -> int:
    kernel, [out] = equation.invars[1].aval, equation.outvars
    dimensions = equation.params["dimension_numbers"].rhs_spec
    features, *space = (kernel.shape[axis] for axis in dimensions[1:])
    # Zeros between the voxels of a dilated input cost nothing.
    holes = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(out.aval.shape) * features * math.prod(space) // holes


def _matrix_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, [out] = equation.invars[0].aval, equation.outvars
    return 2 * math.prod(out.aval.shape) * math.prod(left.shape[axis] for axis in contracted)


def _bytes(variable: Any) -> int:
    return math.prod(variable.aval.shape) * variable.aval.dtype.itemsize
