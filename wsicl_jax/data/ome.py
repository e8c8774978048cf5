"""The metadata of OME-Zarr 0.5 (ngff.openmicroscopy.org/0.5), so that other tools open a case."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from wsicl_jax.geometry.axes import spacing_of

_VERSION = "0.5"
_SPACE = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "xyz"]


def group(attributes: Mapping[str, Any]) -> bytes:
    """`zarr.json` of a Zarr v3 group with these attributes."""
    content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return (json.dumps(content, indent=1) + "\n").encode()


def image(name: str, affine: Float[np.ndarray, "4 4"]) -> dict[str, Any]:
    """`ome` of an image (channel, x, y, z) whose array is `0`."""
    axes = [{"name": "c", "type": "channel"}, *_SPACE]
    return {"version": _VERSION, "multiscales": _multiscales(name, axes, affine)}


def labels(names: Sequence[str]) -> dict[str, Any]:
    """`ome` of the group of an image's label maps."""
    return {"version": _VERSION, "labels": list(names)}


def label_map(
    name: str, affine: Float[np.ndarray, "4 4"], label_names: Mapping[int, str]
) -> dict[str, Any]:
    """`ome` of a label map (x, y, z) whose array is `0`, two groups below its image."""
    properties = [{"label-value": value, "name": label_names[value]} for value in label_names]
    return {
        "version": _VERSION,
        "multiscales": _multiscales(name, _SPACE, affine),
        "image-label": {"properties": properties, "source": {"image": "../../"}},
    }


def _multiscales(name: str, axes: Sequence[Mapping[str, str]], affine: np.ndarray) -> list:
    channel = [1.0] * (len(axes) - 3)
    scale: dict[str, Any] = {"type": "scale", "scale": [*channel, *spacing_of(affine)]}
    transforms = [scale]
    # OME-Zarr 0.5 has no mirrored or rotated axes, so their origin cannot be written.
    if np.allclose(affine[:3, :3], np.diag(spacing_of(affine))):
        origin = [0.0] * len(channel) + affine[:3, 3].tolist()
        transforms.append({"type": "translation", "translation": origin})
    datasets = [{"path": "0", "coordinateTransformations": transforms}]
    return [{"name": name, "axes": list(axes), "datasets": datasets}]
