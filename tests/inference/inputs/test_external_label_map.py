import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.inference.inputs.external import label_map, read_prompts
from wsicl_jax.prompts import Point, Scribble, SliceMask, to_channel

SHAPE = (40, 36, 30)
AFFINE = np.diag([-1.0, 1.5, 2.0, 1.0])
VOLUME = Volume(np.zeros(SHAPE, np.float32), AFFINE)


def empty():
    return np.zeros(SHAPE, np.uint8)


def save(folder, label, affine=AFFINE):
    path = folder / "rough.nii.gz"
    nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), path)
    return path


def read(folder, label):
    return read_prompts(save(folder, label), VOLUME)


def on_slice(flat, axis=2, index=12):
    """A drawing on a slice, somewhere on it."""
    label = empty()
    start = np.insert([4, 5], axis, index)
    where = Box(tuple(start.tolist()), tuple((start + np.insert(flat.shape, axis, 1)).tolist()))
    label[where.slices] = np.expand_dims(flat, axis)
    return label


def disc(radius):
    x, y = np.indices((2 * radius + 1,) * 2) - radius
    return x**2 + y**2 <= radius**2


def stroke(width, *corners):
    """A pen of a square tip drawn from corner to corner."""
    flat = np.zeros((28, 24), bool)
    for a, b in itertools.pairwise(corners):
        for share in np.linspace(0, 1, 60):
            x, y = np.rint(np.array(a) + share * np.subtract(b, a)).astype(int)
            flat[x : x + width, y : y + width] = True
    return flat


def test_small_parts_are_points_at_the_voxel_nearest_to_their_middle(tmp_path):
    label = empty()
    label[3, 4, 5] = 1
    label[10:13, 20:23, 9] = 2
    label[20:23, 20:23, 20:23] = 3
    label[30:33, 30, 1] = label[30, 30:33, 1] = 1  # a corner, whose middle is outside
    assert read(tmp_path, label) == [
        Point(3, 4, 5),
        Point(11, 21, 9),
        Point(21, 21, 21),
        Point(30, 31, 1),
    ]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_full_part_on_a_slice_is_a_box_there(tmp_path, axis):
    flat = np.ones((9, 6), bool)
    flat[0, 0] = flat[4, 3] = False
    (box,) = read(tmp_path, on_slice(flat, axis))
    start = tuple(np.insert([4, 5], axis, 12).tolist())
    assert box == Box(start, tuple(np.add(start, np.insert([9, 6], axis, 1)).tolist()))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("flat", [disc(4), disc(9), np.tri(12, dtype=bool)])
