"""Every effect of the scanner by itself: what it does at probability 1, and nothing at 0."""

import numpy as np
import pytest
from scipy import ndimage

from wsicl_jax.config import ScannerConfig
from wsicl_jax.data.synthesis.scanner import Slices, cut, scan, sliced, unsliced

OFF = dict.fromkeys(
    (
        "invert",
        "bias",
        "blur",
        "thick_slices",
        "gaussian",
        "rician",
        "speckle",
        "cut_field_of_view",
    ),
    0.0,
)
SHAPE = (20, 24, 28)


@pytest.fixture
def image():
    """Background 0, a block of 0.5 and one of 1."""
    values = np.zeros(SHAPE, np.float32)
    values[4:16, 4:12, 4:24] = 0.5
    values[4:16, 12:20, 4:24] = 1
    return values


def after(image: np.ndarray, seed: int = 0, strength: float = 1.0, **effects: float) -> np.ndarray:
    settings = ScannerConfig(**(OFF | effects), strength=strength)
    found = scan(np.random.default_rng(seed), image.copy(), settings)
    assert found.shape == image.shape
    assert found.dtype == np.float32
    return found


def test_without_effects_an_image_stays_as_it_is(image):
    np.testing.assert_array_equal(after(image), image)


@pytest.mark.parametrize("effect", [effect for effect in OFF if effect != "cut_field_of_view"])
def test_every_effect_changes_the_image_at_probability_1(image, effect):
    changed = after(image, **{effect: 1.0})
    assert np.abs(changed - image).max() > 0.01
    np.testing.assert_array_equal(changed, after(image, **{effect: 1.0}))


@pytest.mark.parametrize("effect", [effect for effect in OFF if effect != "cut_field_of_view"])
def test_a_probability_is_the_share_of_images_with_the_effect(image, effect):
    changed = [(after(image, seed, **{effect: 0.5}) != image).any() for seed in range(60)]
    assert 0.25 < np.mean(changed) < 0.75


@pytest.mark.parametrize("effect", ["bias", "blur", "gaussian", "rician", "speckle"])
def test_strength_scales_an_effect(image, effect):
    full = np.abs(after(image, **{effect: 1.0}) - image).mean()
    assert np.abs(after(image, strength=0.2, **{effect: 1.0}) - image).mean() < 0.5 * full
    none = after(image, strength=0, **{effect: 1.0})
    np.testing.assert_allclose(none, image, atol=1e-6)


def test_inversion_exchanges_bright_and_dark(image):
    np.testing.assert_allclose(after(image, invert=1), 1 - image, atol=1e-6)


def test_bias_is_a_smooth_factor(image):
    factor = after(image + 1, bias=1) / (image + 1)
    assert (factor > 0).all()
    assert factor.std() > 0.02
    assert np.abs(np.diff(factor, axis=2)).max() < 0.15


def test_blur_keeps_the_mean_and_takes_edges(image):
    blurred = after(image, blur=1)
    assert blurred.mean() == pytest.approx(image.mean(), rel=0.01)
    assert np.abs(np.diff(blurred, axis=1)).max() < np.abs(np.diff(image, axis=1)).max()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_are_means_along_one_axis(image, axis):
    thick = sliced(image, Slices(axis, 4))
    assert thick.shape[axis] == SHAPE[axis] // 4
    first = image.take(range(4), axis).mean(axis)
    np.testing.assert_allclose(thick.take(0, axis), first, atol=1e-6)
    np.testing.assert_allclose(thick.mean(), image.mean(), rtol=1e-5)


def test_a_last_slice_may_be_thinner():
    thick = sliced(np.arange(7, dtype=np.float32).reshape(7, 1, 1), Slices(0, 3))
    np.testing.assert_allclose(thick.ravel(), [1, 4, 6])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness", [2, 3, 4])
def test_slices_lie_where_their_voxels_were(axis, thickness):
    ramp = np.indices((12, 12, 12))[axis].astype(np.float32)
    slices = Slices(axis, thickness)
    back = unsliced(sliced(ramp, slices), slices, 12)
    ends = (thickness - 1) / 2, 11 - (thickness - 1) / 2
    np.testing.assert_allclose(back, np.clip(ramp, *ends), atol=1e-5)


def ranks(image: np.ndarray) -> list[int]:
    """Number of independent planes along each axis."""
    planes = [np.moveaxis(image, axis, 0).reshape(image.shape[axis], -1) for axis in range(3)]
    return sorted(int(np.linalg.matrix_rank(p, tol=1e-3)) for p in planes)


def test_thick_slices_lose_planes_along_one_axis_only():
    noise = np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32)
    for seed in range(5):
        low, *others = ranks(after(noise, seed, thick_slices=1))
        assert low in (6, 8, 12)
        assert others == [24, 24]


def test_gaussian_noise_is_the_same_everywhere(image):
    noise = after(image, gaussian=1) - image
    assert 0.009 < noise.std() < 0.065
    assert noise[image == 0].std() == pytest.approx(noise[image == 1].std(), rel=0.1)
    assert abs(noise.mean()) < 0.003
    assert abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 0.05


def test_rician_noise_makes_no_magnitude_negative_and_lifts_the_dark(image):
    noisy = after(image, rician=1)
    assert noisy.min() >= 0
    dark = noisy[image == 0]
    # A Rayleigh distribution, where there is no signal.
    assert dark.mean() / dark.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.05)
    assert (noisy - image)[image == 1].mean() == pytest.approx(0, abs=0.01)


def test_speckle_grows_with_the_intensity(image):
    noise = after(image, speckle=1) - image
    assert (noise[image == 0] == 0).all()
    assert noise[image == 1].std() == pytest.approx(2 * noise[image == 0.5].std(), rel=0.1)


def test_noise_is_as_thick_as_the_slices(image):
    """Noise of the scanner is there before slices are resampled to voxels."""
    flat = np.zeros((24, 24, 24), np.float32)
    assert ranks(after(flat, thick_slices=1, gaussian=1))[0] in (6, 8, 12)


def test_a_cut_empties_image_and_label_at_ends_and_leaves_half_of_every_label():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        image = (1 + rng.random(SHAPE)).astype(np.float32)
        label = (ndimage.gaussian_filter(rng.random(SHAPE), 3) * 40).astype(np.uint8) % 5
        label[0, :3, 0] = 6  # a small label at the end that may be cut
        before, sizes = label.copy(), np.bincount(label.ravel())
        whole = image.copy()
        cut(rng, image, label)
        values, counts = np.unique(image, return_counts=True)
        blank = image == values[counts.argmax()]
        planes = [blank.all(tuple({0, 1, 2} - {axis})) for axis in range(3)]
        gone = planes[0][:, None, None] | planes[1][:, None] | planes[2]
        assert gone.any()
        assert len(set(image[gone])) == 1
        assert (label[gone] == 0).all()
        np.testing.assert_array_equal(image[~gone], whole[~gone])
        np.testing.assert_array_equal(label[~gone], before[~gone])
        left = np.bincount(label.ravel(), minlength=len(sizes))
        assert (left[1:] >= sizes[1:] / 2).all()
