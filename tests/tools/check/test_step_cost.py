"""What a device does in a step, counted from operations on shapes, and the time by its rates."""

from collections import Counter

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp
from jax.sharding import PartitionSpec as P

from wsicl_jax.config import config_from_dict
from wsicl_jax.distributed.hardware import CHIPS
from wsicl_jax.distributed.placement import AXES, make_mesh
from wsicl_jax.errors import ConfigError
from wsicl_jax.model import ops
from wsicl_jax.model.cost import training_flops
from wsicl_jax.tools.check.step_cost import Exchange, StepCost, step_cost
from wsicl_jax.tools.check.step_time import exchanges, link_of, step_time
from wsicl_jax.train.lowering import trace_step

GRADIENTS = Exchange("all-reduce", ("data",))


def cost_of(function, *shapes, dtype="float32") -> StepCost:
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    with ops.native_lowering():
        return step_cost(jax.jit(function).trace(*arrays))


def test_products_count_their_operations_and_arrays():
    cost = cost_of(lambda a, b: a @ b, (3, 5), (5, 7), dtype="bfloat16")
    assert cost.flops == {"bfloat16": 2 * 3 * 5 * 7}
    assert cost.bytes == 2 * (3 * 5 + 5 * 7 + 3 * 7)


@pytest.mark.parametrize(("convolve", "k"), [(ops.conv3d, 3), (ops.conv3d_down, 4)])
def test_both_gradients_of_a_convolution_cost_as_much_as_itself(convolve, k):
    shapes = (1, 8, 8, 8, 2), (k, k, k, 2, 6)
    forward = cost_of(convolve, *shapes)
    stride = 2 if k == 4 else 1
    assert forward.flops == {"float32": 2 * (8 // stride) ** 3 * k**3 * 2 * 6}
    both = cost_of(jax.grad(lambda x, w: (convolve(x, w) ** 2).sum(), (0, 1)), *shapes)
    assert both.flops["float32"] == 3 * forward.flops["float32"]


def test_a_loop_counts_once_for_each_iteration_and_unused_results_not_at_all():
    def looped(a):
        a @ a
        return lax.scan(lambda x, _: (x @ x, None), a, None, length=4)[0]

    assert cost_of(looped, (3, 3)).flops == {"float32": 4 * 2 * 27}


def test_recomputation_counts():
    def gradient(keep):
        f = (lambda f: f) if keep else jax.checkpoint
        return jax.grad(lambda a: jnp.sin(f(lambda a: jnp.sin(a @ a) @ a)(a)).sum())

    kept, recomputed = (cost_of(gradient(keep), (3, 3)).flops["float32"] for keep in (True, False))
    assert recomputed == kept + 2 * 27


def test_the_dearer_branch_of_a_condition_counts():
    branches = (lambda a: a @ a @ a, lambda a: a @ a)
    cost = cost_of(lambda a: lax.cond(a[0, 0] > 0, *branches, a), (3, 3))
    assert cost.flops == {"float32": 2 * 2 * 27}


def test_exchange_is_counted_with_its_axes_and_the_larger_array():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), AXES)

    def exchanging(x):
        x = lax.psum(x, "data")
        return lax.all_gather(lax.ppermute(x, "space", [(0, 0)]), "context", tiled=True)

    sharded = jax.shard_map(exchanging, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    cost = cost_of(sharded, (5,))
    assert cost.exchanged == {
        Exchange("all-reduce", ("data",)): 20,
        Exchange("permute", ("space",)): 20,
        Exchange("all-gather", ("context",)): 20,
    }
    assert set(cost.exchanges.values()) == {1}


def test_the_training_step_computes_its_model_flops_where_nothing_is_recomputed():
    config = config_from_dict(
        {
            "run": "run",
            "data": "synthetic",
            "volume": {"grid": [16, 16, 16]},
            "augment": {"gin": 0},
            "model": {"channels": [8, 16], "context": {"mini_context": 0, "remat": "none"}},
            "train": {"steps": 1, "batch": 1},
        }
    )
    mesh = make_mesh(config, jax.devices()[:1])
    with ops.native_lowering():
        cost = step_cost(trace_step(config, mesh, 2))
    model = training_flops(config.model, config.volume.grid, 2)
    # Images and prompts need no gradient, so the first layer costs less.
    assert 0.95 <= cost.flops["float32"] / model <= 1.01


def mesh(data: int = 1, context: int = 1, space: int = 1) -> dict[str, int]:
    return dict(zip(AXES, (data, context, space), strict=True))


def test_the_bound_of_a_step_is_its_slowest_resource():
    h200 = CHIPS["h200"]
    cost = StepCost(flops=Counter(bfloat16=int(h200.flops)))
    time = step_time(cost, h200, mesh(), int(h200.bandwidth / 2))
    assert (time.computing, time.memory, time.exchange) == (1, pytest.approx(0.5), 0)
    assert time.total == 1 and time.bound == "computing"
    assert step_time(cost, h200, mesh(), int(2 * h200.bandwidth)).bound == "memory"


def test_gpus_multiply_float32_at_half_the_rate():
    cost = StepCost(flops=Counter(float32=10**12))
    on_gpu, on_tpu = (step_time(cost, CHIPS[name], mesh(), 0).computing for name in ("h100", "v5p"))
    assert on_gpu == 2e12 / CHIPS["h100"].flops
    assert on_tpu == 1e12 / CHIPS["v5p"].flops


def test_gradients_cross_the_network_once_for_each_host():
    h100, size = CHIPS["h100"], 10**9
    cost = StepCost(exchanged=Counter({GRADIENTS: size}), exchanges=Counter({GRADIENTS: 1}))
    within = step_time(cost, h100, mesh(8), 0).exchange
    assert within == pytest.approx(2 * 7 / 8 * size / h100.link + 20e-6, rel=1e-3)
    over_two = step_time(cost, h100, mesh(16), 0).exchange
    assert over_two - within == pytest.approx(2 * size / 8 / 2 / h100.network)
    assert link_of(GRADIENTS, h100, mesh(8)) == "links within a host"
    assert link_of(GRADIENTS, h100, mesh(16)) == "network between hosts"


def test_an_axis_whose_devices_lie_on_different_hosts_uses_the_network_alone():
    h100, size = CHIPS["h100"], 10**9
    cost = StepCost(exchanged=Counter({GRADIENTS: size}), exchanges=Counter({GRADIENTS: 1}))
    time = step_time(cost, h100, mesh(2, 8), 0)
    assert time.exchange == pytest.approx(size / h100.network, rel=1e-2)


def test_arrays_are_combined_but_border_planes_are_not():
    planes = Exchange("permute", ("space",))
    cost = StepCost(
        exchanged=Counter({GRADIENTS: 70 * 2**20, planes: 100}),
        exchanges=Counter({GRADIENTS: 132, planes: 40}),
    )
    assert (exchanges(cost, GRADIENTS), exchanges(cost, planes)) == (3, 40)


def test_no_time_is_made_up_beyond_a_pod():
    cost = StepCost(exchanged=Counter({GRADIENTS: 1}), exchanges=Counter({GRADIENTS: 1}))
    with pytest.raises(ConfigError, match="a pod of TPU v5 lite has 256 chips"):
        step_time(cost, CHIPS["v5e"], mesh(512), 0)
