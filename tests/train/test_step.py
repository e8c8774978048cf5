"""One step: updates that are not finite are left out, whatever made them so; and its changes
of intensities."""

import re
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from wsicl_jax.config import (
    AugmentConfig,
    ContextConfig,
    DatasetConfig,
    ExperimentConfig,
    ModelConfig,
    ParallelConfig,
    TrainConfig,
    VolumeConfig,
)
from wsicl_jax.data.augmentation.intensity import augment_intensities
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.distributed.placement import make_mesh, replicated, state_placement
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.train.lowering import trace_step
from wsicl_jax.train.state import COUNTERS, init_state, learning_rate, make_optimizer
from wsicl_jax.train.step import make_step
from wsicl_jax.train.stop import Stop

CONFIG = ExperimentConfig(
    volume=VolumeConfig(grid=(4, 4, 4)),
    model=ModelConfig(channels=(2, 4)),
    train=TrainConfig(steps=10, batch=1, warmup_steps=4, learning_rate=0.1),
    augment=AugmentConfig().only(),
)


MESH = make_mesh(CONFIG, jax.devices()[:1])


def compiled_step(config: ExperimentConfig):
    """The compiled step, and its first state as NumPy arrays, since a state is used up."""
    graph, parameters = nnx.split(DualBranch(config.model, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = make_optimizer(config.train)
    state = init_state(parameters, optimizer, config.train)
    placement = state_placement(state, MESH, config.parallel)
    return make_step(graph, optimizer, config, MESH, placement), jax.device_get(state)


@pytest.fixture(scope="module")
def training():
    return compiled_step(CONFIG)


def episodes(value: float = 0.5) -> Episode:
    volume = np.full((1, 4, 4, 4, 1), value, np.float32)
    weights = np.ones((1, 1), np.float32)
    return Episode(
        volume,
        np.ones_like(volume),
        volume[:, None],
        volume[:, None],
        weights,
        np.zeros((1, 1), np.int32),
    )


def counters(state) -> dict[str, int]:
    return {name: int(getattr(state, name)) for name in COUNTERS}


def run(training, values, stop=(0,)):
    step, state = training
    state = jax.device_put(state, replicated(MESH))
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


@pytest.mark.parametrize(
    ("gradient", "accumulate"),
    [("exact", 4), pytest.param("truncated", 2, marks=pytest.mark.slow)],
)
def test_accumulated_gradients_give_the_updates_of_the_whole_batch(gradient, accumulate):
    rng = np.random.default_rng(0)
    volumes = [rng.random((4, *n, 4, 4, 4, 1), np.float32) for n in ((), (), (3,), (3,))]
    batch = Episode(*volumes, np.ones((4, 3), np.float32), np.zeros((4, 1), np.int32))
    context = ContextConfig(mini_context=int(gradient == "truncated"), gradient=gradient)
    found = []
    for parts in (1, accumulate):
        train = replace(CONFIG.train, batch=4, accumulate=parts, warmup_steps=0, loss="dice_ce")
        model = replace(CONFIG.model, context=context)
        # Noise, which must be that of the whole batch too.
        augment = CONFIG.augment.only(noise=1.0)
        data = (DatasetConfig(), DatasetConfig(store="another"))  # a loss for each episode
        step, state = compiled_step(
            replace(CONFIG, train=train, model=model, augment=augment, data=data)
        )
        state = jax.device_put(state, replicated(MESH))
        for _ in range(2):
            state, metrics = step(state, batch, np.zeros(1, np.int32))
        found.append(jax.device_get((metrics, state.parameters)))
        assert len(set(metrics["losses"].tolist())) == 4
        assert np.mean(metrics["losses"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    for x, y in zip(*map(jax.tree.leaves, found), strict=True):
        # An update moves parameters by 0.1; Adam divides small gradients with their rounding.
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-4)


def test_the_average_is_that_of_a_plain_loop_over_the_updates_made():
    decay = 0.3
    config = replace(CONFIG, train=replace(CONFIG.train, ema=decay))
    step, state = compiled_step(config)
    state = jax.device_put(state, replicated(MESH))
    expected, updates = jax.tree.map(np.float64, jax.device_get(state.parameters)), 0
    for value in (0.5, np.nan, 0.6, 0.7, 0.8):
        state, _ = step(state, episodes(value), np.zeros(1, np.int32))
        if np.isfinite(value):
            updates += 1
            share = min(decay, (1 + updates) / (10 + updates))
            expected = jax.tree.map(
                lambda old, new, share=share: share * old + (1 - share) * np.float64(new),
                expected,
                jax.device_get(state.parameters),
            )
    assert (1 + 2) / (10 + 2) < decay < (1 + 4) / (10 + 4)  # so that both terms are tested
    for x, y in zip(*map(jax.tree.leaves, (state.ema, expected)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_the_learning_rate_is_at_its_peak_after_the_warm_up(schedule, warmup):
    rate = learning_rate(
        TrainConfig(steps=10, warmup_steps=warmup, schedule=schedule, learning_rate=0.1)
    )
    assert [float(rate(step)) for step in range(warmup)] == pytest.approx(
        [0.1 * step / warmup for step in range(warmup)]
    )
    assert float(rate(warmup)) == pytest.approx(0.1)
    assert float(rate(10)) == pytest.approx(0.1 if schedule == "constant" else 0, abs=1e-7)


def first_update(optimizer, gradients, parameters):
    return optimizer.update(gradients, optimizer.init(parameters), parameters)[0]


def test_muon_moves_kernels_by_orthogonal_matrices_and_biases_as_nadam_does():
    settings = TrainConfig(steps=10, warmup_steps=0, schedule="constant", learning_rate=0.1)
    shapes = {"kernel": (3, 3, 3, 2, 8), "bias": (8,)}
    rng = np.random.default_rng(0)
    gradients = {name: rng.normal(size=shape, scale=1e-3) for name, shape in shapes.items()}
    parameters = jax.tree.map(np.zeros_like, gradients)

    muon = first_update(make_optimizer(replace(settings, optimizer="muon")), gradients, parameters)
    nadam = optax.chain(optax.clip_by_global_norm(0.25), optax.nadam(0.1))
    nadam = first_update(nadam, gradients, parameters)
    np.testing.assert_allclose(muon["bias"], nadam["bias"], rtol=1e-6)
    matrix = np.asarray(muon["kernel"]).reshape(-1, 8)
    values = np.linalg.svd(matrix, compute_uv=False)
    gradient = gradients["kernel"].reshape(-1, 8)
    # Five rounds of Newton-Schulz bring all singular values near one another.
    assert values.max() / values.min() < 1.8
    assert np.sqrt(np.mean(matrix**2)) == pytest.approx(0.2 * 0.1, rel=0.25)
    assert (matrix * gradient).sum() < 0


def test_the_wish_to_stop_of_any_device_is_told(training):
    assert run(training, [0.5], stop=(0, 0, 0))[1]["stop"] == 0
    assert run(training, [0.5], stop=(0, 1, 1))[1]["stop"] == Stop.REQUESTED


@pytest.mark.parametrize("reason", [Stop.NO_DATA, Stop.WORKER_KILLED])
def test_a_step_for_which_a_process_has_no_data_changes_nothing(training, reason):
    state, metrics = run(training, [0.5, 0.0], stop=(0, reason))
    assert metrics["stop"] == reason
    for x, y in zip(*map(jax.tree.leaves, (state, training[1])), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_step_learns_from_intensities_that_its_seed_and_number_change(training):
    augment = CONFIG.augment.only(invert_image=0.5, noise=1.0)
    config = replace(CONFIG, augment=augment, seed=7)
    step, first = compiled_step(config)
    plain, _ = training
    key = jax.random.fold_in(jax.random.key(7), RandomStream.INTENSITIES)
    change = jax.jit(lambda batch, key: augment_intensities(batch, key, augment, MESH))
    given, expected = (jax.device_put(first, replicated(MESH)) for _ in range(2))
    batch, none = episodes(), np.zeros(1, np.int32)
    for number in range(4):
        given, metrics = step(given, batch, none)
        changed = jax.device_get(change(batch, jax.random.fold_in(key, number)))
        expected, expected_metrics = plain(expected, changed, none)
        assert metrics["loss"] == pytest.approx(float(expected_metrics["loss"]), rel=1e-5)
    for x, y in zip(*map(jax.tree.leaves, (given.parameters, expected.parameters)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    assert np.abs(changed.target - batch.target).max() > 1e-3


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_weight_decay_takes_its_share_of_kernels_and_biases_beside_the_gradient(optimizer):
    settings = TrainConfig(
        steps=10, warmup_steps=0, schedule="constant", learning_rate=0.1, optimizer=optimizer
    )
    parameters = {"kernel": np.full((3, 3, 3, 2, 8), 2.0), "bias": np.full(8, -3.0)}
    gradients = jax.tree.map(np.ones_like, parameters)

    without, decayed = (
        first_update(make_optimizer(replace(settings, weight_decay=decay)), gradients, parameters)
        for decay in (0.0, 0.5)
    )
    taken = jax.tree.map(np.subtract, decayed, without)
    np.testing.assert_allclose(taken["kernel"], -0.1 * 0.5 * 2.0, rtol=1e-3)
    np.testing.assert_allclose(taken["bias"], 0.1 * 0.5 * 3.0, rtol=1e-3)


def test_a_step_for_tpus_has_the_configured_convolutions():
    def axes(kind: str) -> set[int]:
        config = replace(CONFIG, parallel=ParallelConfig(tpu_convolutions=kind))
        traced = trace_step(config, MESH, contexts=1)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
        orders = re.findall(r"dim_numbers = \[(.*?)\]", text)
        return {sum(axis.strip().isdigit() for axis in order.split(",")) for order in orders}

    assert axes("planes") == {2}
    assert axes("volumes") == {3}
