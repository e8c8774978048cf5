import copy
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from flax import nnx
from inference.volumes import LPS, OBLIQUE, SHAPE, TURNS, VOLUME, reoriented, through_file, volume

from wsicl_jax.config import InferenceConfig, VolumeConfig
from wsicl_jax.data.formats import nifti
from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, PromptError, ShapeError, WsiclError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.geometry.intensity import normalise
from wsicl_jax.geometry.registration import registered
from wsicl_jax.inference import prepared_images as contexts_module
from wsicl_jax.inference import task as task_module
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.prepared_images import prepare_image
from wsicl_jax.inference.refinement import tiles as look_module
from wsicl_jax.inference.result import Segmentation
from wsicl_jax.inference.segmenter import Segmenter
from wsicl_jax.prompts import Point, smoothed_prompts, to_channel

MASK = np.zeros((6, 6, 6), np.uint8)
MASK[2:5, 1:4, 2:] = 1
MASK[:2] = 2
FULL = np.ones(SHAPE, bool)


def examples():
    return [
        Example(volume(1), points=[(4, 3, 2)], boxes=[Box((1, 1, 3), (5, 6, 4))]),
        Example(volume(2, (6, 6, 6), LPS), mask=MASK, labels=[1]),
    ]


def two_structures():
    second = [Example(volume(2, (6, 6, 6), LPS), mask=MASK, labels=[2])]
    return {"first": examples(), "second": second}


def with_settings(segmenter, **settings):
    """A segmenter of the same programs."""
    changed = copy.copy(segmenter)
    changed.config = InferenceConfig(**settings)
    return changed


@pytest.mark.parametrize(("slices", "needed"), [(1, 5), (2, 2), (3, 1)])
def test_an_image_of_few_slices_says_how_many_a_structure_needs(segmenter, slices, needed):
    found = segmenter.task(examples()).segment(volume(9, (9, 7, slices), LPS))
    (remark,) = [text for text in found.remarks if "along an axis" in text]
    assert remark.startswith(f"only {slices} slice")
    assert f"needs more than {needed} slices of that grid" in remark
    whole = segmenter.task(examples()).segment(volume(9, (9, 7, 4), LPS))
    assert not any("along an axis" in text for text in whole.remarks)


def test_an_orientation_that_is_assumed_changes_where_a_target_lies(segmenter, tmp_path):
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(volume(9).image, None)
    image.header["pixdim"][1:4] = (1.5, 0.75, 3)
    nib.save(image, path)
    with pytest.warns(UserWarning, match="no orientation in its header"):
        segmenter.task(examples()).segment(path)
    assumed = with_settings(segmenter, assume_orientation="PSL")
    with pytest.warns(UserWarning, match="axes taken as PSL, as requested"):
        found = assumed.task(examples()).segment(path)
    assert nib.aff2axcodes(found.affine) == tuple("PSL")
    ((_, streamed),) = assumed.task(examples()).stream([path], show=False)
    np.testing.assert_array_equal(streamed.affine, found.affine)
    shown = assumed.task([Example(path, points=[(1, 1, 1)])])
    np.testing.assert_array_equal(shown.segment(path).label_map.shape, SHAPE)


def scores_of(result):
    return np.asarray(result.probability, np.float32)


@pytest.mark.parametrize("affine", [OBLIQUE, LPS, np.diag([1.5, 0.75, 3, 1])])
def test_mask_and_probabilities_are_on_the_targets_own_grid(segmenter, affine):
    target = volume(9, (5, 11, 13), affine)
    found = segmenter.task(examples()).segment(target, probabilities=True)
    assert found.label_map.shape == found.probability.shape == (5, 11, 13)
    assert found.label_map.dtype == np.uint8 and found.mask.dtype == bool
    assert found.mask.any() and not found.mask.all()
    np.testing.assert_array_equal(found.mask, found.probability > 0.5)
    np.testing.assert_array_equal(found.affine, affine)


