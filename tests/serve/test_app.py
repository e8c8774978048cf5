import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from serve.steps import A, B, C, D, mark, new_session, prepared, segmented
from starlette.testclient import TestClient

from wsicl_jax.serve.app import make_app


def test_images_of_the_folder_are_listed_with_their_geometry_and_voxels(client, folder):
    assert [image["id"] for image in client.get("/api/images").json()["images"]] == [A, B, C, D]
    geometry = client.get(f"/api/images/{A}").json()
    assert geometry["shape"] == [9, 7, 5]
    assert geometry["axes"] == [0, 1, 2]
    assert geometry["directions"] == [-1, -1, 1]
    answer = client.get(f"/api/images/{A}/voxels")
    steps = np.frombuffer(answer.content, answer.headers["x-voxel-type"]).reshape(
        9, 7, 5, order="F"
    )
    low, high = geometry["range"]
    image = nib.load(folder / A).get_fdata()
    np.testing.assert_allclose(low + steps / 65535 * (high - low), image, atol=(high - low) / 65535)
    assert client.get(f"/api/images/{A}/thumbnail").content.startswith(b"\x89PNG")


def test_targets_are_segmented_and_the_label_map_lies_on_the_grid_of_the_image(client, folder):
    session = prepared(client)
    job = segmented(client, session, doubt=True)
    assert job["state"] == "done"
    assert set(job["finished"]) == {C, D}
    assert not job["failed"]
    result = client.get(session).json()["images"][C]["result"]
    assert 0 <= result["doubt"] <= 1
    assert not result["outdated"]
    content = client.get(f"{session}/images/{C}/result").content
    label_map = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    np.testing.assert_allclose(label_map.affine, nib.load(folder / C).affine)
    voxels = np.asarray(label_map.dataobj)
    assert voxels.sum() * 1.5 * 0.75 * 3 / 1000 == pytest.approx(result["volumes_ml"]["1"])
    raw = client.get(f"{session}/images/{C}/result/voxels")
    shown = np.frombuffer(raw.content, raw.headers["x-voxel-type"]).reshape(9, 7, 5, order="F")
    np.testing.assert_array_equal(shown, voxels)


def test_a_prompt_on_the_target_changes_its_result_alone(client):
    session = prepared(client)
    segmented(client, session)
    before = {image: client.get(f"{session}/images/{image}/result").content for image in (C, D)}
    mark(client, session, C, scribble=[[1, 1, 1], [2, 1, 1]])
    images = client.get(session).json()["images"]
    assert images[C]["result"]["outdated"]
    assert not images[D]["result"]["outdated"]
    segmented(client, session, images=[C])
    assert not client.get(session).json()["images"][C]["result"]["outdated"]
    after = {image: client.get(f"{session}/images/{image}/result").content for image in (C, D)}
    assert gzip.decompress(after[C]) != gzip.decompress(before[C])
    assert after[D] == before[D]


def test_an_accepted_result_becomes_a_context_image(client):
    session = prepared(client)
    segmented(client, session)
    if not sum(client.get(session).json()["images"][C]["result"]["volumes_ml"].values()):
        pytest.fail("the tiny network found nothing")
    answer = client.post(f"{session}/images/{C}/example")
    assert answer.json()["images"][C]["role"] == "context"
    assert answer.json()["images"][D]["result"]["outdated"]
    task = client.get(f"{session}/task").json()
    (entry,) = [entry for entry in task["context"] if entry["image"] == C]
    assert entry["labels"] == [1]
    assert entry["mask"].startswith(".wsicl/accepted")
    assert segmented(client, session)["finished"] == [D]
    assert client.get(f"{session}/images/{C}/example/voxels").is_success


def test_prompts_are_taken_back_and_repeated(client):
    session = new_session(client)
    mark(client, session, A, point=[4, 3, 2])
    second = mark(client, session, A, point=[5, 3, 2])["number"]

    def numbers():
        images = client.get(session).json()["images"]
        return [prompt["number"] for prompt in images[A]["prompts"]]

    assert client.delete(f"{session}/images/{A}/prompts/1").is_success
    assert numbers() == [second]
    client.post(f"{session}/undo")
    assert numbers() == [1, second]
    client.post(f"{session}/undo")
    assert numbers() == [1]
    assert client.post(f"{session}/redo").json()["can_redo"]
    assert numbers() == [1, second]
    mark(client, session, A, point=[1, 1, 1])
    assert client.post(f"{session}/redo").status_code == 422


def test_a_restarted_service_finds_every_prompt_and_result(client, start):
    session = prepared(client)
    segmented(client, session)
    before = client.get(session).json()
    label_map = client.get(f"{session}/images/{C}/result").content
    # Nothing is told to the first service: it could have been killed.
    again = TestClient(make_app(start()), base_url="http://localhost:8000")
    assert again.get(session).json() == before
    assert again.get(f"{session}/images/{C}/result").content == label_map


def test_saved_results_and_the_task_lie_in_the_folder(client, folder):
    session = prepared(client)
    segmented(client, session)
    client.post(f"{session}/images/{C}/example")
    saved = client.post(f"{session}/save", json={}).json()
    output = folder / saved["folder"]
    assert set(saved["files"]) == {C, D, "task.json", "session.json"}
    assert all((output / file).is_file() for file in saved["files"])
    task = json.loads((output / "task.json").read_text())
    assert all((output / entry["image"]).is_file() for entry in task["context"])
    assert (output / "context_masks" / C).is_file()
    assert [image["id"] for image in client.get("/api/images").json()["images"]] == [A, B, C, D]
    assert client.post("/api/scan").json()["images"] == client.get("/api/images").json()["images"]


def test_an_added_file_is_an_image_of_the_folder_and_replaces_none(client, folder):
    content = (folder / A).read_bytes()
    answer = client.post("/api/images?name=new one.nii.gz", content=content)
    assert answer.status_code == 201
    assert client.get(f"/api/images/{answer.json()['id']}").json()["shape"] == [9, 7, 5]
    assert client.post("/api/images?name=a.nii.gz", content=b"x").status_code == 409
    assert (folder / A).read_bytes() == content


def test_a_deleted_session_is_gone_with_its_files(client, folder):
    session = prepared(client)
    segmented(client, session)
    assert client.delete(session).is_success
    assert client.get(session).status_code == 404
    assert not [file for file in (folder / ".wsicl").rglob("*.nii.gz")]
    assert client.get("/api/sessions").json() == {"sessions": []}
