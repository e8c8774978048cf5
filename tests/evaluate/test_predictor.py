"""All context sizes in one pass: the numbers of exactly so many contexts, compiled once."""

import jax
import numpy as np
import pytest
from evaluate.small_evaluations import GRID, experiment, some_model

from wsicl_jax.config import VolumeConfig
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.evaluate import predictor as network_module
from wsicl_jax.evaluate.predictor import Predictor

VOLUME = VolumeConfig(grid=GRID)
CONTEXTS = 3


def some_episodes(count: int, contexts: int = CONTEXTS) -> list[Episode]:
    rng = np.random.default_rng(0)
    return [
        Episode(
            *(rng.random((*n, *GRID, 1), np.float32) for n in ((), (), (contexts,), (contexts,))),
            np.ones(contexts, np.float32),
            np.zeros(0, np.int32),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def network(model):
    return Predictor(model, VOLUME)


def compilations() -> int:
    return network_module._after_each._cache_size()


def test_outputs_are_those_of_exactly_so_many_contexts(network, model, agree):
    episodes = some_episodes(2)
    found = network.outputs(episodes, [1, 2, 3])
    assert found.shape == (3, 2, *GRID) and found.dtype == np.float32
    target, _, images, prompts, *_ = (np.stack(x) for x in zip(*episodes, strict=True))
    alone = jax.jit(model, compiler_options={"xla_backend_optimization_level": 0})
    expected = alone(target, images[:, :2], prompts[:, :2])[..., 0]
    agree("contexts in one pass: output", found[1], expected, 1e-5)
    assert np.abs(found[1] - found[2]).max() > 0.1
    assert np.abs(found[0] - found[2]).max() > 0.1


def test_one_compilation_serves_all_sizes_numbers_of_episodes_and_networks(network):
    network.outputs(some_episodes(4), [CONTEXTS])
    before = compilations()
    assert before
    other = Predictor(some_model(seed=1), VOLUME)
    for sizes in ([1, 3], [3], [3, 2, 1]):
        for count in (1, 3, 4):
            network.outputs(some_episodes(count), sizes)
            other.outputs(some_episodes(count), sizes)
    assert compilations() == before


def test_sizes_may_come_in_any_order_and_context_sets_be_larger(network):
    episodes = some_episodes(2, contexts=4)
    found = network.outputs(episodes, [3, 1])
    np.testing.assert_array_equal(found[::-1], network.outputs(episodes, [1, 3]))
    np.testing.assert_array_equal(found[:1], network.outputs(episodes, [3]))


def test_outputs_do_not_depend_on_how_many_episodes_run_at_once(network, monkeypatch):
    episodes = some_episodes(4)
    together = network.outputs(episodes, [1, 3])
    monkeypatch.setattr(network_module, "_VOXELS_AT_ONCE", 1)
    assert network.at_once == 1
    one = np.concatenate([network.outputs([e], [1, 3]) for e in episodes], axis=1)
    np.testing.assert_allclose(one, together, atol=1e-6)


def test_parts_cover_all_episodes_in_order(network):
    assert network.at_once == 4
    parts = list(network.parts(10))
    assert [i for part in parts for i in part] == list(range(10))
    assert [len(part) for part in parts] == [4, 4, 2]


def test_the_experiments_working_grid_fits_the_stores():
    """So that masks are as exact on one grid as on the other in the tests beside this one."""
    assert experiment("synthetic").volume.grid == GRID
