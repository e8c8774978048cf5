import numpy as np
from inference.volumes import volume

from wsicl_jax.config import InferenceConfig
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.postprocessing import fill_holes, keep_largest_component
from wsicl_jax.inference.segmenter import Segmenter


def label_map():
    """A hollow cube of 1 with a voxel of 2 in its hole, and a far voxel of each."""
    labels = np.zeros((12, 10, 9), np.uint8)
    labels[1:6, 1:6, 1:6] = 1
    labels[2:5, 2:5, 2:5] = 0
    labels[3, 3, 3] = 2
    labels[10, 8, 7] = 1
    labels[8, 8, 7] = 2
    return labels


def test_the_largest_component_of_one_structure_is_kept():
    labels = label_map()
    keep_largest_component(labels, 1)
    expected = label_map()
    expected[10, 8, 7] = 0
    np.testing.assert_array_equal(labels, expected)


def test_voxels_that_share_a_corner_are_one_component():
    labels = np.zeros((4, 4, 4), np.uint16)
    labels[1, 1, 1] = labels[2, 2, 2] = 300
    keep_largest_component(labels, 300)
    assert np.count_nonzero(labels) == 2


def test_holes_are_filled_but_other_structures_in_them_are_kept():
    labels = label_map()
    fill_holes(labels, 1)
    assert (labels == 1).sum() == 5**3 - 1 + 1
    assert labels[3, 3, 3] == 2


def test_an_absent_structure_stays_absent():
    labels = label_map()
    for correct in (keep_largest_component, fill_holes):
        correct(labels, 3)
    np.testing.assert_array_equal(labels, label_map())


def test_a_task_corrects_label_maps_by_its_settings_and_leaves_probabilities(model, segmenter):
    target = volume(9, (24, 18, 30))
    examples = [Example(volume(1), points=[(4, 3, 2)])]
    raw = segmenter.task(examples).segment(target, probabilities=True)
    config = InferenceConfig(largest_component=True, fill_holes=True)
    network = Segmenter(model, segmenter.volume, config)
    result = network.task(examples).segment(target, probabilities=True)
    expected = raw.label_map.copy()
    keep_largest_component(expected, 1)
    fill_holes(expected, 1)
    assert not np.array_equal(expected, raw.label_map)
    np.testing.assert_array_equal(result.label_map, expected)
    np.testing.assert_array_equal(result.probability, raw.probability)
