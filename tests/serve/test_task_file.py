import json

import nibabel as nib
import numpy as np
from inference.volumes import VOLUME
from serve.steps import A, B, C, D, mark, prepared, segmented

from wsicl_jax import __version__
from wsicl_jax.inference.inputs.request import read_context
from wsicl_jax.inference.segmenter import Segmenter


def test_the_saved_task_gives_the_same_label_map_without_the_service(client, folder, model):
    session = prepared(client)
    segmented(client, session)
    client.post(f"{session}/images/{C}/example")
    mark(client, session, A, scribble=[[1, 1, 1], [3.5, 2, 1]])
    mark(client, session, A, point=[8, 0, 4], inside=False)
    mark(client, session, B, scribble=[[7, 0, 4], [7, 2, 4]], inside=False)
    assert segmented(client, session)["finished"] == [D]
    saved = client.post(f"{session}/save", json={}).json()
    output = folder / saved["folder"]
    context = read_context(output / "task.json")
    assert context.network == "tiny"
    assert context.values == {"structure": 1}
    examples = context.structures["structure"]
    assert [len(example.negative_points) for example in examples] == [1, 0, 0]
    assert [len(example.negative_scribbles) for example in examples] == [0, 1, 0]
    task = Segmenter(model, VOLUME).task(context.structures, context.values)
    alone = task.segment(folder / D).label_map
    kept = np.asarray(nib.load(output / D).dataobj)
    assert 0 < kept.sum() < kept.size
    np.testing.assert_array_equal(alone, kept)


def test_a_correction_is_no_context_entry_since_it_would_change_other_targets(
    client, folder, model
):
    session = prepared(client)
    mark(client, session, C, scribble=[[1, 1, 1], [2, 1, 1]])
    segmented(client, session)
    saved = client.post(f"{session}/save", json={}).json()
    output = folder / saved["folder"]
    document = json.loads((output / "task.json").read_text())
    assert [entry["image"] for entry in document["context"]] == [f"../../{A}", f"../../{B}"]
    # By hand, an entry with the correction.
    correction = {"image": f"../../{C}", "scribbles": [[[1, 1, 1], [2, 1, 1]]]}
    document["context"].append(correction)
    (output / "corrected.json").write_text(json.dumps(document))
    context = read_context(output / "corrected.json")
    task = Segmenter(model, VOLUME).task(context.structures, context.values)
    kept = np.asarray(nib.load(output / D).dataobj)
    assert (task.segment(folder / D).label_map != kept).any()


def test_structures_keep_their_values_and_those_without_prompts_are_left_out(client, folder):
    session = prepared(client)
    structures = [
        {"value": 1, "name": "structure", "colour": "#000000"},
        {"value": 7, "name": "second", "colour": "#0000ff"},
        {"value": 3, "name": "not marked", "colour": "#00ff00"},
    ]
    assert client.put(f"{session}/structures", json={"structures": structures}).is_success
    mark(client, session, B, structure=7, point=[1, 1, 1])
    task = client.get(f"{session}/task").json()
    assert (task["network"], task["software"]) == ("tiny", f"wsicl_jax {__version__}")
    assert task["structures"] == {"structure": 1, "second": 7}
    file = folder / "task.json"
    file.write_text(json.dumps(task))
    context = read_context(file)
    assert list(context.structures) == ["structure", "second"]
    assert [example.image for example in context.structures["second"]] == [folder / B]
    result = segmented(client, session)
    assert not result["failed"]
    remarks = client.get(session).json()["images"][C]["result"]["remarks"]
    assert "not marked has no prompt, and was left out" in remarks


def test_a_task_without_context_prompts_is_refused_with_the_reason(client):
    session = client.post("/api/sessions", json={}).json()["id"]
    answer = client.get(f"/api/sessions/{session}/task")
    assert answer.status_code == 422
    assert "no context image has a prompt" in answer.json()["error"]
