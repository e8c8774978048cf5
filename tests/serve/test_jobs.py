import threading

import pytest
from serve.steps import A, C, D, ended, mark, new_session, prepared, segmented, use
from starlette.testclient import TestClient

from wsicl_jax.serve import jobs
from wsicl_jax.serve.app import make_app


class Held:
    """A service whose network waits until it is released, and that records what it segments."""

    def __init__(self, service):
        self.service, self.order = service, []
        self.released, self.begun = threading.Event(), threading.Event()
        self.client = TestClient(make_app(service), base_url="http://localhost")
        self._segment = service.engine.segment
        service.engine.segment = self.segment

    def segment(self, session, image, *, doubt, interrupt):
        self.order.append((session.state.name, image))
        self.begun.set()
        assert self.released.wait(60)
        return self._segment(session, image, doubt=doubt, interrupt=interrupt)

    def begin(self, session, **request):
        """The address of a new job."""
        answer = self.client.post(f"{session}/jobs", json=request)
        assert answer.status_code == 202
        return f"{session}/jobs/{answer.json()['id']}"


@pytest.fixture
def held(start):
    held = Held(start())
    yield held
    held.released.set()


def test_one_target_waits_for_at_most_one_target_of_another_job(held):
    many, one = prepared(held.client), prepared(held.client)
    for session, name in ((many, "many"), (one, "one")):
        held.client.patch(session, json={"name": name})
    first = held.begin(many)
    held.begun.wait(60)
    second = held.begin(one, images=[D])
    held.released.set()
    for job in (first, second):
        assert ended(held.client, job)["state"] == "done"
    assert held.order == [("many", C), ("one", D), ("many", D)]


def test_a_session_names_its_jobs_until_they_end(held):
    session, other = prepared(held.client), new_session(held.client)
    job = held.begin(session)
    jobs = held.client.get(session).json()["jobs"]
    assert [one["id"] for one in jobs] == [job.rpartition("/")[2]]
    assert held.client.get(other).json()["jobs"] == []
    held.released.set()
    ended(held.client, job)
    assert held.client.get(session).json()["jobs"] == []


def test_a_cancelled_job_stops_at_the_networks_next_use_and_keeps_no_result(held):
    session = prepared(held.client)
    running = held.begin(session)
    held.begun.wait(60)
    waiting = held.begin(session, images=[D])
    assert held.client.delete(waiting).json()["state"] == "cancelled"
    assert held.client.delete(running).is_success
    held.released.set()
    assert ended(held.client, running)["state"] == "cancelled"
    assert held.order == [(held.order[0][0], C)]
    images = held.client.get(session).json()["images"]
    assert images[C]["result"] is images[D]["result"] is None
    assert segmented(held.client, session)["finished"] == [C, D]


def test_a_prompt_that_comes_while_its_target_is_segmented_leaves_the_result_outdated(start):
    service = start()
    client = TestClient(make_app(service), base_url="http://localhost")
    session = prepared(client)
    state = service.sessions[session.rpartition("/")[2]]
    whole = service.engine.network.predict

    def predict(*inputs):
        if not state.state.images[D].prompts:
            mark(client, session, D, point=[5, 3, 2])
        return whole(*inputs)

    service.engine.network.predict = predict
    try:
        segmented(client, session, images=[D])
        assert client.get(session).json()["images"][D]["result"]["outdated"]
        segmented(client, session, images=[D])
        assert not client.get(session).json()["images"][D]["result"]["outdated"]
    finally:
        del service.engine.network.predict


def test_a_session_that_is_deleted_in_the_middle_leaves_no_file(held, folder):
    session = prepared(held.client)
    held.begin(session)
    held.begun.wait(60)
    assert held.client.delete(session).is_success
    held.released.set()
    held.service.stop()
    assert not list((folder / ".wsicl").rglob("*.nii.gz"))
    assert held.client.get(session).status_code == 404


def test_a_target_that_fails_does_not_end_the_job(start, folder):
    client = TestClient(make_app(start()), base_url="http://localhost")
    session = prepared(client)
    (folder / C).write_bytes(b"no image any more")
    job = segmented(client, session)
    assert job["state"] == "done"
    assert job["finished"] == [D]
    assert C in job["failed"][C]


def test_a_defect_in_one_target_does_not_end_the_worker(start, monkeypatch, capsys):
    service = start()
    client = TestClient(make_app(service), base_url="http://localhost")
    session = prepared(client)
    whole = service.engine.segment

    def segment(session, image, **settings):
        if image == C:
            raise ZeroDivisionError
        return whole(session, image, **settings)

    monkeypatch.setattr(service.engine, "segment", segment)
    job = segmented(client, session)
    assert job["failed"] == {C: "internal error: ZeroDivisionError"}
    assert job["finished"] == [D]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_too_many_waiting_jobs_are_refused(held, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_WAITING", 2)
    session = prepared(held.client)
    held.begin(session)
    held.begun.wait(60)
    held.begin(session)
    held.begin(session)
    answer = held.client.post(f"{session}/jobs", json={})
    assert answer.status_code == 429
    assert "try again later" in answer.json()["error"]


def test_only_targets_are_segmented(client):
    session = prepared(client)
    answer = client.post(f"{session}/jobs", json={"images": [A]})
    assert answer.status_code == 422
    assert "is no target" in answer.json()["error"]
    use(client, session, C, "unused")
    use(client, session, D, "unused")
    assert client.post(f"{session}/jobs", json={}).status_code == 422
