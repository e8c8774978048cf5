import json
import random
import threading

import pytest
from serve.steps import A, C, D, ended, new_session, prepared, segmented
from starlette.testclient import TestClient

from wsicl_jax.serve.app import make_app
from wsicl_jax.serve.operations import OPERATIONS

TOKEN = "a token of some length"


def content_of(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_answers_forbid_a_browser_all_but_the_services_own_content(client):
    for path in ("/", "/page/main.js", "/api", "/api/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_pages_are_refused(client, method):
    answer = client.request(method, "/api/sessions", headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    own = client.get("/api/sessions", headers={"origin": "http://localhost:8000"})
    assert own.is_success


def test_only_names_of_this_machine_are_answered_without_a_token(client):
    for host in ("evil.example", "localhost.evil.example:8000", "", "10.0.0.1:8000"):
        assert client.get("/api", headers={"host": host}).status_code == 400
    for host in ("127.0.0.1:8000", "[::1]:8000", "localhost"):
        assert client.get("/api", headers={"host": host}).is_success


def test_with_a_token_every_request_needs_it(start):
    app = make_app(start(), TOKEN)
    client = TestClient(app, base_url="http://gpu:8000", follow_redirects=False)
    for path in (
        "/",
        "/api",
        "/page/main.js",
        "/docs",
        "/openapi.json",
        "/?token=a",
        "/api?token=",
    ):
        assert client.get(path).status_code == 401
    for given in (TOKEN[:-1], TOKEN + "x", "", "é"):
        header = f"Bearer {given}".encode()
        assert client.get("/api", headers={"authorization": header}).status_code == 401
    assert client.get("/api", headers={"authorization": f"Bearer {TOKEN}"}).is_success
    # A browser opens the address that was printed, and goes on with a cookie.
    answer = client.get("/", params={"token": TOKEN})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert client.get("/").is_success


def test_tokens_are_compared_in_constant_time(start, monkeypatch):
    compared = []

    def compare(given, expected):
        compared.append((given, expected))
        return given == expected

    monkeypatch.setattr("wsicl_jax.serve.security.hmac.compare_digest", compare)
    client = TestClient(make_app(start(), TOKEN), base_url="http://gpu")
    client.get("/api", headers={"authorization": "Bearer wrong"})
    assert compared == [(b"wrong", TOKEN.encode())]


def test_files_that_are_added_are_limited_in_size_and_number(folder, start):
    service = start(max_upload_mb=0.001, max_uploads=2)
    client = TestClient(make_app(service), base_url="http://localhost")
    before = content_of(folder)
    assert client.post("/api/images?name=e.nii.gz", content=b"x" * 2000).status_code == 413
    answer = client.post("/api/images?name=e.nii.gz", content=b"x" * 900)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("e.nii.gz")
    assert client.post("/api/images?name=e.nii.gz", content=b"x").status_code == 429
    assert content_of(folder) == before


@pytest.mark.parametrize(
    "name", ["", "a", "a.exe", ".nii.gz", "../e.nii.gz", "/tmp/e.nii.gz", "a/b.nii.gz", "\0.nii"]
)
def test_names_of_added_files_never_leave_the_folder(client, folder, name):
    content = (folder / A).read_bytes()
    before = set(folder.parent.rglob("*"))
    answer = client.post("/api/images", params={"name": name}, content=content)
    new = [file for file in set(folder.parent.rglob("*")) - before if file.is_file()]
    assert answer.status_code in (201, 422)
    assert all(file.parent == folder for file in new)
    assert len(new) == (answer.status_code == 201)


PATHS = [
    "..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "a" * 5000, "a.nii.gz%2f..", "~", "C:", "%ff",
    "%2fetc%2fpasswd", "..%5c..", "a.nii.gz", "0", "-1", "1e9", "<script>", "%F0%9F%92%A5", "null",
]  # fmt: skip
VALUES = [
    None, True, -1, 0, 1, 1e308, 2**70, "", "x" * 1000, "../..", [], [[]], {}, [1, 2], [1e9] * 3,
    [None] * 3, ["1", "2", "3"], {"a": {"a": {}}}, [[0, 1]] * 3, [[3, 1]] * 3, [[0, 10**9]] * 3,
    "\ud800", [[0.5, 1]] * 3, float("nan"), float("inf"), [[1, 1, 1]] * 3, "{{7*7}}", "\0",
]  # fmt: skip
KEYS = [
    "structure", "point", "box", "scribble", "role", "name", "images", "doubt", "format",
    "structures", "__class__", "number",
]  # fmt: skip
BODIES = [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"a":' * 5000, b"[" * 100_000, b"\x80\x04K\x01.",
    b'{"name": 1e999}', b"!!python/object:os.system", b"\0",
]  # fmt: skip


def malformed(rng, session):
    """A random request that no client would send: method, address and arguments."""
    operation = rng.choice(OPERATIONS)
    known = {"{session}": session.rpartition("/")[2], "{image}": A, "{number:int}": "1"}
    path = operation.path
    for part, right in {**known, "{job}": "0" * 16}.items():
        path = path.replace(part, right if rng.random() < 0.6 else rng.choice(PATHS))
    media = rng.choice(["application/json"] * 6 + ["text/plain", "", "application/x-pickle"])
    if rng.random() < 0.3:
        content = rng.choice(BODIES)
    else:
        body = {rng.choice(KEYS): rng.choice(VALUES) for _ in range(rng.randint(0, 4))}
        content = json.dumps(body).encode()
    method = rng.choice([operation.method] * 4 + ["PUT", "TRACE", "BREW"])
    return method, path, {"content": content, "headers": {"content-type": media}}


def changes(method, answer):
    """Whether a request was, by chance, right and changed something."""
    return answer.is_success and method not in ("GET", "HEAD")


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_malformed_requests_are_refused_and_change_nothing(start, folder, count):
    client = TestClient(
        make_app(start()), base_url="http://localhost", raise_server_exceptions=False
    )
    session = prepared(client)
    client.get(f"/api/images/{A}/thumbnail")
    rng = random.Random(0)
    before, state = content_of(folder), client.get(session).json()
    refused = 0
    for _ in range(count):
        method, path, arguments = malformed(rng, session)
        answer = client.request(method, path, **arguments)
        assert answer.status_code < 500, (method, path, arguments, answer.text)
        if changes(method, answer):
            # Such as a job with an empty body; what it changed is the new state.
            if path.endswith("/jobs"):
                ended(client, f"{path}/{answer.json()['id']}")
            if session.rpartition("/")[2] not in client.get("/api/sessions").text:
                session = prepared(client)
            before, state = content_of(folder), client.get(session).json()
        else:
            refused += not answer.is_success
            assert client.get(session).json() == state, (method, path, arguments)
    assert refused > 0.7 * count
    changed = {file for file, content in content_of(folder).items() if before.get(file) != content}
    assert not [file for file in changed if file.suffix == ".json"]


def test_a_wrong_token_changes_nothing(start, folder):
    service = start()
    session = prepared(TestClient(make_app(service), base_url="http://localhost"))
    outside = TestClient(make_app(service, TOKEN), base_url="http://gpu")
    before = content_of(folder)
    for operation in OPERATIONS:
        path = operation.path.replace("{session}", session.rpartition("/")[2])
        path = path.replace("{image}", A).replace("{number:int}", "1").replace("{job}", "0")
        answer = outside.request(operation.method, path, json={"name": "x"})
        assert answer.status_code == 401
    assert content_of(folder) == before


def test_ten_clients_at_once_each_get_their_own_results(start):
    app = make_app(start())
    results, problems = {}, []

    def work(number):
        try:
            client = TestClient(app, base_url="http://localhost")
            session = prepared(client)
            point = [number % 9, number % 7, number % 5]
            answer = client.post(
                f"{session}/images/{C}/prompts", json={"structure": 1, "point": point}
            )
            assert answer.is_success
            assert set(segmented(client, session)["finished"]) == {C, D}
            voxels = client.get(f"{session}/images/{C}/result/voxels").content
            (own,) = client.get(session).json()["images"][C]["prompts"]
            results[number] = own["point"], voxels, session
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    client = TestClient(app, base_url="http://localhost")
    for number, (point, voxels, session) in results.items():
        assert point == [number % 9, number % 7, number % 5]
        # Alone, the same prompts give the same label map.
        segmented(client, session, images=[C])
        assert client.get(f"{session}/images/{C}/result/voxels").content == voxels
    assert len({voxels for _, voxels, _ in results.values()}) > 1


def test_the_jobs_of_a_session_are_not_those_of_another(client):
    session, other = prepared(client), new_session(client)
    job = client.post(f"{session}/jobs", json={}).json()["id"]
    assert client.get(f"{other}/jobs/{job}").status_code == 404
    assert client.delete(f"{other}/jobs/{job}").status_code == 404