@pytest.mark.parametrize("affine", [OBLIQUE, LPS])
@pytest.mark.parametrize(("order", "flips"), TURNS)
def test_a_target_stored_in_another_orientation_gets_the_same_mask(
    segmenter, tmp_path, affine, order, flips
):
    task = segmenter.task(examples())
    target = volume(9, affine=affine)
    copy, turn = reoriented(target, order, flips)
    found = task.segment(through_file(tmp_path / "a.nii", target), probabilities=True)
    again = task.segment(through_file(tmp_path / "b.nii", copy), probabilities=True)
    np.testing.assert_array_equal(again.probability, turn(found.probability))
    np.testing.assert_array_equal(again.mask, turn(found.mask))


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize(("order", "flips"), TURNS)
def test_contexts_stored_in_another_orientation_are_the_same_contexts(
    close_segmenter, refine, order, flips
):
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
    here = {"points": [(6, 5, 1)], "mask": mask, "boxes": [Box(*b) for b in boxes]}
    there = {"points": [point], "mask": turn(mask), "boxes": [moved(*b) for b in boxes]}
    target = volume(9, (20, 15, 12))
    for kind in here:
        one = close_segmenter.task([Example(stored, **{kind: here[kind]})])
        other = close_segmenter.task([Example(copy, **{kind: there[kind]})])
        found = one.segment(target, probabilities=True, refine=refine)
        turned = other.segment(target, probabilities=True, refine=refine)
        np.testing.assert_array_equal(turned.probability, found.probability)


def test_the_score_is_what_the_network_says_of_prepared_arrays(model, segmenter):
    def prepared(volume):
        grid = WorkingGrid.of(volume.image.shape, volume.affine, VOLUME.grid)
        return grid, grid.image(normalise(volume.image, VOLUME.percentiles))

    grid, target = prepared(volume(9))
    grid1, image1 = prepared(volume(1))
    grid2, image2 = prepared(volume(2, (6, 6, 6), LPS))
    point, box = Point(4.0, 3.0, 2.0), Box((1, 1, 3), (5, 6, 4))
    channel1 = to_channel([Point(*grid1.point(point)), grid1.box(box)], VOLUME.grid)
    channel2 = grid2.label(MASK == 1).astype(np.float32)
    output = nnx.jit(lambda model, *inputs: model(*inputs))(
        model,
        target[None, ..., None],
        np.stack([image1, image2])[None, ..., None],
        np.stack([channel1, channel2])[None, ..., None],
    )
    expected = grid.restore(np.asarray(output)[0, ..., 0])
    found = segmenter.task(examples()).segment(volume(9), probabilities=True)
    np.testing.assert_allclose(found.probability, np.clip(expected, 0, 1), rtol=0, atol=1e-3)
    np.testing.assert_array_equal(found.mask, expected > 0.5)


def test_structures_end_in_one_label_map_where_the_higher_score_wins(segmenter):
    task = segmenter.task(two_structures(), {"first": 3, "second": 300})
    found = task.segment(volume(9), probabilities=True)
    first, second = (
        segmenter.task(examples).segment(volume(9), probabilities=True)
        for examples in two_structures().values()
    )
    assert found.structures == {"first": 3, "second": 300}
    assert found.label_map.dtype == np.uint16
    np.testing.assert_array_equal(found.probabilities["first"], first.probability)
    np.testing.assert_array_equal(found.probabilities["second"], second.probability)
    assert (first.mask & second.mask).any()
    alone = first.mask & ~second.mask
    np.testing.assert_array_equal(found.label_map[alone], 3)
    clear = first.mask & (first.probability > second.probability)
    np.testing.assert_array_equal(found.label_map[clear], 3)
    np.testing.assert_array_equal(found.mask, first.mask | second.mask)
    np.testing.assert_array_equal(found.mask_of("second"), found.label_map == 300)
    with pytest.raises(DataError, match="no structure 'third'; there are first, second"):
        found.mask_of("third")
    with pytest.raises(DataError, match="several structures"):
        _ = found.probability


