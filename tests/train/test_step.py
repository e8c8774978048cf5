"""One step: updates that are not finite are left out, whatever made them so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wsicl_jax.config import ExperimentConfig, ModelConfig, TrainConfig, VolumeConfig
from wsicl_jax.data.episodes import Episode
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.parallel import make_mesh, state_placement
from wsicl_jax.train.state import COUNTERS, init_state, make_optimizer
from wsicl_jax.train.step import make_step

CONFIG = ExperimentConfig(
    volume=VolumeConfig(grid=(4, 4, 4)),
    model=ModelConfig(channels=(2, 4)),
    train=TrainConfig(steps=10, batch=1, warmup_steps=4, learning_rate=0.1),
)


@pytest.fixture(scope="module")
def training():
    """The compiled step, and its first state as NumPy arrays, since a state is used up."""
    graph, parameters = nnx.split(DualBranch(CONFIG.model, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = make_optimizer(CONFIG.train)
    state = init_state(parameters, optimizer)
    mesh = make_mesh(CONFIG, jax.devices()[:1])
    step = make_step(graph, optimizer, CONFIG, mesh, state_placement(state, mesh, CONFIG.parallel))
    return step, jax.device_get(state)


def episodes(value: float = 0.5) -> Episode:
    volume = np.full((1, 4, 4, 4, 1), value, np.float32)
    weights = np.ones((1, 1), np.float32)
    return Episode(volume, np.ones_like(volume), volume[:, None], volume[:, None], weights)


def counters(state) -> dict[str, int]:
    return {name: int(getattr(state, name)) for name in COUNTERS}


def run(training, values, stop=(0,)):
    step, state = training
    state = jax.tree.map(jnp.asarray, state)
    for value in values:
        state, metrics = step(state, episodes(value), np.array(stop, np.int32))
    return jax.device_get((state, metrics))


def test_a_step_moves_the_network_and_counts_itself(training):
    state, metrics = run(training, [0.5, 0.5])
    assert counters(state) == {"step": 2, "skipped": 0, "skipped_in_row": 0}
    assert np.isfinite(metrics["loss"])
    before, after = jax.tree.leaves(training[1].parameters), jax.tree.leaves(state.parameters)
    assert any((x != y).any() for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_finite_changes_nothing_but_counters(training, bad):
    good, _ = run(training, [0.5, 0.5])
    state, metrics = run(training, [0.5, 0.5, bad, bad])
    assert counters(state) == {"step": 4, "skipped": 2, "skipped_in_row": 2}
    assert metrics["skipped"] == metrics["skipped_in_row"] == 2
    for part in ("parameters", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, part), getattr(good, part))


def test_updates_go_on_after_a_skipped_one_as_if_it_had_not_been(training):
    expected, _ = run(training, [0.5, 0.6, 0.7])
    state, metrics = run(training, [0.5, np.nan, 0.6, 0.7])
    assert counters(state) == {"step": 4, "skipped": 1, "skipped_in_row": 0}
    jax.tree.map(np.testing.assert_array_equal, state.parameters, expected.parameters)
    # The third update made, in a warm-up of four.
    assert metrics["learning_rate"] == pytest.approx(0.1 * 2 / 4)


def test_the_wish_to_stop_of_any_device_is_told(training):
    assert run(training, [0.5], stop=(0, 0, 0))[1]["stop"] == 0
    assert run(training, [0.5], stop=(0, 1, 1))[1]["stop"] == 2
