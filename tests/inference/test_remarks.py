import warnings

import nibabel as nib
import numpy as np
import pytest
from inference.volumes import LPS, volume

from wsicl_jax.data.images import Volume
from wsicl_jax.inference import remarks
from wsicl_jax.inference.batch.predict import predict
from wsicl_jax.inference.batch.targets import find_targets
from wsicl_jax.inference.inputs.example import Example

SHAPE = (24, 20, 16)
BALL = np.sum(((np.indices(SHAPE).T - [12, 10, 8]) / [6, 5, 4]) ** 2, axis=-1).T < 1
PLATES = np.maximum(np.indices((30, 9, 9))[0] - 5, 0)
MASK = np.zeros((6, 6, 6), np.uint8)
MASK[2:5, 1:4, 2:] = 1


def examples():
    return [Example(volume(2, (6, 6, 6), LPS), mask=MASK)]


def said_of(segmenter, target, given=None):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = segmenter.task(given or examples())
        found = task.segment(target)
    said = (*task.remarks, *found.remarks)
    assert [str(w.message) for w in caught if w.category is UserWarning] == list(said)
    return said


def test_a_target_of_one_value_gets_a_result_and_a_remark(segmenter):
    target = Volume(np.full(SHAPE, 7, np.float32), np.eye(4))
    found = segmenter.task(examples()).segment(target)
    assert found.label_map.shape == SHAPE
    assert "the image is 7 everywhere" in found.remarks[0]
    assert not [r for r in said_of(segmenter, volume(1)) if "everywhere" in r]


def test_a_label_map_as_target_gets_a_remark(segmenter):
    labels = BALL * 2 + np.roll(BALL, 5, 0)
    (said, *_) = said_of(segmenter, Volume(labels.astype(np.float32), np.eye(4)))
    assert "the image looks like a label map" in said


def test_a_target_that_is_its_own_context_gets_a_remark(segmenter):
    other = Example(volume(1), points=[(4, 3, 2)])
    said = said_of(segmenter, volume(2, (6, 6, 6), LPS), [other, *examples()])
    assert "the target is its own context image 2" in said[0]


def test_image_and_mask_that_were_exchanged_get_a_remark(segmenter):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 3000, SHAPE)
    exchanged = Example(Volume(BALL.astype(np.float32), np.eye(4)), mask=grey)
    said = said_of(segmenter, volume(1), [exchanged])
    assert said[0].startswith("context 1: the image looks like a label map")
    assert said[1].startswith("context 1: the mask looks like an image")


@pytest.mark.parametrize(
    ("label", "labels", "expected"),
    [
        (PLATES, None, "all 24 labels of the mask"),
        (PLATES, [3], None),
        (np.ones(SHAPE, int) - (np.indices(SHAPE).sum(0) == 0), None, "the mask covers 100%"),
        (BALL.astype(int), None, None),
        # A parcellation: many labels, each of them whole.
        (1 + np.indices((40, 40, 40))[0] // 2 * 20 + np.indices((40, 40, 40))[1] // 2, [5], None),
    ],
)
def test_masks_that_are_hardly_meant_get_a_remark(label, labels, expected):
    inside = label != 0 if labels is None else np.isin(label, labels)
    said = remarks.on_mask(label, inside, labels)
    assert len(said) == (expected is not None)
    assert all(expected in one for one in said)


@pytest.mark.parametrize(
    "image",
    [
        np.random.default_rng(0).integers(0, 256, SHAPE),
        np.random.default_rng(0).normal(size=SHAPE) * BALL,
        # A smooth image of whole numbers within an empty background.
        np.rint(BALL * 400 * np.sin(np.indices(SHAPE).sum(0) / 7) ** 2),
    ],
)
def test_images_get_no_remark(image):
    assert remarks.on_image(image) == ()


def test_nothing_found_and_nearly_everything_marked_get_a_remark():
    label = np.zeros((10, 10, 10), np.uint8)
    assert "nothing was found of a, b" in remarks.on_result(label, {"a": 1, "b": 300})[0]
    label[:] = 2
    label[0, 0] = 1
    (said,) = remarks.on_result(label, {"a": 1, "b": 2})
    assert "99% of the image is marked as b" in said
    label[5:] = 1
    assert remarks.on_result(label, {"a": 1, "b": 2}) == ()


def test_a_batch_tells_remarks_of_targets_and_of_the_context_set(segmenter, tmp_path):
    for name, image in (("blank", np.zeros(SHAPE, np.int16)), ("grey", volume(3, SHAPE).image)):
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"{name}.nii.gz")
    named = [tmp_path / "blank.nii.gz", tmp_path / "grey.nii.gz"]
    everywhere = Example(volume(1), mask=np.ones((9, 7, 5), np.uint8))
    with pytest.warns(UserWarning, match="the mask covers 100%"):
        task = segmenter.task([everywhere])
    summary = predict(task, find_targets(named, tmp_path / "out").targets, tmp_path / "out")
    assert [path.name for path in summary.written] == ["blank.nii.gz", "grey.nii.gz"]
    assert "the mask covers 100% of its image" in summary.remarks["context set"][0]
    assert "the image is 0 everywhere" in summary.remarks[str(named[0])][0]
    assert not any("everywhere" in said for said in summary.remarks.get(str(named[1]), ()))