def test_an_image_that_shows_several_structures_is_read_once(segmenter, tmp_path, monkeypatch):
    read = []

    def counted(given, **more):
        read.append(given)
        return as_volume(given, **more)

    as_volume = contexts_module.as_volume
    monkeypatch.setattr(contexts_module, "as_volume", counted)
    image = tmp_path / "a.nii"
    through_file(image, volume(1))
    shown = {n: [Example(image, points=[(i, 1, 1)])] for i, n in enumerate("abc")}
    task = segmenter.task(shown)
    assert read == [image]
    assert list(task.structures.items()) == [("a", 1), ("b", 2), ("c", 3)]


def test_prompts_on_the_target_change_the_mask_and_are_taken_back_one_by_one(segmenter):
    task = segmenter.task(examples())
    first = task.segment(volume(9), probabilities=True)
    task.add_point((1, 1, 1))
    second = task.segment(probabilities=True)
    task.add_box([(0, 3), (0, 3), (2, 3)])
    task.add_scribble([(1, 1, 1), (3, 1, 1)])
    third = task.segment(probabilities=True)
    assert not np.array_equal(scores_of(first), scores_of(second))
    assert not np.array_equal(scores_of(second), scores_of(third))
    task.undo()
    assert task.undo() == Box((0, 0, 2), (3, 3, 3))
    np.testing.assert_array_equal(task.segment(probabilities=True).probability, second.probability)
    assert task.undo() == Point(1.0, 1.0, 1.0)
    np.testing.assert_array_equal(task.segment(probabilities=True).probability, first.probability)
    with pytest.raises(PromptError, match="no prompt on the target"):
        task.undo()


def test_the_target_with_prompts_is_a_context_image_like_any_other(segmenter):
    segmenter = copy.copy(segmenter)
    segmenter.config = InferenceConfig(enforce_prompts=False)
    target = volume(9)
    task = segmenter.task(examples())
    task.open(target)
    task.add_point((4, 4, 2))
    own = Example(target, points=[(4, 4, 2)])
    expected = segmenter.task([*examples(), own]).segment(target, probabilities=True)
    np.testing.assert_array_equal(
        task.segment(probabilities=True).probability, expected.probability
    )