def test_another_wide_part_on_a_slice_is_a_mask_there(tmp_path, axis, flat):
    label = on_slice(flat, axis)
    (found,) = read(tmp_path, label)
    assert isinstance(found, SliceMask)
    assert (found.axis, found.index) == (axis, 12)
    np.testing.assert_array_equal(found.mask, label.take(12, axis) > 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize(
    "corners",
    [
        [(1, 2), (22, 2)],
        [(1, 2), (20, 20)],
        [(1, 2), (12, 8), (4, 18)],
        [(2, 2), (2, 18), (18, 18), (18, 2), (2, 2)],
    ],
    ids=["straight", "slanted", "bent", "closed"],
)
def test_a_thin_part_is_a_scribble_along_its_middle(tmp_path, axis, width, corners):
    label = on_slice(stroke(width, *corners), axis)
    (found,) = read(tmp_path, label)
    assert isinstance(found, Scribble)
    path = np.array(found.path)
    assert (label[tuple(path.astype(int).T)] > 0).all()
    # Each step goes to a neighbour, and no voxel of the drawing is far away.
    assert np.abs(np.diff(path, axis=0)).max() == 1
    away = np.ones(SHAPE, bool)
    away[tuple(path.astype(int).T)] = False
    assert ndimage.distance_transform_cdt(away)[label > 0].max() <= width


def test_branches_of_a_line_belong_to_its_scribble(tmp_path):
    cross = stroke(1, (12, 1), (12, 22)) | stroke(1, (1, 12), (26, 12))
    label = on_slice(cross)
    (found,) = read(tmp_path, label)
    assert {tuple(map(int, p)) for p in found.path} == set(map(tuple, np.argwhere(label).tolist()))


def test_a_line_through_slices_is_a_scribble(tmp_path):
    label = empty()
    for t in np.linspace(0, 1, 300):
        x, y, z = 5 + 25 * t, 17 + 9 * np.sin(6 * t), 14 + 9 * np.cos(6 * t)
        label[int(x) - 1 : int(x) + 2, int(y) - 1 : int(y) + 2, int(z) - 1 : int(z) + 2] = 1
    (found,) = read(tmp_path, label)
    assert isinstance(found, Scribble)
    channel = to_channel([found], SHAPE)
    assert np.ptp(np.array(found.path), axis=0).min() > 12
    assert channel[5:30].any(axis=(1, 2)).all()


@pytest.mark.parametrize("extent", [(9, 7, 2), (20, 20, 3), (8, 10, 12)])
def test_a_full_part_in_3d_is_a_box(tmp_path, extent):
    label = empty()
    box = Box((3, 4, 5), tuple(np.add((3, 4, 5), extent).tolist()))
    label[box.slices] = 1
    label[3, 4, 5] = 0
    assert read(tmp_path, label) == [box]


def balls():
    """Two that do not touch, though the boxes around them do."""
    x, y, z = np.indices(SHAPE)
    first = (x - 10) ** 2 + (y - 10) ** 2 + (z - 9) ** 2 <= 36
    return first, (x - 19) ** 2 + (y - 19) ** 2 + (z - 18) ** 2 <= 36


def test_other_parts_in_3d_are_one_mask(tmp_path):
    label = (balls()[0] | balls()[1]).astype(np.uint8)
    label[38, 2, 2] = 1
    point, mask = read(tmp_path, label)
    assert point == Point(38, 2, 2)
    np.testing.assert_array_equal(mask, balls()[0] | balls()[1])


def test_a_part_inside_of_another_is_one_of_its_own(tmp_path):
    label = on_slice(stroke(2, (2, 2), (2, 18), (18, 18), (18, 2), (2, 2)))
    label[14, 15, 12] = 1
    scribble, point = read(tmp_path, label)
    assert isinstance(scribble, Scribble) and point == Point(14, 15, 12)


@pytest.mark.parametrize("thickness", [1, 3])
def test_a_hollow_part_is_a_mask_and_no_line(tmp_path, thickness):
    whole = balls()[1]
    label = whole & ~ndimage.binary_erosion(whole, iterations=thickness)
    (mask,) = read(tmp_path, label)
    np.testing.assert_array_equal(mask, label)


def test_parts_that_touch_at_a_corner_are_one_whatever_their_values(tmp_path):
    label = empty()
    label[3, 4, 5], label[4, 5, 6], label[9, 9, 9] = 1, 2, 1
    assert len(read(tmp_path, label)) == 2


@pytest.mark.parametrize(
    ("name", "below", "above", "kinds"),
    [
        ("DAB", (3, 3), (3, 4), (Point, Box)),
        ("PEN", (3, 22), (4, 22), (Scribble, Box)),
        ("LINE_LENGTH", (3, 6), (3, 9), (Box, Scribble)),
    ],
)
def test_rectangles_change_their_kind_where_the_thresholds_say(tmp_path, name, below, above, kinds):
    for extent, kind in zip((below, above), kinds, strict=True):
        (found,) = read(tmp_path, on_slice(np.ones(extent, bool)))
        assert isinstance(found, kind), (name, extent)


@pytest.mark.parametrize(("missing", "kind"), [(20, Box), (21, SliceMask)])
def test_a_box_is_full_to_nine_tenths(tmp_path, missing, kind):
    flat = np.ones((10, 20), bool)
    flat[5, :missing] = False
    flat[6, 1 : 1 + max(missing - 20, 0)] = False
    flat[5, 19], flat[0, 0] = True, False  # so that it stays in one piece
    assert label_map.FULL == 0.9 and flat.size == 200
    (found,) = read(tmp_path, on_slice(flat))
    assert isinstance(found, kind)


def test_files_of_itk_are_read_too(tmp_path):
    label = on_slice(np.ones((9, 6), bool))
    image = sitk.GetImageFromArray(label.T)
    image.SetSpacing([1.0, 1.5, 2.0])
    image.SetDirection([1, 0, 0, 0, -1, 0, 0, 0, 1])
    for name in ("rough.nrrd", "rough.mha"):
        sitk.WriteImage(image, str(tmp_path / name))
        found = read_prompts(tmp_path / name, VOLUME)
        assert found == [Box((4, 5, 12), (13, 11, 13))]


def test_a_map_of_another_grid_is_refused(tmp_path):
    path = save(tmp_path, on_slice(disc(4)), np.diag([1.0, 1.5, 2.0, 1.0]))
    with pytest.raises(DataError, match=r"the image and .*rough\.nii\.gz have different affines"):
        read_prompts(path, VOLUME)


def test_an_empty_map_is_refused(tmp_path):
    with pytest.raises(PromptError, match=r"rough\.nii\.gz marks no voxel"):
        read(tmp_path, empty())


def test_a_map_that_nobody_drew_is_refused(tmp_path):
    label = empty()
    label[::2, ::2, ::2] = 1
    with pytest.raises(PromptError, match=r"rough\.nii\.gz has 5400 separate parts; .* 1000"):
        read(tmp_path, label)
