"""What the service does for each request, without HTTP."""

import threading
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation

from wsicl_jax import __version__
from wsicl_jax.config import InferenceConfig, ServeConfig
from wsicl_jax.errors import DataError
from wsicl_jax.inference.result import Segmentation
from wsicl_jax.serve.documents import Image, SaveRequest, SegmentRequest
from wsicl_jax.serve.engine import Engine, KeepingSegmenter
from wsicl_jax.serve.folder import Folder, ImageFile
from wsicl_jax.serve.jobs import Job, Queue
from wsicl_jax.serve.kept_images import KeptImages, for_display
from wsicl_jax.serve.pictures import picture
from wsicl_jax.serve.saving import save
from wsicl_jax.serve.session import MissingError, Session, Sessions
from wsicl_jax.serve.task_file import task_document
from wsicl_jax.storage.atomic import appearing

API = 1
"""Version of the addresses and documents; clients refuse another one."""


class Voxels(NamedTuple):
    """Voxels for a client, the first axis fastest, little-endian."""

    content: bytes
    kind: str
    """NumPy's name of the type."""


class Service:
    """Sessions on the images of a folder, and the network that segments them."""

    def __init__(
        self, folder: Path, network: str, segmenter: KeepingSegmenter, config: ServeConfig
    ):
        self.network = network
        self.reading: InferenceConfig = segmenter.config
        self.folder = Folder(
            folder, max_upload_mb=config.max_upload_mb, max_uploads=config.max_uploads
        )
        self.images = KeptImages(segmenter.volume, segmenter.config, config.cache_gb)
        self.sessions = Sessions(self.folder.state, network)
        self.engine = Engine(segmenter, self.folder, self.images)
        self.queue = Queue(self.engine, self._write_result)
        self._pictures = threading.Lock()

    def stop(self) -> None:
        """End the worker."""
        self.queue.stop()

    def handshake(self) -> dict[str, Any]:
        """What a client checks first."""
        return {
            "name": "wsicl_jax",
            "api": API,
            "version": __version__,
            "network": self.network,
            "folder": self.folder.root.name,
        }

    def listed_images(self) -> dict[str, Any]:
        """The images of the folder, and files that are none."""
        images = [{"id": image.id, "name": image.name} for image in self.folder.images.values()]
        return {"images": images, "problems": [*self.folder.problems, *self.sessions.problems]}

    def geometry(self, id: str) -> dict[str, Any]:
        """Shape and orientation of an image, and the range of its values."""
        volume = self.images.volume(self.image(id))
        orientation = io_orientation(volume.affine).astype(int)
        low, high = float(volume.image.min()), float(volume.image.max())
        window = np.percentile(volume.image[::2, ::2, ::2], (1, 99)).tolist()
        return {
            "shape": list(volume.image.shape),
            "affine": volume.affine.tolist(),
            "spacing_mm": list(volume.spacing_mm),
            # For each voxel axis: the RAS+ axis that it runs along, and its direction.
            "axes": orientation[:, 0].tolist(),
            "directions": orientation[:, 1].tolist(),
            "range": [low, high],
            "window": window if window[0] < window[1] else [low, high],
        }

    def voxels(self, id: str) -> Voxels:
        """The voxels of an image: 0 is its smallest value, 65535 its largest."""
        return _voxels(for_display(self.images.volume(self.image(id))))

    def thumbnail(self, id: str) -> bytes:
        """A small picture of the middle axial slice, as PNG; written once for each file."""
        image = self.image(id)
        file = self.folder.state / "pictures" / f"{id}.{image.state[2]}.png"
        with self._pictures:  # one at a time, so that other requests are not slowed down
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                with appearing(file) as temporary:
                    temporary.write_bytes(picture(self.images.glance(image)))
            return file.read_bytes()

    def segment(self, session: Session, request: SegmentRequest) -> Job:
        """Queue a request for segmentation.

        Raises:
            MissingError: an image is not in the folder.
            DataError: an image is no target, or there is none.
        """
        images = session.state.images
        targets = request.images
        if targets is None:
            targets = [id for id in self.folder.images if images.get(id, Image()).role == "target"]
        if not targets:
            raise DataError("there is no target; mark an image as a target")
        for id in targets:
            self.image(id)
            if images.get(id, Image()).role != "target":
                raise DataError(f"{id} is no target; mark it as one")
        return self.queue.add(session, list(dict.fromkeys(targets)), doubt=request.doubt)

    def result_file(self, session: Session, id: str) -> Path:
        """The label map of a target; raises `MissingError` if there is none."""
        file = session.result_file(id)
        if session.state.images.get(id, Image()).result is None or not file.exists():
            raise MissingError(f"{id[:100]} has no result")
        return file

    def result_voxels(self, session: Session, id: str) -> Voxels:
        """The label map of a target, on the grid of its image."""
        return _voxels(_labels(self.result_file(session, id)))

    def accepted_voxels(self, session: Session, id: str) -> Voxels:
        """The accepted mask of an image; raises `MissingError` if there is none."""
        file = session.accepted_file(id)
        if not session.state.images.get(id, Image()).accepted or not file.exists():
            raise MissingError(f"{id[:100]} has no accepted mask")
        return _voxels(_labels(file))

    def task(self, session: Session) -> dict[str, Any]:
        """The task, for a file in the folder itself."""
        return task_document(
            session.state, self.folder, self.network, self.folder.root, session.accepted_file
        )

    def save(self, session: Session, request: SaveRequest) -> dict[str, Any]:
        """Write label maps, task and session into the folder; raises as `saving.save`."""
        return save(session, self.folder, self.network, request.format)

    def image(self, id: str) -> ImageFile:
        """An image of the folder; raises `MissingError` if there is none."""
        try:
            return self.folder[id]
        except KeyError:
            raise MissingError(f"there is no image {id[:100]!r} in the folder") from None

    def _write_result(self, id: str, found: Segmentation, path: Path) -> None:
        found.save(path, self.folder[id].files)


def _labels(file: Path) -> np.ndarray:
    return np.asarray(nib.load(file).dataobj)


def _voxels(voxels: np.ndarray) -> Voxels:
    kind = voxels.dtype.newbyteorder("<")
    return Voxels(voxels.astype(kind, copy=False).tobytes(order="F"), kind.name)