def test_context_images_are_registered_to_each_target(segmenter, monkeypatch):
    shown = []
    monkeypatch.setattr(
        type(segmenter),
        "predict",
        lambda self, encoded, images, prompts, *rest: shown.append((images, prompts)) or images[0],
    )
    registering = copy.copy(segmenter)
    registering.volume = replace(segmenter.volume, registration=True)
    target = volume(9)
    for network in (segmenter, registering):
        network.task(examples()).segment(target)
    (images, prompts), moved = shown
    on_grid = prepare_image(target, VOLUME, full=False).image
    for part, expected in zip(moved, registered(on_grid, images, prompts), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_points_on_the_target_are_obeyed(segmenter):
    # On the working grid, so that marked voxels are voxels of the scores.
    target = np.random.default_rng(9).random(VOLUME.grid, np.float32)
    task = segmenter.task(examples())
    mask = task.segment(target, affine=np.eye(4)).mask
    marked = {inside: tuple(np.argwhere(mask != inside)[0].tolist()) for inside in (True, False)}
    for inside, position in marked.items():
        task.add_point(position, inside=inside)
        assert task.segment().mask[position] == inside
        task.undo()


def test_prompts_on_the_target_alone_say_what_is_meant(segmenter):
    task = segmenter.task()
    with pytest.raises(PromptError, match="no target yet"):
        task.add_point((1, 1, 1))
    with pytest.raises(PromptError, match="'structure' has no context image and no prompt"):
        task.segment(volume(9))
    task.add_point((4, 4, 2))
    assert task.segment().mask.shape == SHAPE


def test_prompts_in_mm_are_those_of_their_voxels(segmenter):
    task = segmenter.task()
    task.open(volume(9))
    world = OBLIQUE @ (4, 3, 2, 1)
    task.add_point(world[:3], coordinates="mm")
    np.testing.assert_allclose(task.undo(), (4, 3, 2), atol=1e-3)


def test_another_target_forgets_the_prompts_of_the_last_one(segmenter):
    task = segmenter.task(examples())
    expected = task.segment(volume(8), probabilities=True)
    task.add_point((1, 1, 1))
    found = task.segment(volume(8), probabilities=True)
    np.testing.assert_array_equal(found.probability, expected.probability)


def test_a_prompt_on_the_target_names_its_structure_where_there_are_several(segmenter):
    task = segmenter.task(two_structures())
    before = task.segment(volume(9), probabilities=True)
    with pytest.raises(PromptError, match="is missing; expected one of first, second"):
        task.add_point((1, 1, 1))
    with pytest.raises(PromptError, match="'third'; expected one of first, second"):
        task.add_point((1, 1, 1), structure="third")
    task.add_point((1, 1, 1), structure="second")
    after = task.segment(probabilities=True)
    np.testing.assert_array_equal(after.probabilities["first"], before.probabilities["first"])
    assert not np.array_equal(after.probabilities["second"], before.probabilities["second"])


def test_a_prompt_outside_of_the_target_is_refused_and_none_is_added(segmenter):
    task = segmenter.task(examples())
    task.segment(volume(9))
    with pytest.raises(PromptError, match=r"outside the image of \(9, 7, 5\)"):
        task.add_point((9, 1, 1))
    with pytest.raises(PromptError, match="leaves the image"):
        task.add_box([(0, 10), (0, 3), (2, 3)])
    with pytest.raises(PromptError, match="at least one position"):
        task.add_scribble([])
    with pytest.raises(PromptError, match="no prompt"):
        task.undo()


def test_a_stream_gives_each_target_in_order_and_a_bad_one_does_not_end_it(segmenter, tmp_path):
    task = segmenter.task(examples())
    targets = [volume(7), tmp_path / "missing.nii", volume(8), bad_volumes()["NaN"], volume(9)]
    found = list(task.stream(targets, probabilities=True, show=False))
    assert [given for given, _ in found] == targets
    assert [isinstance(outcome, Segmentation) for _, outcome in found] == [1, 0, 1, 0, 1]
    assert all(isinstance(found[i][1], WsiclError) for i in (1, 3))
    assert "missing.nii is missing" in str(found[1][1])
    expected = task.segment(volume(9), probabilities=True)
    np.testing.assert_array_equal(found[4][1].probability, expected.probability)


@pytest.mark.parametrize(("bounded", "expected"), [(None, [2, 3, 3]), (1000.0, [1, 2, 3])])
def test_the_next_target_is_read_while_the_network_works_if_memory_is_not_bounded(
    segmenter, monkeypatch, bounded, expected
):
    task = with_settings(segmenter, max_memory_gb=bounded).task(examples())
    read, known, found = [], [], task.segment_prepared

    def reader(seed):
        read.append(1)
        return volume(seed), ()

    def slow(*given, **options):
        # A reader that runs ahead is waited for; one that must not gets the time to be caught.
        deadline = time.monotonic() + (10 if bounded is None else 0.05)
        waits = expected[len(known)] + (bounded is not None)
        while len(read) < waits and time.monotonic() < deadline:
            time.sleep(0.001)
        known.append(len(read))
        return found(*given, **options)

    monkeypatch.setattr(task, "segment_prepared", slow)
    list(task.stream([7, 8, 9], read=reader, show=False))
    assert known == expected


def test_a_file_that_is_too_large_is_refused_by_its_header_and_not_read(
    segmenter, tmp_path, monkeypatch
):
    path = tmp_path / "large.nii"
    through_file(path, volume(9))
    monkeypatch.setattr(nifti, "read_bytes", lambda *_, **__: pytest.fail("was read"))
    small = with_settings(segmenter, max_memory_gb=0.001)
    message = r"reading an image of 315 voxels needs .* max_memory_gb is 0.001"
    with pytest.raises(DataError, match=f"target: .*{message}"):
        small.task().segment(path)
    with pytest.raises(DataError, match=f"context 1: .*{message}"):
        small.task([Example(path, points=[(0, 0, 0)])])
    ((_, outcome),) = small.task().stream([path], show=False)
    assert "reading an image of 315" in str(outcome)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "context 2: image has no prompt"),
        ({"points": [(9, 0, 0)]}, r"context 2: points 1: \[9.0, 0.0, 0.0\] voxel .*\(9, 7, 5\)"),
        ({"boxes": [[(0, 1), (0, 8), (0, 1)]]}, r"context 2: boxes 1: .* leaves the image"),
        ({"boxes": [Box((3, 3, 3), (4, 3, 4))]}, "context 2: boxes 1: .* is empty"),
        ({"prompts": [Box((3, 3, 3), (4, 3, 4))]}, "context 2: box .* is empty"),
        ({"prompts": [FULL.T]}, r"context 2: mask is \(5, 7, 9\) but its image \(9, 7, 5\)"),
        ({"prompts": [~FULL]}, "context 2: mask marks no voxel"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_with_its_examples_number(
    segmenter, prompts, message
):
    with pytest.raises(PromptError, match=message):
        segmenter.task([examples()[0], Example(volume(1), **prompts)])


def test_an_error_names_the_structure_where_there_are_several(segmenter):
    bad = {**two_structures(), "third": [Example(volume(1), points=[(9, 0, 0)])]}
    with pytest.raises(PromptError, match="third: context 1: points 1"):
        segmenter.task(bad)


def test_a_structure_that_vanishes_on_the_working_grid_is_marked_by_its_nearest_voxel(segmenter):
    mask = np.zeros((40, 7, 5), bool)
    mask[0] = True
    large = volume(1, mask.shape)
    grid = WorkingGrid.of(mask.shape, large.affine, VOLUME.grid)
    assert not grid.label(mask).any()
    task = segmenter.task([Example(large, mask=mask)])
    (shown,) = task._contexts["structure"]
    (on_grid,) = shown.placed
    (place,) = np.argwhere(on_grid)
    np.testing.assert_allclose(place, grid.point((0.0, 3.0, 2.0)), atol=0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first": 1}, "values are given for .'first'., but the structures are"),
        ({"first": 1, "second": 1}, "different whole numbers"),
        ({"first": 0, "second": 1}, "different whole numbers from 1 to 65535"),
        ({"first": 1, "second": 65536}, "different whole numbers"),
    ],
)
def test_values_of_structures_that_a_label_map_cannot_hold_are_refused(segmenter, values, message):
    with pytest.raises(PromptError, match=message):
        segmenter.task(two_structures(), values)


