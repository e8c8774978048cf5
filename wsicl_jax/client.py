"""A client of `wsicl serve` in one file, without JAX: a laptop uses the network of a server.

    client = Client("http://gpu-server:8000", token="...")
    session = client.new_session("livers")
    session.use("sub1.nii.gz", "context")
    session.add_box("sub1.nii.gz", [[9, 22], [29, 30], [10, 18]])
    session.use("sub2.nii.gz", "target")
    session.segment()
    session.write_label_map("sub2.nii.gz", "sub2_mask.nii.gz")

Images are named by the identifiers of `images`, and structures by their values in label maps.
"""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from wsicl_jax.errors import WsiclError

API = 1
"""Version of the service's addresses that this client knows."""

_POLL_SECONDS = (0.02, 0.5)
"""Shortest and longest time between two questions for a job's state."""

Role = Literal["unused", "context", "target"]
Position = Sequence[float | int] | np.ndarray


class ClientError(WsiclError):
    """The service refused a request, does not answer, or has another version."""


class ImageInfo(NamedTuple):
    """An image of the folder."""

    id: str
    name: str
    """For people."""


class Geometry(NamedTuple):
    """The grid of an image."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    """From voxels to RAS+ mm, (4, 4)."""


class Client:
    """A connection to a service."""

    def __init__(
        self,
        address: str = "http://localhost:8000",
        token: str | None = None,
        timeout_seconds: float = 60,
    ):
        """Raises `ClientError` if no service of a known version answers there."""
        self._address, self._token = address.rstrip("/"), token
        self._timeout = timeout_seconds
        self.info: dict[str, Any] = self.call("GET", "/api")
        """Version, network and folder of the service."""
        if self.info.get("name") != "wsicl_jax":
            raise ClientError(f"{address} is no wsicl service")
        if self.info.get("api") != API:
            raise ClientError(
                f"the service at {address} is wsicl_jax {self.info.get('version')}, with version "
                f"{self.info.get('api')} of its addresses; this client knows version {API}: "
                "install the same wsicl_jax on both machines"
            )

    def images(self) -> list[ImageInfo]:
        """The images of the folder."""
        return [ImageInfo(i["id"], i["name"]) for i in self.call("GET", "/api/images")["images"]]

    def add_image(self, path: str | Path) -> str:
        """Copy a file into the folder; returns its identifier."""
        path = Path(path)
        query = urllib.parse.urlencode({"name": path.name})
        with path.open("rb") as file:
            headers = {"Content-Length": str(path.stat().st_size)}
            answer = self._send("POST", f"/api/images?{query}", file, headers)
        return json.loads(answer[0])["id"]

    def geometry(self, image: str) -> Geometry:
        """The grid of an image."""
        content = self.call("GET", f"/api/images/{_quoted(image)}")
        x, y, z = content["shape"]
        return Geometry((x, y, z), np.array(content["affine"]))

    def new_session(self, name: str = "Untitled") -> "RemoteSession":
        """A session of one's own."""
        return RemoteSession(self, self.call("POST", "/api/sessions", {"name": name})["id"])

    def session(self, id: str) -> "RemoteSession":
        """A session that exists, such as one of the page."""
        session = RemoteSession(self, id)
        session.state()
        return session

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What an address answers in JSON; raises `ClientError` with the service's reason."""
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            return json.loads(self._send(method, path, content, headers)[0])
        except ValueError as error:
            raise ClientError(f"{self._address} is no wsicl service: {error}") from None

    def voxels(self, path: str, shape: tuple[int, int, int]) -> np.ndarray:
        """The volume at an address."""
        content, headers = self._send("GET", path, None, {})
        voxels = np.frombuffer(content, np.dtype(headers["x-voxel-type"]).newbyteorder("<"))
        return voxels.reshape(shape, order="F")

    def _send(
        self, method: str, path: str, content: Any, headers: dict[str, str]
    ) -> tuple[bytes, Message]:
        if self._token is not None:
            headers = {**headers, "Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(self._address + path, content, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                return answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            raise ClientError(_reason(error)) from None
        except OSError as error:
            problem = getattr(error, "reason", error)
            raise ClientError(f"{self._address} does not answer: {problem}") from error


class RemoteSession:
    """A session on a service."""

    def __init__(self, client: Client, id: str):
        self._client, self.id = client, id
        self._path = f"/api/sessions/{_quoted(id)}"

    def state(self) -> dict[str, Any]:
        """Structures, and the role, prompts and result of each image."""
        return self._client.call("GET", self._path)

    def set_structures(self, names: Mapping[str, int]) -> None:
        """Name the structures, each with its value in label maps."""
        colours = ("#e4572e", "#2e86ab", "#3da35d", "#c77dff", "#f2b134", "#00b8a9")
        structures = [
            {"name": name, "value": value, "colour": colours[number % len(colours)]}
            for number, (name, value) in enumerate(names.items())
        ]
        self._client.call("PUT", f"{self._path}/structures", {"structures": structures})

    def use(self, image: str, role: Role) -> None:
        """Use an image as a context image, a target, or not."""
        self._client.call("PUT", f"{self._of(image)}/role", {"role": role})

    def add_point(
        self, image: str, position: Position, *, structure: int = 1, inside: bool = True
    ) -> int:
        """Mark a position (in voxels) inside or outside a structure; returns its number."""
        return self._add(image, structure, point=_plain(position), inside=inside)

    def add_scribble(
        self,
        image: str,
        path: Sequence[Position] | np.ndarray,
        *,
        structure: int = 1,
        inside: bool = True,
    ) -> int:
        """Mark a line (in voxels) inside or outside a structure; returns its number."""
        return self._add(image, structure, scribble=_plain(path), inside=inside)

    def add_box(
        self, image: str, ranges: Sequence[Sequence[int]] | np.ndarray, *, structure: int = 1
    ) -> int:
        """Mark a structure by three half-open ranges of voxels; returns the prompt's number."""
        return self._add(image, structure, box=_plain(ranges))

    def remove_prompt(self, image: str, number: int) -> None:
        """Remove a prompt."""
        self._client.call("DELETE", f"{self._of(image)}/prompts/{number}")

    def segment(
        self,
        images: Sequence[str] | None = None,
        *,
        doubt: bool = False,
        progress: Callable[[Mapping[str, Any]], None] = lambda job: None,
    ) -> dict[str, Any]:
        """Segment images (default: all targets), and wait; returns the result of each.

        `progress` gets the state of the job again and again. An interruption cancels the job.

        Raises:
            ClientError: an image could not be segmented, or somebody cancelled the job.
        """
        body = {"doubt": doubt, "images": None if images is None else list(images)}
        job = self._client.call("POST", f"{self._path}/jobs", body)
        path = f"{self._path}/jobs/{job['id']}"
        pause, longest = _POLL_SECONDS
        try:
            while job["state"] not in ("done", "cancelled"):
                progress(job)
                time.sleep(pause)
                pause = min(1.3 * pause, longest)
                job = self._client.call("GET", path)
        except BaseException:
            self._client.call("DELETE", path)
            raise
        if job["failed"]:
            raise ClientError("; ".join(f"{image}: {why}" for image, why in job["failed"].items()))
        if job["state"] == "cancelled":
            raise ClientError("the job was cancelled")
        state = self.state()["images"]
        return {image: state[image]["result"] for image in job["finished"]}

    def label_map(self, image: str) -> np.ndarray:
        """The label map of a target, on the grid of its image."""
        shape = self._client.geometry(image).shape
        return self._client.voxels(f"{self._of(image)}/result/voxels", shape)

    def write_label_map(self, image: str, path: str | Path) -> None:
        """Write the label map of a target as NIfTI (.nii.gz)."""
        content, _ = self._client._send("GET", f"{self._of(image)}/result", None, {})
        Path(path).write_bytes(content)

    def use_as_example(self, image: str) -> None:
        """Make a target with its result a context image with a mask."""
        self._client.call("POST", f"{self._of(image)}/example")

    def task(self) -> dict[str, Any]:
        """The context JSON of the task; its paths begin in the served folder."""
        return self._client.call("GET", f"{self._path}/task")

    def save(self) -> dict[str, Any]:
        """Write label maps and task into the served folder; returns the names of the files."""
        return self._client.call("POST", f"{self._path}/save", {})

    def delete(self) -> None:
        """Delete the session with its results."""
        self._client.call("DELETE", self._path)

    def _add(self, image: str, structure: int, **prompt: Any) -> int:
        body = {"structure": structure, **prompt}
        return self._client.call("POST", f"{self._of(image)}/prompts", body)["number"]

    def _of(self, image: str) -> str:
        return f"{self._path}/images/{_quoted(image)}"


def _quoted(part: str) -> str:
    return urllib.parse.quote(part, safe="")


def _plain(values: Any) -> Any:
    """Nested sequences, arrays too, as lists of Python's numbers."""
    return np.asarray(values).tolist()


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return json.loads(error.read())["error"]
    except (ValueError, KeyError, TypeError):
        return f"the service answered {error.code} {error.reason}"
