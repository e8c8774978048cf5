"""The widget: choose layers, segment, and get the result as a labels layer."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox, Container, Label, LineEdit, PushButton, Select
from napari.layers import Image, Labels, Points, Shapes
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error

from wsicl_jax.client import Client
from wsicl_jax.errors import PromptError, WsiclError
from wsicl_jax.napari_plugin.layers import AXES, Prompts, SentImage, image_of, prompts_of, segment

if TYPE_CHECKING:
    import napari.viewer
    import numpy as np


class _CancelledError(WsiclError):
    """Somebody pressed `Cancel`."""


class SegmentWidget(Container):
    """Segments an image layer by prompts on other image layers, with a service."""

    def __init__(self, viewer: "napari.viewer.Viewer"):
        super().__init__()
        self._viewer = viewer
        self._marked: list[tuple[Image, Points | Shapes]] = []
        self._cancelled = threading.Event()
        self.address = LineEdit(label="Service", value="http://localhost:8000")
        self.token = LineEdit(label="Token", tooltip="only if wsicl serve printed one")
        self.axes = ComboBox(label="Axes", choices=list(AXES.items()))
        self.image = ComboBox(label="Image", choices=self._layers(Image))
        self.prompts = ComboBox(label="Prompts", choices=self._layers(Points, Shapes))
        self.add_button = PushButton(text="Add prompts of image")
        self.added = Select(label="Added", choices=self._choices)
        self.remove_button = PushButton(text="Remove selected")
        self.target = ComboBox(label="Target", choices=self._layers(Image))
        self.segment_button = PushButton(text="Segment")
        self.cancel_button = PushButton(text="Cancel", enabled=False)
        self.status = Label(value="")
        self.extend(
            [
                *(self.address, self.token, self.axes, self.image, self.prompts, self.add_button),
                *(self.added, self.remove_button, self.target, self.segment_button),
                *(self.cancel_button, self.status),
            ]
        )
        self.add_button.clicked.connect(self._add)
        self.remove_button.clicked.connect(self._remove)
        self.segment_button.clicked.connect(self._segment)
        self.cancel_button.clicked.connect(self._cancelled.set)
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
            event.connect(self._layers_changed)

    def _layers(self, *kinds: type) -> Any:
        return lambda _: [layer for layer in self._viewer.layers if isinstance(layer, kinds)]

    def _choices(self, _: Any) -> list[tuple[str, int]]:
        return [
            (f"{image.name}: {prompts.name}", number)
            for number, (image, prompts) in enumerate(self._marked)
        ]

    def _layers_changed(self, _: Any = None) -> None:
        layers = self._viewer.layers
        self._marked = [pair for pair in self._marked if all(layer in layers for layer in pair)]
        self.reset_choices()

    def _add(self) -> None:
        pair = self.image.value, self.prompts.value
        if None not in pair and pair not in self._marked:
            self._marked.append(pair)
            self.added.reset_choices()

    def _remove(self) -> None:
        chosen = set(self.added.value)
        self._marked = [pair for n, pair in enumerate(self._marked) if n not in chosen]
        self.added.reset_choices()

    def _segment(self) -> None:
        """Segment in another thread, so that the viewer can be used meanwhile."""
        self._cancelled.clear()
        target: Image | None = self.target.value
        try:
            if target is None or not self._marked:
                raise PromptError("choose a target, and add an image with a layer of prompts")
            # Layers are read here: another thread must not, since people change them.
            sent = {id(layer): self._sent(layer) for layer in [target, *dict(self._marked)]}
            marked = [(sent[id(i)], prompts_of(prompts, i)) for i, prompts in self._marked]
        except WsiclError as error:
            self._failed(str(error))
            return
        self._busy(True)
        worker = create_worker(
            self._work,
            *(self.address.value, self.token.value or None, sent[id(target)], marked),
            _start_thread=False,
        )
        worker.returned.connect(lambda outcome: self._show(target, outcome))
        worker.finished.connect(lambda: self._busy(False))
        worker.start()

    def _sent(self, layer: Image) -> SentImage:
        return image_of(layer, self.axes.value)

    def _work(
        self,
        address: str,
        token: str | None,
        target: SentImage,
        marked: list[tuple[SentImage, Prompts]],
    ) -> "np.ndarray | str":
        """The label map, or the reason why there is none; napari shows other exceptions itself."""
        try:
            return segment(Client(address, token), target, marked, self._check)
        except WsiclError as error:
            return str(error)

    def _check(self, job: Mapping[str, Any]) -> None:
        if self._cancelled.is_set():
            raise _CancelledError("cancelled")

    def _busy(self, is_busy: bool) -> None:
        self.segment_button.enabled, self.cancel_button.enabled = not is_busy, is_busy
        if is_busy:
            self.status.value = "segmenting"

    def _failed(self, reason: str) -> None:
        self.status.value = reason
        if not self._cancelled.is_set():
            show_error(reason)

    def _show(self, target: Image, voxels: "np.ndarray | str") -> None:
        """Add the label map of a target or replace the last one; or show why there is none."""
        if isinstance(voxels, str):
            self._failed(voxels)
            return
        name = f"{target.name} (wsicl)"
        self.status.value = f"{name}: {int((voxels > 0).sum())} voxels"
        found = [layer for layer in self._viewer.layers if layer.name == name]
        if found and isinstance(found[0], Labels) and found[0].data.shape == voxels.shape:
            found[0].data = voxels
            return
        placed = ("scale", "translate", "rotate", "shear", "affine")
        geometry = {key: getattr(target, key) for key in placed}
        self._viewer.add_labels(voxels, name=name, **geometry)
