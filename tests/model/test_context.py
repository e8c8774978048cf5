"""The mean over contexts, on a branch small enough to compile in no time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wsicl_jax.config import ContextConfig
from wsicl_jax.model.blocks import Merge, gelu
from wsicl_jax.model.context import mean_over_contexts

COUNT = 5
SLOW = pytest.mark.slow
GRID = (4, 2, 6)


class Branch(nnx.Module):
    """Sees image, prompt and the target's shortcut; two feature maps, as from two stages."""

    def __init__(self, rngs: nnx.Rngs):
        self.fuse = Merge(2, 3, 4, rngs=rngs)

    def __call__(self, image_and_prompt, shortcuts):
        x = gelu(self.fuse(image_and_prompt, shortcuts[0]))
        return x[:, ::2, ::2, ::2], x


GRAPH, PARAMETERS = nnx.split(Branch(nnx.Rngs(0)))


@pytest.fixture(scope="module")
def inputs():
    """Context images, prompts and the target's shortcut of two episodes."""
    rng = np.random.default_rng(0)
    shapes = [(2, COUNT, *GRID, 1), (2, COUNT, *GRID, 1), (2, *GRID, 3)]
    return [jnp.asarray(rng.random(shape, np.float32)) for shape in shapes]


def some(inputs, contexts, episodes=slice(None)):
    images, prompts, shortcut = inputs
    return [images[episodes, contexts], prompts[episodes, contexts], shortcut[episodes]]


def means_and_gradients(inputs, weights=None, mini_context=0, key=None, **processing):
    """Both mean maps; gradients of their mean squares by parameters, images, prompts, shortcut."""
    weights = None if weights is None else jnp.asarray(weights, jnp.float32)
    config = ContextConfig(mini_context=mini_context, **processing)

    def mean_square(parameters, images, prompts, shortcut):
        branch = nnx.merge(GRAPH, parameters)
        means = mean_over_contexts(branch, images, prompts, weights, (shortcut,), config, key)
        return sum((mean**2).mean() for mean in means), means

    gradients, means = jax.jit(jax.grad(mean_square, (0, 1, 2, 3), has_aux=True))(
        PARAMETERS, *inputs
    )
    return means, *gradients


def assert_equal(given, expected):
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.fixture(scope="module")
def all_at_once(inputs):
    return means_and_gradients(inputs)


def test_the_mean_is_that_of_each_context_by_itself(inputs, all_at_once):
    alone = [means_and_gradients(some(inputs, [i]))[0] for i in range(COUNT)]
    assert_equal(all_at_once[0], jax.tree.map(lambda *maps: sum(maps) / COUNT, *alone))


def test_every_parameter_and_input_has_a_gradient(all_at_once):
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(all_at_once))


PARTS = [
    (mini_context, remat) for mini_context in (1, 2, 3, 4, 5, 9) for remat in ("none", "context")
]
FEW_PARTS = [(1, "context"), (2, "none"), (3, "context"), (9, "none")]


@pytest.mark.parametrize(
    ("mini_context", "remat"),
    [part if part in FEW_PARTS else pytest.param(*part, marks=SLOW) for part in PARTS],
)
def test_parts_give_value_and_gradients_of_all_contexts_at_once(
    inputs, all_at_once, mini_context, remat
):
    assert_equal(means_and_gradients(inputs, None, mini_context, remat=remat), all_at_once)


def truncated(inputs, mini_context, weights=None, seed=None):
    key = None if seed is None else jax.random.key(seed)
    return means_and_gradients(inputs, weights, mini_context, key, gradient="truncated")


@pytest.mark.parametrize(
    "mini_context", [2, pytest.param(1, marks=SLOW), pytest.param(5, marks=SLOW)]
)
def test_a_truncated_gradient_leaves_the_value_exact(inputs, all_at_once, mini_context):
    assert_equal(truncated(inputs, mini_context, seed=0)[0], all_at_once[0])


