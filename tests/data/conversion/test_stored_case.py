import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsicl_jax.config import PreparationConfig, VolumeConfig
from wsicl_jax.data.catalogue import SourceFile
from wsicl_jax.data.conversion.stored_case import to_stored_case
from wsicl_jax.data.episodes.cached_cases import working_grid_case
from wsicl_jax.data.store import Store
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.geometry.axes import Box

SHAPE = (6, 9, 12)
AFFINE = np.array([[0, -0.8, 0, 30], [1.5, 0, 0, -20], [0, 0, -3.0, 90], [0, 0, 0, 1]])
FILES = (SourceFile("a_0000.nii.gz", 1, 5), SourceFile("a.nii.gz", 2, 6))


def case(channels: int = 2, kind=np.int16):
    rng = np.random.default_rng(0)
    image = rng.integers(-50, 900, (channels, *SHAPE)).astype(kind)
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 3:7, 4:9] = 1
    label[2, 5, 6:] = 2
    return image, label


def test_without_options_nothing_changes():
    image, label = case()
    prepared = to_stored_case(image, label, AFFINE, FILES, PreparationConfig())
    np.testing.assert_array_equal(prepared.image, image)
    np.testing.assert_array_equal(prepared.label, label)
    np.testing.assert_array_equal(prepared.affine, AFFINE)
    assert prepared.image.dtype == np.int16
    assert prepared.source.files == FILES


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    crop=st.booleans(),
    ras=st.booleans(),
)
def test_turned_and_cropped_labels_come_back_exactly(order, signs, crop, ras):
    image, label = case()
    image[:, :2] = image.min()  # something to crop
    label[:2] = 0
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) * [0.8, 1.5, 3.0] * signs)[order]
    prepared = to_stored_case(image, label, affine, FILES, PreparationConfig(ras=ras, crop=crop))
    assert prepared.image.dtype == np.int16
    np.testing.assert_array_equal(prepared.source.grid.restore_label(prepared.label), label)
    back = prepared.source.grid.restore_label(prepared.image[1])
    np.testing.assert_array_equal(back[2:], image[1, 2:])


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    grid=st.tuples(*[st.integers(3, 20)] * 3),
    voxel=st.tuples(*[st.floats(0, 1)] * 3),
)
def test_a_voxel_keeps_its_place_in_the_world(order, signs, grid, voxel):
    image, label = case(1)
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) * [0.8, 1.5, 3.0] * signs)[order]
    affine[:3, 3] = [3, -7, 11]
    prepared = to_stored_case(image, label, affine, FILES, PreparationConfig(ras=True, grid=grid))
    here = np.array(voxel) * (np.array(SHAPE) - 1)
    inside = np.array(prepared.source.grid.point(here.tolist()))
    clamped = ((inside == 0) | (inside == np.array(grid) - 1)).any()
    if not clamped:  # else the nearest voxel's centre stands for it
        np.testing.assert_allclose(
            (prepared.affine @ [*inside, 1])[:3], (affine @ [*here, 1])[:3], atol=1e-9
        )


def test_ras_axes_run_to_the_right_to_the_front_and_up():
    prepared = to_stored_case(*case(), AFFINE, FILES, PreparationConfig(ras=True))
    assert prepared.label.shape == (9, 6, 12)
    np.testing.assert_allclose(prepared.affine[:3, :3], np.diag([0.8, 1.5, 3.0]))


def test_a_crop_keeps_what_is_above_the_lowest_value_and_every_label():
    image = np.full((1, *SHAPE), -1000, np.int16)
    image[0, 2:5, 3:6, 4:8] = 5
    label = np.zeros(SHAPE, np.uint8)
    label[1, 3, 4] = 1
    prepared = to_stored_case(image, label, np.eye(4), FILES, PreparationConfig(crop=True))
    assert prepared.source.grid.crop == Box((1, 3, 4), (5, 6, 8))
    assert prepared.image.shape == (1, 4, 3, 4)
    np.testing.assert_array_equal(prepared.affine[:3, 3], [1, 3, 4])
    np.testing.assert_array_equal(prepared.source.grid.restore_label(prepared.label), label)


def test_an_empty_image_is_not_cropped():
    image, label = np.zeros((1, *SHAPE), np.int16), np.zeros(SHAPE, np.uint8)
    prepared = to_stored_case(image, label, np.eye(4), FILES, PreparationConfig(crop=True))
    assert prepared.image.shape == image.shape


@pytest.mark.parametrize(
    ("wanted", "shape", "spacing"),
    [((1.0, 1.0, 1.0), (9, 7, 36), (1.0, 7.2 / 7, 1.0)), ((2.0, 50.0, 3.0), (4, 1, 12), None)],
)
def test_a_spacing_is_met_as_far_as_whole_voxels_allow(wanted, shape, spacing):
    prepared = to_stored_case(*case(), AFFINE, FILES, PreparationConfig(spacing_mm=wanted))
    assert prepared.label.shape == shape
    extent = np.array(SHAPE) * [1.5, 0.8, 3.0]
    steps = np.linalg.norm(prepared.affine[:3, :3], axis=0)
    np.testing.assert_allclose(steps * prepared.label.shape, extent)
    if spacing:
        np.testing.assert_allclose(steps, spacing)


def test_a_prediction_comes_back_on_the_files_grid():
    prepared = to_stored_case(
        *case(), AFFINE, FILES, PreparationConfig(ras=True, crop=True, grid=(16, 16, 16))
    )
    way = prepared.source.grid
    assert way.restore(np.ones((16, 16, 16), np.float32)).shape == SHAPE
    assert way.restore_label(prepared.label).shape == SHAPE


def test_intensities_are_scaled_and_the_ends_recorded():
    image, label = case()
    prepared = to_stored_case(
        image, label, AFFINE, FILES, PreparationConfig(percentiles=(1.0, 99.0))
    )
    assert (prepared.image.min(), prepared.image.max()) == (0, 1)
    for channel, before, (low, high) in zip(
        prepared.image, image, prepared.source.intensities, strict=True
    ):
        inside = (before > low) & (before < high)
        np.testing.assert_allclose(channel[inside] * (high - low) + low, before[inside], rtol=1e-5)


def test_a_prepared_store_gives_the_same_subjects_to_the_bit(tmp_path):
    volume = VolumeConfig(grid=(8, 8, 8), percentiles=(0.5, 99.5))
    ready = PreparationConfig(ras=True, crop=True, grid=volume.grid, percentiles=volume.percentiles)
    image, label = case()
    margin = [(3, 0), (2, 5), (1, 1)]
    image = np.pad(image, [(0, 0), *margin], constant_values=-3024)
    label = np.pad(label, margin)
    subjects = []
    for name, preparation in (("raw", PreparationConfig()), ("ready", ready)):
        path = tmp_path / name
        create_store(path, "test", ("T1", "T2"), {1: "a", 2: "b"}, preparation)
        prepared = to_stored_case(image, label, AFFINE, FILES, preparation)
        write_case(path, "c", *prepared[:3], source=prepared.source)
        finish_store(path)
        subjects.append(working_grid_case(Store.open(path), "c", 1, volume))
    np.testing.assert_array_equal(subjects[0][0], subjects[1][0])
    np.testing.assert_array_equal(subjects[0][1], subjects[1][1])
