"""Changes of labels and geometry: each alike for the whole group, or not made at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsicl_jax.config import AUGMENTATIONS, AugmentConfig
from wsicl_jax.data.augmentation.group import augment_group
from wsicl_jax.data.augmentation.masks import dilated, eroded, sobel_edge
from wsicl_jax.data.augmentation.spatial import quarter_turns, subsampled
from wsicl_jax.data.subject_group import Group

DEFAULTS = AugmentConfig()
ALL = DEFAULTS.only(**dict.fromkeys(AUGMENTATIONS, 1.0))
SHAPE = (8, 8, 12)


def frozen(array: np.ndarray) -> np.ndarray:
    """Read-only, as cached cases are."""
    array.flags.writeable = False
    return array


def group_of(shape=SHAPE) -> Group:
    images = np.random.default_rng(0).random((3, *shape), np.float32)
    masks = np.zeros((3, *shape), bool)
    for i, mask in enumerate(masks):
        mask[1 : 6 + i, 2:7, 3:10] = True
    return Group([frozen(image) for image in images], [frozen(mask) for mask in masks])


GROUP = group_of()


def changed(config, seed=0, group=GROUP, may_invert_mask=True, may_rotate90_each=True) -> Group:
    rng = np.random.default_rng(seed)
    return augment_group(
        group, config, rng, may_invert_mask=may_invert_mask, may_rotate90_each=may_rotate90_each
    )


def only(name: str, probability: float = 1.0, **amounts) -> AugmentConfig:
    return AugmentConfig(**amounts).only(**{name: probability})


def assert_equal(given: Group, images, masks) -> None:
    np.testing.assert_array_equal(given.images, images)
    np.testing.assert_array_equal(given.masks, masks)


def test_without_probabilities_nothing_changes():
    for seed in range(10):
        assert_equal(changed(DEFAULTS.only(), seed), *GROUP)


@pytest.mark.parametrize("name", ["gin", "invert_image", "scale", "shift", "noise"])
def test_intensities_are_left_to_the_training_step(name):
    assert_equal(changed(only(name)), *GROUP)


def test_flip_mirrors_images_and_masks_alike_along_every_axis():
    mirrored = [np.stack(part)[:, ::-1, ::-1, ::-1] for part in GROUP]
    assert_equal(changed(only("flip")), *mirrored)


def test_flip_is_drawn_for_each_axis_by_itself():
    seen = {np.stack(changed(only("flip", 0.5), seed).images).tobytes() for seed in range(60)}
    assert len(seen) == 8


def test_turns_are_the_same_for_the_whole_group():
    turns = set()
    for seed in range(40):
        given = changed(only("rotate90", 0.7), seed)
        found = [
            (a, b, c)
            for a in range(4)
            for b in (0, 2)  # planes with the longer axis
            for c in (0, 2)
            if np.array_equal(quarter_turns(GROUP.images[0], (a, b, c)), given.images[0])
        ]
        turned = [[quarter_turns(x, found[0]) for x in part] for part in GROUP]
        assert_equal(given, *turned)
        turns.add(given.images[0].tobytes())
    # Two half turns are a half turn in the third plane: 4 turns, or these after a half turn.
    assert len(turns) == 8


def test_each_image_may_be_turned_by_itself_with_its_mask():
    marked = Group(GROUP.masks, GROUP.masks)
    equal = 0
    for seed in range(20):
        given = changed(only("rotate90_each"), seed, marked)
        np.testing.assert_array_equal(*given)
        # The first two differ by one voxel's width, so that equal turns can be told.
        equal += int((given.masks[0] & ~given.masks[1]).sum() == 0)
        assert [mask.sum() for mask in given.masks] == [mask.sum() for mask in GROUP.masks]
    assert 0 < equal < 20
    assert_equal(changed(only("rotate90_each"), may_rotate90_each=False), *GROUP)


def test_elastic_moves_images_and_masks_by_one_field():
    mask = np.zeros((24, 24, 24), bool)
    mask[4:18, 6:20, 5:15] = True
    # Images that are their masks stay so, up to the cut at one half.
    given = changed(only("elastic"), group=Group([mask.astype(np.float32)] * 2, [mask] * 2))
    assert (given.masks[0] != mask).mean() > 0.01
    np.testing.assert_array_equal(np.stack(given.images) >= 0.5, given.masks)
    np.testing.assert_array_equal(*given.images)


def test_an_elastic_deformation_that_hides_a_mask_is_not_made():
    mask = np.zeros((24, 24, 24), bool)
    mask[11:13, 11:13, 11:14] = True
    group, made = Group([np.random.default_rng(0).random(mask.shape)] * 2, [mask, ~mask]), 0
    for seed in range(12):
        given = changed(only("elastic"), seed, group)
        assert given.masks[0].sum() >= 8
        moved = (given.images[0] != group.images[0]).any()
        assert moved or np.array_equal(given.masks, group.masks)
        made += moved
    assert 0 < made < 12


def test_subsample_leaves_masks_sharp_and_uses_one_axis_and_factor():
    seen = set()
    for seed in range(120):
        given = changed(only("subsample"), seed)
        np.testing.assert_array_equal(given.masks, GROUP.masks)
        (found,) = (
            (axis, factor, first)
            for axis in range(3)
            for factor in (2, 3, 4)
            for first in range(factor)
            if np.allclose(subsampled(GROUP.images[0], axis, factor, first), given.images[0])
        )
        np.testing.assert_allclose(given.images, [subsampled(x, *found) for x in GROUP.images])
        seen.add(found)
    assert len(seen) == 27


def test_resize_mask_dilates_or_erodes_all_masks():
    grown = 0
    for seed in range(30):
        given = changed(only("resize_mask"), seed)
        grows = given.masks[0].sum() > GROUP.masks[0].sum()
        assert_equal(given, GROUP.images, [(dilated if grows else eroded)(m) for m in GROUP.masks])
        grown += grows
    assert 5 < grown < 25


def test_edge_mask_takes_the_edges_of_all_masks():
    assert_equal(changed(only("edge_mask")), GROUP.images, [sobel_edge(m) for m in GROUP.masks])


def test_invert_mask_exchanges_structure_and_background():
    assert_equal(changed(only("invert_mask")), GROUP.images, ~np.stack(GROUP.masks))


def test_masks_are_inverted_only_where_that_is_allowed():
    assert_equal(changed(only("invert_mask"), may_invert_mask=False), *GROUP)


def plane_at(z: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[:, :, z] = True
    return mask


def hole(size: int) -> np.ndarray:
    mask = np.ones(SHAPE, bool)
    mask[:1, :1, :size] = False
    return mask


@pytest.mark.parametrize(
    ("name", "mask", "made"),
    [
        ("invert_mask", hole(7), {"nothing"}),
        ("invert_mask", hole(8), {"inversion"}),
        ("resize_mask", plane_at(5), {"nothing", "dilation"}),  # an erosion would leave none
        ("resize_mask", hole(1), {"nothing", "erosion"}),  # a dilation would fill it
    ],
)
def test_a_change_that_would_hide_one_mask_is_made_for_none(name, mask, made):
    changes = {"nothing": np.copy, "inversion": np.logical_not}
    changes |= {"dilation": dilated, "erosion": eroded}
    masks, found = [GROUP.masks[0], frozen(mask)], set()
    for seed in range(20):
        given = changed(only(name), seed, Group(GROUP.images[:2], masks))
        found |= {
            what
            for what, change in changes.items()
            if np.array_equal(given.masks, [change(m) for m in masks])
        }
    assert found == made


def test_the_smallest_number_of_voxels_can_be_set():
    group = Group(GROUP.images[:1], [frozen(hole(2))])
    for min_voxels, visible in ((2, True), (3, False)):
        given = augment_group(
            group,
            only("invert_mask"),
            np.random.default_rng(0),
            may_invert_mask=True,
            may_rotate90_each=True,
            min_voxels=min_voxels,
        )
        assert (given.masks[0].sum() == 2) == visible


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_types_shapes_and_inputs_stay_whatever_is_drawn(seed, may_invert_mask, may_rotate90_each):
    before = np.stack(GROUP.images).copy(), np.stack(GROUP.masks).copy()
    given = changed(ALL, seed, may_invert_mask=may_invert_mask, may_rotate90_each=may_rotate90_each)
    assert {(x.dtype, x.shape) for x in given.images} == {(np.dtype(np.float32), SHAPE)}
    assert {(x.dtype, x.shape) for x in given.masks} == {(np.dtype(bool), SHAPE)}
    assert all(mask.sum() >= 8 and not mask.all() for mask in given.masks)
    np.testing.assert_array_equal(GROUP.images, before[0])
    np.testing.assert_array_equal(GROUP.masks, before[1])


def test_a_seed_gives_the_same_changes():
    assert_equal(changed(ALL, 5), *changed(ALL, 5))


@pytest.mark.parametrize("name", ["elastic", "subsample", "resize_mask", "edge_mask"])
def test_a_change_is_made_as_often_as_its_probability(name):
    config, before = only(name, 0.3), np.stack([*GROUP.images, *GROUP.masks])
    after = (changed(config, seed) for seed in range(300))
    count = sum((np.stack([*x.images, *x.masks]) != before).any() for x in after)
    # Three standard deviations of a binomial draw.
    assert abs(count - 90) < 3 * np.sqrt(300 * 0.3 * 0.7)