def test_tasks_examples_and_results_print_in_one_line(segmenter):
    array = np.zeros((9, 7, 5), np.float32)
    example = Example(array, spacing_mm=(1, 1, 1), mask=np.ones((9, 7, 5), np.uint8), labels=[1])
    assert repr(example) == "Example(ndarray: mask ndarray with labels [1])"
    assert repr(Example("a.nii", points=[(1, 2, 3)])) == "Example(a.nii: 1 points)"
    task = segmenter.task(two_structures(), {"first": 3, "second": 300})
    counts = [len(each) for each in two_structures().values()]
    contexts = "first=3: {} context images, second=300: {} context images".format(*counts)
    assert repr(task) == f"Task({contexts}; no target)"
    result = task.segment(Volume(volume(9).image, np.diag([2.0, 3, 4, 1])))
    assert repr(task) == f"Task({contexts}; target 9 x 7 x 5 with 0 prompts)"
    ml = np.count_nonzero(result.label_map == 3) * 24 / 1000
    assert result.volumes_ml["first"] == pytest.approx(ml)
    assert repr(result).startswith(f"Segmentation(9 x 7 x 5 voxels: first {ml:.4g} ml, second ")
    assert len(repr(result)) < 200


def test_a_task_without_a_structure_is_refused(segmenter):
    with pytest.raises(PromptError, match="no structure"):
        segmenter.task({})


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
        segmenter.task(examples()).segment(bad)
    with pytest.raises(DataError, match=r"^context 1: image: (image|affine)"):
        segmenter.task([Example(bad, points=[(0, 0, 0)])])


