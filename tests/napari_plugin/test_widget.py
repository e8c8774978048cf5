"""The widget in a viewer without a window."""

import importlib.resources
import os
import subprocess
import sys
import time

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed: pip install 'wsicl_jax[napari]'")
pytest.importorskip("qtpy", reason="napari has no Qt: pip install 'wsicl_jax[napari]'")

from napari.components import ViewerModel
from napari.layers import Labels
from napari_plugin.arrays import SCALE_MM, zyx
from npe2 import PluginManifest
from qtpy.QtWidgets import QApplication
from serve.steps import TOKEN, A, B, C

from wsicl_jax.client import Client
from wsicl_jax.napari_plugin import layers
from wsicl_jax.napari_plugin.widget import SegmentWidget


@pytest.fixture(scope="module")
def application():
    return QApplication.instance() or QApplication([])


@pytest.fixture
def viewer(application, folder):
    """Three images as SimpleITK reads them, with points on the first and shapes on the second."""
    viewer = ViewerModel()
    for name in (A, B, C):
        viewer.add_image(zyx(folder / name), scale=SCALE_MM, name=name[0])
    viewer.add_points([[2, 3, 4]], scale=SCALE_MM, name="points")
    corners = [[3, 1, 1], [3, 1, 4], [3, 5, 4], [3, 5, 1]]
    viewer.add_shapes([corners], shape_type="rectangle", ndim=3, scale=SCALE_MM, name="box")
    return viewer


@pytest.fixture
def widget(viewer, address):
    """The points and the box are added, and the third image is the target."""
    widget = SegmentWidget(viewer)
    widget.address.value, widget.token.value = address, TOKEN
    for image, prompts in (("a", "points"), ("b", "box")):
        widget.image.value, widget.prompts.value = viewer.layers[image], viewer.layers[prompts]
        widget.add_button.clicked.emit(True)
    widget.target.value = viewer.layers["c"]
    return widget


def press_segment(widget):
    """Press `Segment`, and wait as a person does."""
    widget.segment_button.clicked.emit(True)
    wait(lambda: widget.segment_button.enabled)


def wait(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        QApplication.processEvents()
        time.sleep(0.01)


def test_layers_become_a_labels_layer_on_the_grid_of_the_target(widget, viewer, address, folder):
    press_segment(widget)
    result = viewer.layers["c (wsicl)"]
    assert isinstance(result, Labels), widget.status.value
    np.testing.assert_allclose(result.scale, SCALE_MM)
    session = Client(address, TOKEN).new_session()
    for image, role in ((A, "context"), (B, "context"), (C, "target")):
        session.use(image, role)
    session.add_point(A, (4, 3, 2))
    session.add_box(B, ((1, 5), (1, 6), (3, 4)))
    session.segment()
    expected = session.label_map(C).T
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(result.data, expected)
    assert widget.status.value == f"c (wsicl): {expected.sum()} voxels"


def test_a_prompt_on_the_target_corrects_its_result_in_the_same_layer(widget, viewer):
    press_segment(widget)
    before = viewer.layers["c (wsicl)"].data.copy()
    line = viewer.add_shapes([[[1, 1, 1], [1, 1, 2]]], shape_type="line", ndim=3, scale=SCALE_MM)
    widget.image.value, widget.prompts.value = viewer.layers["c"], line
    widget.add_button.clicked.emit(True)
    press_segment(widget)
    assert [layer.name for layer in viewer.layers if isinstance(layer, Labels)] == ["c (wsicl)"]
    assert (viewer.layers["c (wsicl)"].data != before).any()


def test_pairs_are_listed_and_removed_also_with_their_layers(widget, viewer):
    def listed():
        return [text for text, _ in widget._choices(None)]

    assert listed() == ["a: points", "b: box"]
    widget.add_button.clicked.emit(True)
    assert listed() == ["a: points", "b: box"]
    widget.added.value = [0]
    widget.remove_button.clicked.emit(True)
    assert listed() == ["b: box"]
    assert widget.added.choices == (0,)
    viewer.layers.remove("box")
    assert listed() == [] and viewer.layers["points"] in widget.prompts.choices
    press_segment(widget)
    assert "add an image with a layer of prompts" in widget.status.value


def test_what_the_service_refuses_is_told_and_the_widget_goes_on(widget, viewer):
    widget.token.value = "wrong"
    press_segment(widget)
    assert "token is missing or wrong" in widget.status.value
    widget.token.value = TOKEN
    press_segment(widget)
    assert "c (wsicl)" in viewer.layers


def test_a_request_can_be_cancelled(widget, viewer):
    check, jobs = widget._check, []

    def pressed(job):
        jobs.append(job)
        widget.cancel_button.clicked.emit(True)
        check(job)

    widget._check = pressed
    press_segment(widget)
    assert len(jobs) == 1 and widget.status.value == "cancelled"
    assert "c (wsicl)" not in viewer.layers and not widget.cancel_button.enabled


def test_the_manifest_names_the_widget():
    file = importlib.resources.files(layers.__package__) / "napari.yaml"
    manifest = PluginManifest.from_file(file)
    (command,) = manifest.contributions.commands
    assert manifest.contributions.widgets[0].command == command.id
    assert command.python_name == f"{SegmentWidget.__module__}:{SegmentWidget.__qualname__}"


def test_napari_loads_no_jax_with_the_widget():
    code = "import sys, wsicl_jax.napari_plugin.widget; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert not set(modules) & {"jax", "flax", "starlette"}
