"""Layers of napari for the service: images as files, prompts in voxels of their image."""

import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsicl_jax.client import Client, RemoteSession
from wsicl_jax.errors import DataError, PromptError

AXES = {"z, y, x (SimpleITK, tifffile)": "SPL", "x, y, z (nibabel)": "RAS"}
"""Where the axes of the viewer run to, by the order of axes in arrays of common readers."""

_RAS = ("RL", "AP", "SI")
_DECIMALS = 6
"""Of voxel positions, so that a rounding error reaches no further voxel."""

_TYPES = ("uint8", "int16", "uint16", "int32")
"""Types of voxels that are sent as they are; others become float32."""


@dataclass(frozen=True)
class Prompts:
    """Prompts in voxels of an image."""

    points: list[list[float]] = field(default_factory=list)
    scribbles: list[list[list[float]]] = field(default_factory=list)
    boxes: list[list[list[int]]] = field(default_factory=list)
    """Three half-open ranges each."""


class SentImage(NamedTuple):
    """An image for the service."""

    name: str
    """Its file's name, which changes with the content."""
    voxels: np.ndarray
    affine: np.ndarray
    """From voxels to RAS+ mm, (4, 4)."""


def image_of(layer: Any, axes: str = "SPL") -> SentImage:
    """The image of a layer; `axes` are the directions of the viewer's axes, in mm, as letters.

    Raises:
        DataError: it is not a volume of grey values.
    """
    voxels = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    if getattr(layer, "rgb", False) or layer.ndim != 3:
        kind = "has colours" if getattr(layer, "rgb", False) else f"has {layer.ndim} axes"
        raise DataError(f"the layer {layer.name!r} {kind}; expected a volume of grey values")
    voxels = np.asarray(voxels)
    voxels = np.ascontiguousarray(
        voxels if voxels.dtype.name in _TYPES else voxels.astype(np.float32)
    )
    world, affine = _world_of(layer), np.eye(4)
    for row, letter in zip(world, axes, strict=False):
        (axis,) = [number for number, letters in enumerate(_RAS) if letter in letters]
        affine[axis] = row if letter in "RAS" else -row
    digest = hashlib.blake2b(voxels, digest_size=8)
    digest.update(repr((voxels.shape, voxels.dtype.name, affine.tolist())).encode())
    plain = re.sub(r"[^A-Za-z0-9]+", "_", layer.name)[:40].strip("_") or "image"
    return SentImage(f"{plain}-{digest.hexdigest()}.nii.gz", voxels, affine)


def prompts_of(layer: Any, image: Any) -> Prompts:
    """The prompts of a points or shapes layer, in voxels of the layer `image`.

    Points become points, rectangles boxes, lines and paths scribbles.

    Raises:
        PromptError: the layer is empty, has not three axes, or has another kind of shape.
    """
    if layer.ndim != 3 or not len(layer.data):
        fault = "is empty" if layer.ndim == 3 else f"has {layer.ndim} axes; expected 3"
        raise PromptError(f"the layer {layer.name!r} {fault}: draw on a layer of the 3D image")
    to_voxels = np.linalg.inv(_world_of(image)) @ _world_of(layer)

    def moved(positions: Any) -> np.ndarray:
        positions = np.asarray(positions, float) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        return np.round(positions, _DECIMALS)

    if not hasattr(layer, "shape_type"):
        return Prompts(points=moved(layer.data).tolist())
    prompts = Prompts()
    for number, (kind, vertices) in enumerate(zip(layer.shape_type, layer.data, strict=True), 1):
        if kind == "rectangle":
            prompts.boxes.append(_box_around(moved(vertices)))
        elif kind in ("line", "path"):
            prompts.scribbles.append(moved(vertices).tolist())
        else:
            raise PromptError(
                f"shape {number} of the layer {layer.name!r} is of type {kind}; expected "
                "rectangle, line or path"
            )
    return prompts


def segment(
    client: Client,
    target: SentImage,
    marked: Sequence[tuple[SentImage, Prompts]],
    progress: Callable[[Mapping[str, Any]], None] = lambda job: None,
) -> np.ndarray:
    """The label map of a target, by prompts on context images, and on the target itself.

    Images are added to the folder of the service once. `progress` as `RemoteSession.segment`.

    Raises:
        ClientError: the service refuses an image or a prompt, or cannot segment.
    """
    present = {image.id for image in client.images()}
    images = {target.name: target} | {image.name: image for image, _ in marked}
    ids = {name: _added(client, image, present) for name, image in images.items()}
    session = client.new_session("napari")
    try:
        for name, id in ids.items():
            session.use(id, "target" if name == target.name else "context")
        for image, prompts in marked:
            _add_prompts(session, ids[image.name], prompts)
        session.segment([ids[target.name]], progress=progress)
        return session.label_map(ids[target.name]).copy()
    finally:
        session.delete()


def _added(client: Client, image: SentImage, present: set[str]) -> str:
    if image.name in present:
        return image.name
    import nibabel as nib  # slow to import, and not needed to show the widget

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / image.name
        nib.save(nib.Nifti1Image(image.voxels, image.affine), path)
        return client.add_image(path)


def _add_prompts(session: RemoteSession, id: str, prompts: Prompts) -> None:
    for point in prompts.points:
        session.add_point(id, point)
    for scribble in prompts.scribbles:
        session.add_scribble(id, scribble)
    for box in prompts.boxes:
        session.add_box(id, box)


def _box_around(corners: np.ndarray) -> list[list[int]]:
    """The smallest box of voxels around positions; at least one voxel along each axis."""
    start = np.floor(corners.min(axis=0) + 0.5).astype(int)
    stop = np.ceil(corners.max(axis=0) + 0.5).astype(int)
    return np.stack([start, np.maximum(stop, start + 1)], axis=1).tolist()


def _world_of(layer: Any) -> np.ndarray:
    """From positions of a layer to those of the viewer, (4, 4)."""
    origin = np.array(layer.data_to_world((0, 0, 0)), float)
    world = np.eye(4)
    world[:3, :3] = np.array([layer.data_to_world(axis) for axis in np.eye(3)]).T - origin[:, None]
    world[:3, 3] = origin
    return world