def test_a_target_that_memory_does_not_suffice_for_is_refused_before_work_is_begun(
    segmenter, monkeypatch
):
    monkeypatch.setattr(task_module, "prepare_image", lambda *_, **__: pytest.fail("was begun"))
    small = with_settings(segmenter, max_memory_gb=0.001)
    with pytest.raises(DataError, match=r"target: segmenting needs .* GB .*max_memory_gb is 0.001"):
        small.task().segment(volume(9))


def test_refinement_changes_the_mask_only_where_its_tiles_are(close_segmenter, monkeypatch):
    laid = []
    tiles_around = look_module.tiles_around

    def one_tile(*given):
        tiles = tiles_around(*given)
        laid.append(tiles.boxes[0])
        return tiles._replace(boxes=tiles.boxes[:1])

    monkeypatch.setattr(look_module, "tiles_around", one_tile)
    target = volume(9, (24, 18, 30))
    task = close_segmenter.task(examples())
    once, twice = (task.segment(target, probabilities=True, refine=f) for f in (False, True))
    changed = np.abs(scores_of(once) - scores_of(twice)) > 0
    inside = np.zeros(changed.shape, bool)
    WorkingGrid.of(changed.shape, target.affine).turned(inside)[laid[0].slices] = True
    assert changed[inside].any()
    assert not changed[~inside].any()


def test_refinement_at_a_target_of_the_working_grids_size_is_none(close_segmenter):
    target = volume(9, VOLUME.grid, np.eye(4))
    task = close_segmenter.task(examples())
    assert task.plan(VOLUME.grid, np.eye(4), refine=True).tiles == 0
    once, twice = (task.segment(target, probabilities=True, refine=f) for f in (False, True))
    np.testing.assert_array_equal(once.probability, twice.probability)


def test_refinement_that_contradicts_the_first_is_skipped_and_that_is_reported(model):
    strict = Segmenter(model, VOLUME, InferenceConfig(refine=True, refine_min_dice=1.0))
    target = volume(9, (24, 18, 30))
    found = strict.task(examples()).segment(target, probabilities=True)
    once = strict.task(examples()).segment(target, probabilities=True, refine=False)
    np.testing.assert_array_equal(found.probability, once.probability)
    assert "structure: " in found.remarks[0] and "were skipped" in found.remarks[0]


def test_the_target_with_prompts_is_seen_in_the_same_tile_as_the_target(
    close_segmenter, monkeypatch
):
    seen = []
    predict = close_segmenter.predict

    def noted(encoded, images, prompts, weights=None):
        seen.append((images, weights))
        return predict(encoded, images, prompts, weights)

    target = volume(9, (24, 18, 30))
    task = close_segmenter.task()
    task.open(target)
    task.add_box([(4, 20), (4, 14), (6, 24)])
    encode, tiles = close_segmenter.encode, []
    monkeypatch.setattr(
        close_segmenter, "encode", lambda image: tiles.append(image) or encode(image)
    )
    monkeypatch.setattr(close_segmenter, "predict", noted)
    task.segment(refine=True)
    assert len(tiles) > 1
    for tile, (images, _) in zip(tiles, seen, strict=True):
        np.testing.assert_array_equal(images[0], tile)


