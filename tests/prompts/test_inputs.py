import numpy as np
from scipy import ndimage

from wsicl_jax.config import VolumeConfig
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.registration import registered
from wsicl_jax.prompts import (
    Point,
    context_inputs,
    painted,
    pooled_prompts,
    smoothed_prompts,
)

SHAPE = (16, 24, 16)
CONTEXT_SET = [[Box((3, 4, 7), (9, 10, 8))], [Point(6.0, 8.0, 9.0)]]


def images():
    noise = np.random.default_rng(0).normal(size=(3, *SHAPE))
    smooth = np.stack([ndimage.gaussian_filter(x, 2) for x in noise]).astype(np.float32)
    return (smooth - smooth.min()) / np.ptp(smooth)


def test_without_registration_images_stay_and_each_channel_is_smoothed_by_itself():
    target, *contexts = images()
    each = [painted(prompts, SHAPE) for prompts in CONTEXT_SET]
    shown, channels = context_inputs(
        target, contexts, CONTEXT_SET, VolumeConfig(prompt_smoothing=0.2)
    )
    np.testing.assert_array_equal(shown, contexts)
    expected = smoothed_prompts(np.stack([x.channel for x in each]), [False] * 2, 0.2)
    np.testing.assert_array_equal(channels, expected)


def test_registered_prompts_are_pooled_where_the_target_lies():
    target, *contexts = images()
    each = [painted(prompts, SHAPE) for prompts in CONTEXT_SET]
    volume = VolumeConfig(prompt_smoothing=0.2, registration=True)
    shown, channels = context_inputs(target, contexts, CONTEXT_SET, volume)
    names = ("channel", "inside", "outside")
    stacks = [np.stack([getattr(x, name) for x in each]) for name in names]
    moved, channel, inside, outside = registered(target, contexts, *stacks)
    np.testing.assert_array_equal(shown, moved)
    placed = [
        x._replace(channel=channel[n], inside=inside[n], outside=outside[n])
        for n, x in enumerate(each)
    ]
    np.testing.assert_array_equal(channels, pooled_prompts(placed, 0.2))
    assert not np.array_equal(channels, pooled_prompts(each, 0.2))


def test_without_smoothing_registered_channels_are_what_each_image_shows():
    target, *contexts = images()
    each = [painted(prompts, SHAPE) for prompts in CONTEXT_SET]
    _, channels = context_inputs(target, contexts, CONTEXT_SET, VolumeConfig(registration=True))
    expected = registered(target, contexts, np.stack([x.channel for x in each]))[1]
    np.testing.assert_array_equal(channels, expected)
