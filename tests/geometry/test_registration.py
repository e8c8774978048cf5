"""Registration of context images to a target."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from wsicl_jax.geometry.registration import displacement, registered
from wsicl_jax.geometry.registration.affine import best_affine

SHAPE = (24, 32, 16)


def blobs(seed: int = 0) -> np.ndarray:
    """A smooth random image in [0, 1]."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def deformed(image: np.ndarray, seed: int = 10, amplitude: float = 3.0) -> np.ndarray:
    """The image under a smooth random displacement of at most `amplitude` voxels."""
    field = np.random.default_rng(seed).normal(size=(3, *SHAPE))
    field = np.stack([ndimage.gaussian_filter(part, 4) for part in field])
    field *= amplitude / np.abs(field).max()
    return ndimage.map_coordinates(image, np.indices(SHAPE) + field, order=1, mode="nearest")


def turned(image: np.ndarray, degrees: float, axis: int = 2) -> np.ndarray:
    """The image turned about its centre."""
    matrix = Rotation.from_rotvec(np.deg2rad(degrees) * np.eye(3)[axis]).as_matrix()
    centre = (np.array(image.shape) - 1) / 2
    return ndimage.affine_transform(
        image, matrix, centre - matrix @ centre, order=1, mode="nearest"
    )


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_the_prompts_of_a_deformed_image_return_to_the_structure_of_the_target():
    target = blobs()
    image, mask = deformed(target), deformed((target > 0.6).astype(np.float32))
    before = dice(mask > 0.5, target > 0.6)
    (moved_image,), (moved_mask,) = registered(target, [image], mask[None])
    assert before < 0.9 and dice(moved_mask > 0.5, target > 0.6) > 0.95
    assert np.abs(moved_image - target).mean() < 0.5 * np.abs(image - target).mean()


def test_inverted_contrast_does_not_matter():
    target = blobs()
    field = displacement(target, deformed(target))
    inverted = displacement(target, 1 - deformed(target))
    np.testing.assert_allclose(inverted, field, atol=0.1)


def test_the_target_itself_does_not_move():
    target = blobs()
    channel = np.eye(24, 32, dtype=np.float32)[..., None].repeat(16, axis=-1)
    images, channels = registered(target, [target], channel[None])
    np.testing.assert_array_equal(images[0], target)
    np.testing.assert_array_equal(channels[0], channel)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_nothing_moves_if_the_target_is_constant(value):
    assert not displacement(np.full(SHAPE, value, np.float32), blobs()).any()


@pytest.mark.parametrize(("degrees", "axis"), [(20, 0), (-40, 1), (40, 2)])
def test_a_turned_image_is_turned_back(degrees, axis):
    target = ndimage.zoom(blobs(), 2, order=1)
    image = turned(target, degrees, axis)
    mask = turned((target > 0.6).astype(np.float32), degrees, axis)
    inside = np.zeros(target.shape, bool)
    inside[8:-8, 8:-8, 8:-8] = True  # what lay beyond the border before is lost
    _, (moved,) = registered(target, [image], mask[None])
    assert dice((mask > 0.5) & inside, (target > 0.6) & inside) < 0.85
    assert dice((moved > 0.5) & inside, (target > 0.6) & inside) > 0.9


@pytest.mark.parametrize("shape", [(24, 24, 24), (40, 16, 16)])
def test_the_affine_part_stretches_and_shifts_no_more_than_allowed(shape):
    # The target is a part of the image, at twice the size and off its centre. The levels of the
    # second grid have other proportions than the grid.
    noise = np.random.default_rng(0).normal(size=shape)
    image = ndimage.gaussian_filter(noise, 2).astype(np.float32)
    image = (image - image.min()) / np.ptp(image)
    part = tuple(slice(side // 4, side // 4 + side) for side in shape)
    affine = best_affine(ndimage.zoom(image, 2, order=1)[part], image)
    sides = np.array(shape)
    stretches = np.linalg.svd(np.eye(3) + affine[1:].T * sides[:, None] / sides)[1]
    assert 1 / 1.301 <= stretches.min() < 0.9 and stretches.max() <= 1.301
    assert np.abs(affine[0] / 2).max() <= 0.151


def test_images_without_correspondence_stay_finite_and_within_reach():
    field = displacement(blobs(2), blobs(3))
    assert np.isfinite(field).all()
    # 30 steps of half a voxel at a quarter of the resolution, and so on; and the affine part.
    deformed = 30 * 0.5 * 4 + 20 * 0.5 * 2 + 10 * 0.5
    assert np.abs(field).max() <= deformed + 0.15 * 32 + np.linalg.norm(SHAPE) / 2


def test_a_repeated_call_returns_the_same_and_is_kept_by_content():
    target, image = blobs(4), blobs(5)
    assert displacement(target, image) is displacement(target.copy(), image.copy())


@pytest.mark.parametrize("shape", [(8, 8, 8), (4, 12, 40), (72, 72, 64)])
def test_every_size_of_the_grid_is_accepted(shape):
    rng = np.random.default_rng(0)
    field = displacement(*rng.random((2, *shape), np.float32))
    assert field.shape == (3, *shape) and np.isfinite(field).all()
