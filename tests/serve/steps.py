"""What tests of the service do again and again, through its addresses."""

import time

TOKEN = "a token"
"""Of a service that listens."""

A, B, C, D = (f"{name}.nii.gz" for name in "abcd")


def new_session(client, name="mine"):
    """The address of a new session."""
    answer = client.post("/api/sessions", json={"name": name})
    assert answer.status_code == 201
    return f"/api/sessions/{answer.json()['id']}"


def mark(client, session, image, **prompt):
    answer = client.post(f"{session}/images/{image}/prompts", json={"structure": 1, **prompt})
    assert answer.status_code == 201, answer.text
    return answer.json()


def use(client, session, image, role):
    assert client.put(f"{session}/images/{image}/role", json={"role": role}).is_success


def prepared(client):
    """A session with two context images and two targets."""
    session = new_session(client)
    for image in (A, B):
        use(client, session, image, "context")
    for image in (C, D):
        use(client, session, image, "target")
    mark(client, session, A, point=[4, 3, 2])
    mark(client, session, B, box=[[1, 5], [1, 6], [3, 4]])
    return session


def segmented(client, session, **request):
    """The state of a job at its end."""
    answer = client.post(f"{session}/jobs", json=request)
    assert answer.status_code == 202, answer.text
    return ended(client, f"{session}/jobs/{answer.json()['id']}")


def ended(client, job):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = client.get(job).json()
        if state["state"] in ("done", "cancelled"):
            return state
        time.sleep(0.01)
    raise AssertionError("the job did not end")
