import socket
import threading

import nibabel as nib
import numpy as np
import pytest
import uvicorn
from inference.conftest import model  # noqa: F401
from inference.volumes import VOLUME
from serve.steps import TOKEN
from starlette.testclient import TestClient

from wsicl_jax.config import ServeConfig
from wsicl_jax.serve.app import make_app
from wsicl_jax.serve.engine import KeepingSegmenter
from wsicl_jax.serve.service import Service

NAMES = ("a", "b", "c", "d")
SHAPE = (9, 7, 5)


@pytest.fixture(scope="session")
def network(model):  # noqa: F811
    """The tiny network of the inference tests, in the form that the service uses."""
    return KeepingSegmenter(model, VOLUME)


@pytest.fixture
def folder(tmp_path):
    """Four small images, with axes that are not those of RAS+; the second has a margin."""
    folder = tmp_path / "images of mine"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        image = np.random.default_rng(seed).gamma(2, 100, SHAPE).astype(np.float32)
        image[: 2 * (name == "b")] = 0
        nib.save(nib.Nifti1Image(image, np.diag([-1.5, -0.75, 3, 1])), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def start(folder, network):
    """Starts services on the folder, as a restart would; ends them after the test."""
    services = []

    def start(**settings) -> Service:
        service = Service(folder, "tiny", network, ServeConfig(**settings))
        services.append(service)
        return service

    yield start
    for service in services:
        service.stop()


@pytest.fixture
def client(start):
    """A browser on this machine."""
    return TestClient(make_app(start()), base_url="http://localhost:8000")


@pytest.fixture
def address(start):
    """A service with a token that listens on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(make_app(start(), TOKEN), log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
