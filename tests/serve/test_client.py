import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import nibabel as nib
import numpy as np
import pytest
from serve.steps import TOKEN, A, B, C

from wsicl_jax.client import Client, ClientError


def test_the_client_marks_segments_and_fetches_label_maps(address, folder, tmp_path):
    client = Client(address, TOKEN)
    assert [image.name for image in client.images()] == ["a", "b", "c", "d"]
    assert client.geometry(A).shape == (9, 7, 5)
    np.testing.assert_allclose(client.geometry(A).affine, nib.load(folder / A).affine)
    session = client.new_session("mine")
    session.set_structures({"one": 1, "two": 2})
    for image in (A, B):
        session.use(image, "context")
    session.use(C, "target")
    session.add_point(A, np.array([4, 3, 2.5]))
    session.add_box(B, [(1, 5), (1, 6), (3, 4)])
    wrong = session.add_scribble(B, [(1, 1, 1), (2, 2, 2)], structure=2, inside=False)
    session.remove_prompt(B, wrong)
    states = []
    results = session.segment(doubt=True, progress=states.append)
    assert states
    assert 0 <= results[C]["doubt"] <= 1
    session.write_label_map(C, tmp_path / "c_mask.nii.gz")
    written = np.asarray(nib.load(tmp_path / "c_mask.nii.gz").dataobj)
    np.testing.assert_array_equal(session.label_map(C), written)
    assert session.task()["structures"] == {"one": 1}
    assert client.session(session.id).state()["name"] == "mine"
    assert "task.json" in session.save()["files"]
    session.delete()
    with pytest.raises(ClientError, match="there is no session"):
        client.session(session.id)


def test_a_copied_file_is_an_image_of_the_service(address, folder, tmp_path):
    (tmp_path / "new.nii.gz").write_bytes((folder / A).read_bytes())
    client = Client(address, TOKEN)
    identifier = client.add_image(tmp_path / "new.nii.gz")
    assert identifier in [image.id for image in client.images()]


def test_refusals_give_the_reason_of_the_service(address):
    with pytest.raises(ClientError, match="token is missing or wrong"):
        Client(address, "wrong")
    session = Client(address, TOKEN).new_session()
    with pytest.raises(ClientError, match="outside the image"):
        session.add_point(A, (100, 0, 0))
    session.use(C, "target")
    with pytest.raises(ClientError, match="no prompt marks a structure"):
        session.segment()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"name": "wsicl_jax", "api": 2, "version": "9.0"}, "wsicl_jax 9.0, with version 2"),
        ({"name": "another"}, "is no wsicl service"),
        ("text", "is no wsicl service"),
    ],
)
def test_a_service_of_another_version_is_refused_with_what_to_do(answer, reason):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            content = answer if isinstance(answer, str) else json.dumps(answer)
            self.wfile.write(content.encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.handle_request).start()
        with pytest.raises(ClientError, match=reason):
            Client(f"http://127.0.0.1:{server.server_port}")


def test_no_answer_is_an_error_that_says_so():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ClientError, match="does not answer"):
        Client(f"http://127.0.0.1:{port}")


def test_the_client_needs_neither_jax_nor_the_service():
    code = "import sys, wsicl_jax.client; print(*(m.partition('.')[0] for m in sys.modules))"
    command = [sys.executable, "-c", code]
    modules = set(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    )
    assert not modules & {"jax", "flax", "scipy", "nibabel", "pydantic", "starlette", "uvicorn"}