def test_prompts_get_the_smoothing_of_the_network_in_contexts_on_the_target_and_in_refinement(
    model,
):
    def channels(smoothing):
        """The prompt channels of every look, those of the whole first."""
        refine = InferenceConfig(refine=True)
        segmenter = Segmenter(
            model, VolumeConfig(grid=VOLUME.grid, prompt_smoothing=smoothing), refine
        )
        predict, seen = segmenter.predict, []

        def noted(encoded, images, prompts, weights=None):
            seen.append(prompts)
            return predict(encoded, images, prompts, weights)

        segmenter.predict = noted
        task = segmenter.task([Example(volume(1), points=[(4, 3, 2)])])
        task.open(volume(9, (24, 18, 30)))
        task.add_box([(4, 20), (4, 14), (6, 24)])
        task.segment(refine=True)
        assert len(seen) > 1
        return seen

    plain, haloed = channels(0.0), channels(0.2)
    assert len(plain[0]) == 2
    np.testing.assert_array_equal(haloed[0], smoothed_prompts(plain[0], [False, False], 0.2))
    # In tiles the box on the target, the last context, is 1 wherever it has no smoothing.
    for looks, has_halo in ((plain, False), (haloed, True)):
        boxes = [look[-1] for look in looks[1:] if look[-1].any()]
        assert boxes and all(((box > 0) & (box < 1)).any() == has_halo for box in boxes)


def test_a_mask_has_no_smoothing_in_contexts_and_prompts_on_the_target_have(model):
    segmenter = Segmenter(model, VolumeConfig(grid=VOLUME.grid, prompt_smoothing=0.2))
    predict, seen = segmenter.predict, []

    def noted(encoded, images, prompts, weights=None):
        seen.append(prompts)
        return predict(encoded, images, prompts, weights)

    segmenter.predict = noted
    mask = np.zeros(volume(1).image.shape, bool)
    mask[2:5, 1:4, 1:3] = True
    task = segmenter.task([Example(volume(1), mask=mask)])
    task.open(volume(9))
    task.add_point((4, 3, 2))
    task.segment()
    (of_mask, of_point) = seen[0]
    assert set(np.unique(of_mask)) == {0, 1}
    assert ((of_point > 0) & (of_point < 0.5)).any() and of_point.max() > 1


def test_a_working_grid_that_the_network_cannot_take_is_refused(model):
    segmenter = Segmenter(model, VolumeConfig(grid=(7, 8, 8)))
    with pytest.raises(ShapeError, match="no multiple of 2"):
        segmenter.task(examples()).segment(volume(9))


def test_refinement_without_images_at_full_resolution_is_refused(segmenter, close_segmenter):
    target = volume(9, (24, 18, 30))
    with pytest.raises(DataError, match="load the segmenter with refine=True"):
        segmenter.task(examples()).segment(target, refine=True)
    task = close_segmenter.task(examples())
    task.segment(target, refine=False)
    with pytest.raises(DataError, match="give it to `segment` again"):
        task.segment(refine=True)


def test_refinement_has_a_progress_bar_that_a_stream_does_without(close_segmenter, monkeypatch):
    shown = []
    track = task_module.track

    def noted(total, text, *, show=True):
        shown.append((text, show))
        return track(total, text, show=False)

    for module in (task_module, look_module):
        monkeypatch.setattr(module, "track", noted)
    task = close_segmenter.task(examples())
    shown.clear()
    task.segment(volume(9, (24, 18, 30)))
    list(task.stream([volume(9, (24, 18, 30))]))
    look = "refining structure"
    assert shown == [(look, True), ("segmenting", True), (look, False)]


def padded(given, widths, value=-3024):
    """The same image with a margin around it, in its place."""
    affine = given.affine.copy()
    affine[:3, 3] -= given.affine[:3, :3] @ [low for low, _ in widths]
    return Volume(np.pad(given.image, widths, constant_values=value), affine)


