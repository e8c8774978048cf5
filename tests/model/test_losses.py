import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsicl_jax.config import TrainConfig
from wsicl_jax.model.losses import dice_cross_entropy, make_loss, smooth_l3_l1

LOSSES = ["smooth_l3_l1", "l1", "dice_ce"]


def volumes(*values: float):
    return jnp.asarray(values, jnp.float32).reshape(1, -1, 1, 1, 1)


@pytest.fixture
def truth():
    return jnp.zeros((2, 4, 4, 4, 1)).at[:, 1:3, 1:3, 1:3].set(1)


@pytest.mark.parametrize(
    ("beta", "error", "expected"),
    [
        (1.0, 0.5, 0.333 * 0.125),
        (1.0, -0.5, 0.333 * 0.125),
        (1.0, 1.0, 0.333),
        (1.0, 3.0, 3 + 0.333 - 1),
        (0.5, 0.25, 0.333 * 0.015625 / 0.25),
        (0.5, 2.0, 2 + 0.333 * 0.125 - 0.5),
        (2.0, 1.5, 0.333 * 3.375 / 4),
        (2.0, 3.0, 3 + 0.333 * 8 - 2),
    ],
)
def test_smooth_l3_l1_is_cubic_below_beta_and_linear_above(beta, error, expected):
    given = smooth_l3_l1(volumes(0.25 + error), volumes(0.25), beta)
    np.testing.assert_allclose(given, expected, rtol=1e-6)


def test_smooth_l3_l1_is_the_mean_over_voxels():
    given = smooth_l3_l1(volumes(0.5, 3, 0, 0), volumes(0, 0, 0, 0))
    np.testing.assert_allclose(given, (0.333 * 0.125 + 3 + 0.333 - 1) / 4, rtol=1e-6)


def test_dice_cross_entropy_takes_0_5_as_undecided():
    wrong, right = volumes(0, 0.5), volumes(1, 0.5)
    truths = volumes(1, 0), volumes(1, 1)
    undecided = [float(dice_cross_entropy(volumes(0.5), volumes(v))) for v in (0, 1)]
    # Cross-entropy log 2 for both; probability 0.5 in the Dice term.
    np.testing.assert_allclose(undecided, np.log(2) + 1 - np.array([1 / 1.5, 2 / 2.5]), rtol=1e-5)
    for truth in truths:
        assert dice_cross_entropy(right, truth) < dice_cross_entropy(wrong, truth)


def test_with_less_cross_entropy_a_doubtful_structure_is_segmented_larger():
    """A structure is at one of three places: its probability is 1/3 at each."""
    truths = [volumes(*(float(place == i) for i in range(3)), 0) for place in range(3)]

    def expected_loss(inside: float, weight: float) -> float:
        prediction = volumes(inside, inside, inside, 0)
        return float(np.mean([dice_cross_entropy(prediction, t, weight) for t in truths]))

    def best(weight: float) -> float:
        return min(np.linspace(0, 1, 41), key=lambda inside: expected_loss(inside, weight))

    assert best(0.05) > 0.5 > best(1.0)
    settings = TrainConfig(loss="dice_ce", loss_weight=1.0, loss_cross_entropy=0.05)
    np.testing.assert_allclose(
        make_loss(settings)(volumes(0.3), volumes(1.0)),
        dice_cross_entropy(volumes(0.3), volumes(1.0), 0.05),
        rtol=1e-6,
    )


def test_dice_cross_entropy_is_least_at_the_truth(truth):
    loss = jax.jit(dice_cross_entropy)
    at_truth = float(loss(truth, truth))
    assert at_truth < 0.1
    for share in (0.1, 0.5, 1.0):
        assert loss(truth + share * (0.5 - truth) * 2, truth) > at_truth
    for voxel in ((0, 1, 1, 1, 0), (1, 0, 0, 0, 0)):
        assert loss(truth.at[voxel].set(1 - truth[voxel]), truth) > at_truth


def test_dice_is_taken_volume_by_volume():
    truth = jnp.concatenate([volumes(*[1.0] * 99, 0), volumes(1, *[0.0] * 99)])
    prediction = 0.8 * truth.at[1].set(0) + 0.1
    alone = [dice_cross_entropy(prediction[i : i + 1], truth[i : i + 1]) for i in range(2)]
    np.testing.assert_allclose(dice_cross_entropy(prediction, truth), np.mean(alone), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [0.0, 0.5, 1e4, -1e4])
def test_the_gradient_is_finite_for_an_empty_truth(name, value):
    loss = make_loss(TrainConfig(loss=name))
    gradient = jax.grad(loss)(jnp.full((1, 2, 2, 2, 1), value), jnp.zeros((1, 2, 2, 2, 1)))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_configured_loss_is_weighted(name, truth):
    prediction = 0.9 * truth + 0.2
    one = make_loss(TrainConfig(loss=name, loss_weight=1))(prediction, truth)
    seven = make_loss(TrainConfig(loss=name, loss_weight=7))(prediction, truth)
    np.testing.assert_allclose(seven, 7 * one, rtol=1e-6)


def test_the_configured_loss_is_the_one_named(truth):
    prediction = truth + 0.25
    weightless = {n: make_loss(TrainConfig(loss=n, loss_weight=1, loss_beta=0.5)) for n in LOSSES}
    given = [float(weightless[n](prediction, truth)) for n in LOSSES]
    expected = [0.333 * 0.015625 / 0.25, 0.25, float(dice_cross_entropy(prediction, truth))]
    np.testing.assert_allclose(given, expected, rtol=1e-6)
