"""The service as a process of its own, with the network that ships."""

import signal
import subprocess
import sys
import urllib.request

import pytest
from serve.browser import serving

from wsicl_jax.client import Client, ClientError

pytestmark = pytest.mark.slow

A = "a.nii.gz"


def test_a_killed_service_loses_no_prompt(folder):
    points = [[x, 3, 2] for x in range(9)]
    with serving(folder, end=signal.SIGKILL) as address:
        session = Client(address).new_session("mine")
        for point in points:
            session.add_point(A, point)
    with serving(folder) as address:
        again = Client(address).session(session.id)
        assert [prompt["point"] for prompt in again.state()["images"][A]["prompts"]] == points


def test_with_a_host_a_token_is_printed_once_and_required(folder):
    with serving(folder, "--host", "127.0.0.1") as address:
        place, _, token = address.partition("/?token=")
        assert len(token) > 20
        with pytest.raises(ClientError, match="token"):
            Client(place)
        assert Client(place, token).info["network"] == "small"
        # A browser is sent on to an address without it.
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(address) as answer:
            assert answer.url == f"{place}/"
            assert b"<title>wsicl</title>" in answer.read()


def test_a_folder_is_served_by_one_process_at_a_time(folder):
    command = [sys.executable, "-m", "wsicl_jax", "serve", "--no-browser", "--port", "0"]
    with serving(folder):
        second = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert second.returncode == 2
    assert "in use by another process" in second.stderr
    assert "Traceback" not in second.stderr
