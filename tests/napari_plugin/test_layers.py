import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from napari_plugin.arrays import SCALE_MM, layer, zyx
from serve.steps import TOKEN, A, B, C

from wsicl_jax.client import Client, ClientError
from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.inference.inputs.external.napari import layer as read_layer
from wsicl_jax.napari_plugin.layers import AXES, Prompts, image_of, prompts_of, segment
from wsicl_jax.prompts import Scribble

VOXELS = np.zeros((5, 7, 9), np.int16)
RECTANGLE = np.array([[2, 0.7, 1.2], [2, 0.7, 4.4], [2, 3.2, 4.4], [2, 3.2, 1.2]])
PATH = np.array([[1, 2, 3], [1, 4, 3], [1, 4, 5.5]])


def shapes(*pairs, **placed):
    kinds, data = zip(*pairs, strict=True)
    return layer(list(data), shape_type=list(kinds), **placed)


def test_points_count_voxels_of_the_image_whatever_the_scale_of_their_layer():
    image = layer(VOXELS, SCALE_MM, (10, 20, 30))
    here = layer(np.array([[2, 3, 4.5]]), SCALE_MM, (10, 20, 30))
    assert prompts_of(here, image) == Prompts(points=[[2.0, 3.0, 4.5]])
    unscaled = layer(np.array([[16, 22.25, 36.75]]))
    assert prompts_of(unscaled, image) == Prompts(points=[[2.0, 3.0, 4.5]])


def test_rectangles_become_boxes_on_their_slice_and_lines_and_paths_scribbles():
    drawn = shapes(("rectangle", RECTANGLE), ("path", PATH), ("line", PATH[:2]))
    assert prompts_of(drawn, layer(VOXELS)) == Prompts(
        boxes=[[[2, 3], [1, 4], [1, 5]]], scribbles=[PATH.tolist(), PATH[:2].tolist()]
    )


def test_shapes_are_the_same_as_from_the_file_of_the_layer(tmp_path):
    rows = ["index,shape-type,vertex-index,axis-0,axis-1,axis-2"]
    for number, (kind, vertices) in enumerate([("rectangle", RECTANGLE), ("path", PATH)]):
        rows += [f"{number},{kind},{v},{','.join(map(str, p))}" for v, p in enumerate(vertices)]
    file = tmp_path / "shapes.csv"
    file.write_text("\n".join(rows))
    box, scribble = read_layer(file, Volume(VOXELS.astype(np.float32), np.eye(4)), "xyz")
    found = prompts_of(shapes(("rectangle", RECTANGLE), ("path", PATH)), layer(VOXELS))
    assert [list(pair) for pair in found.boxes[0]] == np.array(box).T.tolist()
    assert isinstance(scribble, Scribble)
    assert found.scribbles == [np.array(scribble.path).tolist()]


def test_a_rounding_error_of_the_scale_makes_no_box_thicker():
    image = layer(VOXELS, (0.1, 0.3, 0.7), (0.1, 0.2, 0.3))
    world = np.array([image.data_to_world(corner) for corner in RECTANGLE])
    assert prompts_of(shapes(("rectangle", world)), image).boxes == [[[2, 3], [1, 4], [1, 5]]]


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        (layer(np.zeros((0, 3))), "'a layer' is empty: draw on a layer of the 3D image"),
        (layer(np.zeros((1, 2)), ndim=2), "'a layer' has 2 axes; expected 3: draw"),
        (shapes(("line", PATH[:2]), ("ellipse", RECTANGLE)), "shape 2 of .* type ellipse; expect"),
    ],
)
def test_layers_that_are_no_prompts_are_refused_with_what_to_draw(drawn, reason):
    with pytest.raises(PromptError, match=reason):
        prompts_of(drawn, layer(VOXELS))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (layer(np.zeros((5, 7)), ndim=2), "has 2 axes; expected a volume"),
        (layer(np.zeros((5, 7, 9, 3)), rgb=True), "has colours; expected a volume"),
    ],
)
def test_images_that_are_no_volumes_are_refused(image, reason):
    with pytest.raises(DataError, match=reason):
        image_of(image)


def test_the_axes_of_readers_get_their_directions_in_the_patient(folder):
    file = nib.load(folder / A)
    # x and y of the file run to the left and back, as in SimpleITK.
    sent = image_of(layer(zyx(folder / A), SCALE_MM), AXES["z, y, x (SimpleITK, tifffile)"])
    np.testing.assert_array_equal(sent.voxels.T, file.dataobj)
    np.testing.assert_allclose(sent.affine[:, [2, 1, 0, 3]], file.affine)
    plain = image_of(layer(VOXELS, SCALE_MM, (1, 2, 3)), AXES["x, y, z (nibabel)"])
    np.testing.assert_allclose(plain.affine[:3], np.c_[np.diag(SCALE_MM), [1, 2, 3]])


def test_the_name_of_a_file_is_plain_and_changes_with_the_content():
    first = image_of(layer(VOXELS, name="../CT: höchst [1]"))
    assert first.name == image_of(layer(VOXELS.copy(), name="../CT: höchst [1]")).name
    assert first.name.startswith("CT_h_chst_1-") and first.name.endswith(".nii.gz")
    others = (VOXELS + 1, VOXELS.astype(np.uint16), VOXELS.reshape(7, 5, 9))
    names = {image_of(layer(other, name="../CT: höchst [1]")).name for other in others}
    names.add(image_of(layer(VOXELS, (1, 1, 2), name="../CT: höchst [1]")).name)
    assert len(names | {first.name}) == 5


def test_layers_give_the_same_label_map_as_the_files(address, folder):
    client = Client(address, TOKEN)
    a, b, c = (image_of(layer(zyx(folder / name), SCALE_MM, name="x")) for name in (A, B, C))
    box = Prompts(boxes=[[[3, 4], [1, 6], [1, 5]]])
    marked = [
        (a, Prompts(points=[[2.0, 3.0, 4.0]])),
        (b, box),
        (c, Prompts(scribbles=[[[1.0, 1.0, 1.0]]])),
    ]
    found = segment(client, c, marked)
    session = client.new_session()
    for image, role in ((A, "context"), (B, "context"), (C, "target")):
        session.use(image, role)
    session.add_point(A, (4, 3, 2))
    session.add_box(B, ((1, 5), (1, 6), (3, 4)))
    session.add_scribble(C, [(1, 1, 1)])
    session.segment()
    expected = session.label_map(C)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(found.T, expected)
    # Again: nothing is sent twice, and no session is left behind.
    images = client.images()
    segment(client, c, marked[:1])
    assert client.images() == images and len(images) == 7
    assert [s["id"] for s in client.call("GET", "/api/sessions")["sessions"]] == [session.id]


def test_a_refusal_leaves_no_session(address, folder):
    client = Client(address, TOKEN)
    a, b = (image_of(layer(zyx(folder / name), SCALE_MM)) for name in (A, B))
    with pytest.raises(ClientError, match="outside the image"):
        segment(client, b, [(a, Prompts(points=[[99.0, 0.0, 0.0]]))])
    assert client.call("GET", "/api/sessions")["sessions"] == []


def test_the_conversion_needs_neither_jax_nor_napari():
    code = (
        "import sys, wsicl_jax.napari_plugin.layers; "
        "print(*(m.partition('.')[0] for m in sys.modules))"
    )
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert not set(modules) & {"jax", "flax", "scipy", "pydantic", "napari"}
