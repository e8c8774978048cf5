import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsicl_jax.data.synthesis.fields import interpolate, nearest, sample_deformation, smooth_field

sides = st.tuples(*[st.integers(2, 9)] * 3)


def deformed(rng, volume, *, bend, pose):
    shape = volume.shape
    return nearest(volume, sample_deformation(rng, shape, shape, bend=bend, pose=pose))


def test_a_smooth_field_has_unit_variance_around_0():
    rng = np.random.default_rng(0)
    fields = np.stack([smooth_field(rng, (8, 9, 10), 2, frequency=4.0) for _ in range(200)])
    assert fields.shape == (200, 2, 8, 9, 10)
    assert fields.dtype == np.float32
    np.testing.assert_allclose(fields.mean(), 0, atol=0.05)
    np.testing.assert_allclose(fields.var(axis=0).mean((1, 2, 3)), 1, atol=0.15)


def test_a_smooth_field_changes_slowly():
    field = smooth_field(np.random.default_rng(0), (64, 4, 4), 1, frequency=1.5)
    assert np.abs(np.diff(field, axis=1)).max() < 0.4


def test_a_large_field_is_nearly_what_its_plane_waves_say(monkeypatch):
    """A field of few samples a period, interpolated, against one of many."""
    coarse = smooth_field(np.random.default_rng(3), (40, 40, 40), 2, frequency=1.5)
    monkeypatch.setattr("wsicl_jax.data.synthesis.fields._SAMPLES_PER_PERIOD", 100)
    fine = smooth_field(np.random.default_rng(3), (40, 40, 40), 2, frequency=1.5)
    assert np.abs(coarse - fine).mean() < 0.05


@given(sides, sides, st.integers(0, 2))
def test_interpolation_is_exact_for_what_is_linear(coarse, fine, axis):
    def ramp(shape):
        line = np.linspace(-1, 3, shape[axis], dtype=np.float32)
        return np.broadcast_to(np.expand_dims(line, [a for a in range(3) if a != axis]), shape)

    np.testing.assert_allclose(interpolate(ramp(coarse)[None], fine)[0], ramp(fine), atol=1e-5)


@given(sides)
def test_without_a_displacement_a_volume_stays_as_it_is(shape):
    volume = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    still = deformed(np.random.default_rng(0), volume, bend=0.0, pose=0.0)
    np.testing.assert_array_equal(still, volume)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_displacement_is_a_share_of_half_the_volume_on_every_axis(axis):
    shape = (60, 40, 20)
    volume = np.indices(shape)[axis].astype(np.uint8)
    moved = np.stack(
        [deformed(np.random.default_rng(seed), volume, bend=0.1, pose=0.0) for seed in range(40)]
    ).astype(float)
    inner = tuple(slice(side // 3, -side // 3) for side in shape)
    typical = (moved - volume)[(slice(None), *inner)].std() / (shape[axis] / 2)
    assert 0.07 < typical < 0.13
