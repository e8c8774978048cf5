import numpy as np
import pytest

from wsicl_jax.errors import PromptError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import Negative, Point, SliceMask, painted, to_channel

SHAPE = (16, 18, 20)


def test_a_box_on_a_slice_tells_inside_from_outside_on_this_slice_alone():
    box = Box((3, 4, 7), (9, 10, 8))
    prompts = painted([box], SHAPE)
    inside = np.zeros(SHAPE)
    inside[3:9, 4:10, 7] = 1
    np.testing.assert_array_equal(prompts.inside, inside)
    outside = np.zeros(SHAPE)
    outside[:, :, 7] = 1
    np.testing.assert_array_equal(prompts.outside, outside - inside)
    np.testing.assert_array_equal(prompts.channel, to_channel([box], SHAPE))
    assert not prompts.is_mask and prompts.points == 0


def test_a_mask_on_a_slice_tells_it_as_well():
    flat = np.zeros(SHAPE[1:], bool)
    flat[3:6, 5:9] = True
    prompts = painted([SliceMask(0, 4, flat)], SHAPE)
    np.testing.assert_array_equal(prompts.inside[4], flat)
    np.testing.assert_array_equal(prompts.outside[4], ~flat)
    assert prompts.inside.sum() + prompts.outside.sum() == flat.size


def test_what_is_beside_one_box_can_be_inside_another():
    prompts = painted([Box((3, 4, 7), (9, 10, 8)), Box((2, 5, 5), (12, 6, 9))], SHAPE)
    assert prompts.inside[10, 5, 7] == 1 and prompts.outside[10, 5, 7] == 1
    assert prompts.inside[5, 5, 7] == 2 and prompts.outside[5, 5, 7] == 0


def test_a_3d_box_and_a_mask_tell_it_everywhere():
    box = Box((3, 4, 7), (9, 10, 12))
    mask = np.zeros(SHAPE, bool)
    mask[box.slices] = True
    for prompts in (painted([box], SHAPE), painted([mask], SHAPE)):
        np.testing.assert_array_equal(prompts.inside, mask)
        np.testing.assert_array_equal(prompts.outside, ~mask)
    assert painted([mask], SHAPE).is_mask and not painted([box], SHAPE).is_mask


def test_a_line_of_voxels_may_be_a_box_of_several_slices_and_tells_of_nothing_beside():
    prompts = painted([Box((3, 4, 7), (9, 5, 8))], SHAPE)
    assert prompts.inside.sum() == 6 and not prompts.outside.any()


def test_points_count_if_there_is_nothing_else():
    points = [Point(3.0, 4.0, 5.0), Point(8.0, 9.0, 10.0)]
    prompts = painted([*points, Negative(Point(12.0, 12.0, 12.0))], SHAPE)
    assert prompts.points == 2 and not prompts.outside.any()
    assert prompts.inside.min() == 0 and prompts.channel.min() == -1
    assert painted([points[0], Box((3, 4, 7), (9, 10, 8))], SHAPE).points == 0
    nothing = painted([], SHAPE)
    assert nothing.points == 0 and not nothing.channel.any()


def test_a_prompt_outside_the_image_is_refused():
    with pytest.raises(PromptError, match="leaves the image"):
        painted([Box((0, 0, 0), (17, 2, 1))], SHAPE)