WIDTHS = [(20, 3), (0, 7), (5, 5)]
INSIDE = tuple(slice(low, -high or None) for low, high in WIDTHS)


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("affine", [OBLIQUE, LPS])
def test_a_margin_of_one_value_changes_nothing(close_segmenter, refine, affine):
    target, context = volume(9, (20, 15, 12), affine), volume(1)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 1:4, 2:] = 1
    plain = close_segmenter.task([Example(context, mask=mask, points=[(4, 3, 2)])])
    around = Example(
        padded(context, WIDTHS), mask=np.pad(mask, WIDTHS), points=[(4 + 20, 3, 2 + 5)]
    )
    expected = plain.segment(target, probabilities=True, refine=refine)
    found = close_segmenter.task([around]).segment(
        padded(target, WIDTHS), probabilities=True, refine=refine
    )
    assert found.label_map.shape == (43, 22, 22)
    assert found.crop == Box((20, 0, 5), (40, 15, 17))
    np.testing.assert_array_equal(found.probability[INSIDE], expected.probability)
    np.testing.assert_array_equal(found.label_map[INSIDE], expected.label_map)
    assert found.label_map.sum() == expected.label_map.sum() > 0


def test_a_context_keeps_what_its_prompts_lie_in(segmenter):
    context, target = padded(volume(1), WIDTHS), volume(9)
    mask = np.zeros(context.image.shape, np.uint8)
    mask[15:24, 1:4, 7:] = 1
    task = segmenter.task(
        {
            "mask": [Example(context, mask=mask)],
            "point": [Example(context, points=[(31.4, 13.5, 14.5)])],
            "box": [Example(context, boxes=[Box((0, 0, 0), (32, 14, 15))])],
            "inside": [Example(context, points=[(22, 3, 7)])],
        }
    )
    crops = {name: shown[0].image.crop for name, shown in task._contexts.items()}
    assert crops == {
        "mask": Box((15, 0, 5), (29, 7, 15)),
        "point": Box((20, 0, 5), (32, 14, 15)),
        "box": Box((0, 0, 0), (32, 14, 15)),
        "inside": Box((20, 0, 5), (29, 7, 10)),
    }
    assert task.segment(target).mask.any()


def test_prompts_on_a_target_may_reach_into_its_margin_but_not_lie_there(segmenter):
    task = segmenter.task(examples())
    task.open(padded(volume(9), WIDTHS))
    task.add_box([(10, 26), (0, 14), (0, 12)])
    reaching = task.segment(probabilities=True).probability[INSIDE]
    task.open(volume(9))
    task.add_box([(0, 6), (0, 7), (0, 5)])
    inside = task.segment(probabilities=True).probability
    np.testing.assert_array_equal(reaching, inside)
    task.open(padded(volume(9), WIDTHS))
    task.add_point((2, 2, 2))
    with pytest.raises(PromptError, match="a point lies in the margin of the image"):
        task.segment()
    with pytest.raises(PromptError, match="outside the image"):
        task.add_point((99, 2, 2))


def test_without_the_setting_margins_stay(model):
    kept = Segmenter(model, replace(VOLUME, crop=False))
    (shown,) = kept.task([Example(padded(volume(1), WIDTHS), points=[(22, 3, 7)])])._contexts[
        "structure"
    ]
    assert shown.image.crop == Box((0, 0, 0), (32, 14, 15))


def test_a_negative_prompt_on_the_target_is_painted_below_zero(segmenter, monkeypatch):
    channels = []
    predict = type(segmenter).predict

    def seen(self, encoded, images, prompts, *rest):
        channels.append(np.asarray(prompts))
        return predict(self, encoded, images, prompts, *rest)

    monkeypatch.setattr(type(segmenter), "predict", seen)
    task = segmenter.task(examples())
    task.segment(volume(9))
    task.add_point((4, 3, 2), inside=False)
    task.add_scribble([(1, 1, 1), (1, 4, 1)], inside=False)
    task.segment()
    assert (channels[0] >= 0).all() and len(channels[1]) == len(channels[0]) + 1
    assert (channels[1][:-1] >= 0).all() and (channels[1][-1] < 0).any()
    assert not (channels[1][-1] > 0).any()


def test_negative_prompts_alone_do_not_say_what_to_segment(segmenter):
    task = segmenter.task()
    task.open(volume(9))
    task.add_point((4, 3, 2), inside=False)
    with pytest.raises(PromptError, match="negative prompts only; mark the structure itself"):
        task.segment()
    task.add_point((1, 1, 1))
    task.segment()