@pytest.mark.parametrize(
    ("mini_context", "last"),
    [(3, [3, 4]), pytest.param(1, [4], marks=SLOW), pytest.param(2, [4], marks=SLOW)],
)
def test_a_truncated_gradient_is_that_of_one_part_times_the_number_of_parts(
    inputs, mini_context, last
):
    parts = -(-COUNT // mini_context)
    images, prompts, shortcut = inputs
    features = jax.vmap(
        lambda p, i, q: nnx.merge(GRAPH, p)(jnp.concatenate([i, q], -1), (shortcut,)),
        in_axes=(None, 1, 1),
        out_axes=1,
    )

    def mean_square(parameters):
        shown = np.isin(np.arange(COUNT), last)[:, None, None, None, None]
        maps = features(parameters, images, prompts)
        fixed = jax.lax.stop_gradient(maps)
        scaled = jax.tree.map(lambda m, f: f + parts * shown * (m - f), maps, fixed)
        return sum((m.mean(axis=1) ** 2).mean() for m in scaled)

    assert_equal(truncated(inputs, mini_context)[1], jax.grad(mean_square)(PARAMETERS))


@pytest.mark.parametrize("mini_context", [3, pytest.param(2, marks=SLOW)])
def test_over_the_draws_of_its_part_the_truncated_gradient_is_exact_in_the_mean(
    inputs, all_at_once, mini_context
):
    parts = -(-COUNT // mini_context)
    drawn = {int(jax.random.randint(jax.random.key(i), (), 0, parts)): i for i in range(20)}
    assert len(drawn) == parts
    gradients = [truncated(inputs, mini_context, seed=seed)[1] for seed in drawn.values()]
    mean = jax.tree.map(lambda *g: sum(g) / parts, *gradients)
    assert_equal(mean, all_at_once[1])


def test_a_truncated_gradient_of_the_only_part_is_exact(inputs, all_at_once):
    assert_equal(truncated(inputs, COUNT, seed=0), all_at_once)


@pytest.mark.parametrize("mini_context", [0, 2])
def test_a_context_of_weight_0_counts_as_skipped(inputs, mini_context):
    given = means_and_gradients(inputs, [[1, 1, 1, 0, 0]] * 2, mini_context)
    expected = means_and_gradients(some(inputs, slice(3)))
    for i in (0, 1, 4):
        assert_equal(given[i], expected[i])
    for i in (2, 3):
        assert_equal(given[i][:, :3], expected[i])
        assert not given[i][:, 3:].any()


@pytest.mark.parametrize("mini_context", [0, 3])
def test_the_number_of_contexts_may_differ_within_a_batch(inputs, mini_context):
    means = means_and_gradients(inputs, [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]], mini_context)[0]
    for i, count in enumerate((4, 1)):
        episode = slice(i, i + 1)
        alone = means_and_gradients(some(inputs, slice(count), episode))[0]
        assert_equal([mean[episode] for mean in means], alone)


@pytest.mark.parametrize("mini_context", [0, 2])
def test_a_context_of_twice_the_weight_counts_twice(inputs, mini_context):
    given = means_and_gradients(inputs, [[1, 0.5, 0.5, 0.5, 0.5]] * 2, mini_context)
    twice = means_and_gradients(some(inputs, np.array([0, 0, 1, 2, 3, 4])))
    for i in (0, 1, 4):
        assert_equal(given[i], twice[i])


@pytest.mark.parametrize("mini_context", [0, 2])
def test_the_order_of_the_contexts_does_not_matter(inputs, all_at_once, mini_context):
    turned = some(inputs, slice(None, None, -1))
    assert_equal(means_and_gradients(turned, mini_context=mini_context)[:2], all_at_once[:2])


def test_each_context_keeps_its_own_prompt(inputs, all_at_once):
    images, prompts, shortcut = inputs
    mixed = means_and_gradients([images[:, ::-1], prompts, shortcut])[0]
    assert np.abs(mixed[1] - all_at_once[0][1]).max() > 1e-4
