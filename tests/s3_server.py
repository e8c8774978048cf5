"""A server that speaks S3, for the stores of object stores."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest


@pytest.fixture(scope="session")
def s3_server():
    """The address of a server of its own process; skipped where moto is not installed."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        pytest.skip("no S3 server: pip install 'moto[server]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # Else it may be asked for by the proxy, and look for credentials on the machine.
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5)
                break
            except OSError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def new_bucket(server: str, monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """The URL of a new bucket; the environment leads there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    request = urllib.request.Request(f"{server}/{name}", method="PUT")
    request.add_header(
        "Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"
    )
    urllib.request.urlopen(request, timeout=10)
    return f"s3://{name}"


@pytest.fixture
def s3(s3_server, monkeypatch, tmp_path_factory):
    """A URL below a bucket of its own; the environment leads there."""
    bucket = tmp_path_factory.mktemp("bucket").name
    return f"{new_bucket(s3_server, monkeypatch, bucket)}/stores"
