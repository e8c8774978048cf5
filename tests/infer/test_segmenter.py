import jax
import jaxtyping
import nibabel as nib
import numpy as np
import pytest
from flax import nnx

from wsicl_jax.axes import Box
from wsicl_jax.checkpoint import load_model, save_model
from wsicl_jax.config import ExperimentConfig, VolumeConfig, config_to_dict
from wsicl_jax.data.images import Volume, read_volume
from wsicl_jax.errors import DataError, PromptError, ShapeError
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.infer.segmenter import Example, Segmenter
from wsicl_jax.intensity import normalise
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.prompts import Point, to_channel

VOLUME = VolumeConfig(grid=(8, 6, 10), percentiles=(2.0, 98.0))
SHAPE = (9, 7, 5)
# Sides of 1.5, 0.75 and 3 mm, turned by 30 degrees in the plane, with x and y to the left and back.
OBLIQUE = np.array(
    [
        [-1.5 * np.sqrt(3) / 2, 0.375, 0, 20],
        [-0.75, -0.75 * np.sqrt(3) / 2, 0, 7.5],
        [0, 0, 3, 100],
        [0, 0, 0, 1],
    ]
)
LPS = np.diag([-1.5, -0.75, 3, 1.0])


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter(model, VOLUME)


@pytest.fixture
def without_shape_types():
    """As users run the package; in tests jaxtyping would object first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def volume(seed, shape=SHAPE, affine=OBLIQUE):
    image = np.random.default_rng(seed).gamma(2, 100, shape).astype(np.float32)
    return Volume(image, affine)


def examples():
    mask = np.zeros((6, 6, 6), bool)
    mask[2:5, 1:4, 2:] = True
    return [
        Example(volume(1), [Point(4.0, 3.0, 2.0), Box((1, 1, 3), (5, 6, 4))]),
        Example(volume(2, (6, 6, 6), LPS), [mask]),
    ]


def reoriented(volume, order, flips):
    """The same volume in the world with permuted and mirrored axes, and how arrays follow."""

    def turn(array):
        return np.ascontiguousarray(np.flip(array.transpose(order), np.flatnonzero(flips)))

    # Columns: the old index that each new one counts, from its end if mirrored.
    old_of_new = np.zeros((4, 4))
    old_of_new[3, 3] = 1
    for new, old in enumerate(order):
        old_of_new[old, new] = -1 if flips[new] else 1
        old_of_new[old, 3] = volume.image.shape[old] - 1 if flips[new] else 0
    return Volume(turn(volume.image), volume.affine @ old_of_new), turn


def through_file(path, volume):
    nib.save(nib.Nifti1Image(volume.image, volume.affine), path)
    return read_volume(path)


TURNS = [((0, 1, 2), (1, 0, 1)), ((2, 0, 1), (0, 1, 0)), ((1, 0, 2), (1, 1, 1))]


@pytest.mark.parametrize("affine", [OBLIQUE, LPS, np.diag([1.5, 0.75, 3, 1])])
def test_mask_and_score_are_on_the_targets_own_grid(segmenter, affine):
    found = segmenter.segment(volume(9, (5, 11, 13), affine), segmenter.context(examples()))
    assert found.mask.shape == found.score.shape == (5, 11, 13)
    assert found.mask.dtype == bool and found.score.dtype == np.float32
    assert found.mask.any() and not found.mask.all()
    np.testing.assert_array_equal(found.mask, found.score > 0.5)


@pytest.mark.parametrize("affine", [OBLIQUE, LPS])
@pytest.mark.parametrize(("order", "flips"), TURNS)
def test_a_target_stored_in_another_orientation_gets_the_same_mask(
    segmenter, tmp_path, affine, order, flips
):
    context = segmenter.context(examples())
    target = volume(9, affine=affine)
    copy, turn = reoriented(target, order, flips)
    found = segmenter.segment(through_file(tmp_path / "a.nii", target), context)
    again = segmenter.segment(through_file(tmp_path / "b.nii", copy), context)
    np.testing.assert_array_equal(again.score, turn(found.score))
    np.testing.assert_array_equal(again.mask, turn(found.mask))


@pytest.mark.parametrize(("order", "flips"), TURNS)
def test_contexts_stored_in_another_orientation_are_the_same_contexts(segmenter, order, flips):
    mask = np.zeros(SHAPE, bool)
    mask[2:5, 1:4, 2:] = True
    stored = volume(1)
    copy, turn = reoriented(stored, order, flips)

    def moved(low, high):
        marked = np.zeros(SHAPE, bool)
        marked[Box(low, high).slices] = True
        return Box.around(turn(marked))

    boxes = [((1, 1, 3), (5, 6, 4)), ((0, 2, 1), (2, 3, 4))]
    point = moved((6, 5, 1), (7, 6, 2)).start
    here = [Point(6.0, 5.0, 1.0), mask, *(Box(*box) for box in boxes)]
    there = [Point(*map(float, point)), turn(mask), *(moved(*box) for box in boxes)]
    for one, other in zip(here, there, strict=True):
        context = segmenter.context([Example(stored, [one])])
        turned = segmenter.context([Example(copy, [other])])
        np.testing.assert_array_equal(turned.images, context.images)
        np.testing.assert_array_equal(turned.prompts, context.prompts)


def test_the_score_is_what_the_network_says_of_prepared_arrays(model, segmenter):
    def prepared(volume):
        grid = WorkingGrid.of(volume.image.shape, volume.affine, VOLUME.grid)
        return grid, grid.image(normalise(volume.image, VOLUME.percentiles))

    grid, target = prepared(volume(9))
    first, second = examples()
    (grid1, image1), (grid2, image2) = prepared(first.volume), prepared(second.volume)
    point, box = first.prompts
    channel1 = to_channel([Point(*grid1.point(point)), grid1.box(box)], VOLUME.grid)
    channel2 = grid2.label(second.prompts[0]).astype(np.float32)
    output = nnx.jit(lambda model, *inputs: model(*inputs))(
        model,
        target[None, ..., None],
        np.stack([image1, image2])[None, ..., None],
        np.stack([channel1, channel2])[None, ..., None],
    )
    found = segmenter.segment(volume(9), segmenter.context(examples()))
    expected = grid.restore(np.asarray(output)[0, ..., 0])
    np.testing.assert_allclose(found.score, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_network_is_compiled_once_for_each_number_of_contexts(model, monkeypatch):
    traces = []

    def network(self, target, context_images, context_prompts):
        traces.append(context_images.shape[1])
        return target * context_prompts.mean()

    monkeypatch.setattr(DualBranch, "__call__", network)
    segmenter = Segmenter(model, VOLUME)
    pair, single = segmenter.context(examples()), segmenter.context(examples()[:1])
    for shape in [(5, 6, 7), (9, 9, 9), (4, 4, 4)]:
        for context in (pair, single):
            segmenter.segment(volume(9, shape), context)
    assert traces == [2, 1]


def test_a_checkpoint_brings_its_working_grid_and_percentiles(model, segmenter, tmp_path):
    config = ExperimentConfig(model=model.config, volume=VOLUME)
    save_model(tmp_path / "checkpoint", model, {"config": config_to_dict(config)})
    loaded = Segmenter.load(tmp_path / "checkpoint")
    expected = segmenter.segment(volume(9), segmenter.context(examples()))
    found = loaded.segment(volume(9), loaded.context(examples()))
    np.testing.assert_allclose(found.score, expected.score, atol=1e-6)


def test_network_and_grid_are_of_one_checkpoint_though_a_newer_one_is_saved_meanwhile(
    model, tmp_path, monkeypatch
):
    def save_step(step, volume):
        config = ExperimentConfig(model=model.config, volume=volume)
        path = tmp_path / "checkpoints" / str(step)
        save_model(path, model, {"config": config_to_dict(config)})

    def load_and_save(path):
        loaded.append(load_model(path))
        save_step(2, VolumeConfig(grid=(4, 4, 4)))
        return loaded[0]

    loaded = []
    save_step(1, VOLUME)
    monkeypatch.setattr("wsicl_jax.infer.segmenter.load_model", load_and_save)
    images = Segmenter.load(tmp_path).context(examples()).images
    assert len(loaded) == 1
    assert images.shape[1:] == VOLUME.grid


FULL = np.ones(SHAPE, bool)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "context 2: image has no prompt"),
        ([Point(9.0, 0.0, 0.0)], r"context 2: point \(9.0, 0.0, 0.0\) lies outside .*\(9, 7, 5\)"),
        ([Box((0, 0, 0), (1, 8, 1))], r"context 2: box .* leaves the image of \(9, 7, 5\)"),
        ([Box((3, 3, 3), (4, 3, 4))], "context 2: box .* is empty"),
        ([FULL.T], r"context 2: mask is \(5, 7, 9\) but its image \(9, 7, 5\)"),
        ([~FULL], "context 2: mask marks no voxel"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_with_its_examples_number(
    segmenter, prompts, message
):
    with pytest.raises(PromptError, match=message):
        segmenter.context([examples()[0], Example(volume(1), prompts)])


def test_a_structure_that_vanishes_on_the_working_grid_is_marked_by_its_nearest_voxel(segmenter):
    mask = np.zeros((40, 7, 5), bool)
    mask[0] = True
    large = volume(1, mask.shape)
    grid = WorkingGrid.of(mask.shape, large.affine, VOLUME.grid)
    assert not grid.label(mask).any()
    (channel,) = np.asarray(segmenter.context([Example(large, [mask])]).prompts)
    assert channel.sum() == channel.max() == 1
    (place,) = np.argwhere(channel)
    np.testing.assert_allclose(place, grid.point((0.0, 3.0, 2.0)), atol=0.5)


def test_an_empty_context_set_is_refused(segmenter):
    with pytest.raises(PromptError, match="no context image"):
        segmenter.context([])


def bad_volumes():
    nan = volume(1).image.copy()
    nan[0, 0, 0] = np.nan
    return {
        "NaN": Volume(nan, OBLIQUE),
        "no voxels": Volume(np.zeros((0, 4, 4), np.float32), OBLIQUE),
        "singular": Volume(volume(1).image, np.diag([1.0, 0, 1, 1])),
        "no affine": Volume(volume(1).image, np.full((4, 4), np.nan)),
    }


@pytest.mark.parametrize("name", bad_volumes())
def test_a_useless_volume_is_refused_as_target_and_as_context(segmenter, name):
    bad = bad_volumes()[name]
    with pytest.raises(DataError, match=r"^target: (image|affine)"):
        segmenter.segment(bad, segmenter.context(examples()))
    with pytest.raises(DataError, match=r"^context 1: (image|affine)"):
        segmenter.context([Example(bad, [Point(0.0, 0.0, 0.0)])])


def test_contexts_of_another_working_grid_are_refused(model, segmenter, without_shape_types):
    context = Segmenter(model, VolumeConfig(grid=(8, 8, 8))).context(examples())
    with pytest.raises(ShapeError, match=r"\(8, 8, 8\).*\(8, 6, 10\)"):
        segmenter.segment(volume(9), context)


def test_contexts_stay_on_the_device_between_targets(segmenter):
    assert isinstance(segmenter.context(examples()).images, jax.Array)
