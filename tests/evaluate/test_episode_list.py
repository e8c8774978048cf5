"""The file of a list: what was written, or an error."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from evaluate.small_evaluations import planned

from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.episode_list import CasePrompts, decoded, encoded, read_list, write_list
from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import Point, Scribble, SliceMask
from wsicl_jax.storage.digests import with_digest


@pytest.fixture(scope="module")
def listed(store):
    return planned(store, kinds=["point", "box", "scribble", "box3d", "mask2d", "mixed"]).episodes


@pytest.mark.parametrize("data", ["store", "synthetic"])
def test_a_list_comes_back_from_its_file_as_it_was(data, listed, tmp_path):
    written = listed if data == "store" else planned("synthetic").episodes
    written.title(written.episodes[0])  # what is remembered of it is not written
    write_list(tmp_path / "lists" / "a.json", written)
    found = read_list(tmp_path / "lists" / "a.json")
    assert found == written
    assert found.digest == written.digest


def test_a_list_that_was_changed_by_hand_is_refused(listed, tmp_path):
    path = tmp_path / "list.json"
    write_list(path, listed)
    path.write_text(path.read_text().replace("case1", "case2", 1))
    with pytest.raises(DataError, match="has been changed since it was written"):
        read_list(path)


def test_a_file_that_is_no_list_is_refused(listed, tmp_path):
    path = tmp_path / "list.json"
    with pytest.raises(DataError, match=r"list\.json cannot be read"):
        read_list(path)
    path.write_text("[")
    with pytest.raises(DataError, match="cannot be read as a list"):
        read_list(path)
    path.write_text("[1]")
    with pytest.raises(DataError, match="no list of episodes"):
        read_list(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: {**content, "format": 2}, "has format 2; expected 1"),
        (lambda content: {**content, "sed": 1}, "sed: Unexpected"),
        (lambda content: {k: v for k, v in content.items() if k != "seed"}, "seed: Field required"),
        (
            lambda content: {**content, "episodes": [{**content["episodes"][0], "target": 3}]},
            "episodes.0.target: Input should be a valid string",
        ),
    ],
    ids=["another format", "a typo", "something missing", "an ill-typed value"],
)
def test_a_list_of_another_form_is_refused_with_the_place(change, message, listed, tmp_path):
    path = tmp_path / "list.json"
    write_list(path, listed)
    content = json.loads(path.read_text())
    del content["checksum"]
    path.write_text(json.dumps(with_digest(change(content))))
    with pytest.raises(DataError, match=message):
        read_list(path)


def test_a_lists_hash_does_not_depend_on_where_the_store_lies(store, listed, tmp_path):
    moved = shutil.copytree(store, tmp_path / store.name)
    elsewhere = planned(moved, kinds=listed.kinds).episodes
    assert elsewhere.store != listed.store
    assert elsewhere.digest == listed.digest
    assert replace(listed, seed=1).digest != listed.digest


def test_a_list_without_enough_contexts_prompts_or_kinds_is_refused(listed):
    listed.check(3, "box", 2)
    with pytest.raises(DataError, match="has 3 context images, but 4 are requested"):
        listed.check(4)
    with pytest.raises(DataError, match="has 2 prompts, but 5 are requested"):
        listed.check(1, "box", 5)
    boxes = replace(listed, kinds=("box",))
    with pytest.raises(DataError, match="no prompts of kind 'point', only box"):
        boxes.check(1, "point", 1)
    boxes.check(1, "mask", 1)  # needs none


# Prompts of one case.

TRUTH = np.zeros((4, 5, 6), bool)
TRUTH[1:3, 1:4, 2:5] = True
DRAWN = {
    "point": [Point(1.0, 2.0, 3.0), Point(2.0, 1.25, 4.0)],
    "box": [Box((1, 1, 2), (2, 4, 5)), Box((1, 3, 2), (3, 4, 5))],
    "scribble": [Scribble(((1.0, 1.0, 2.0), (1.0, 2.0, 3.0)))],
    "box3d": [Box((1, 1, 2), (3, 4, 5))],
    "mask2d": [SliceMask(2, 3, TRUTH[..., 3])],
}


def test_prompts_come_back_as_they_were_drawn():
    prompts = encoded(DRAWN, ["box", "point"])
    for kind, expected in DRAWN.items():
        found = decoded(prompts, kind, 2, TRUTH)
        if kind == "mask2d":
            (one,) = found
            assert one[:2] == (2, 3)
            np.testing.assert_array_equal(one.mask, TRUTH[..., 3])
        else:
            assert found == expected
    (whole,) = decoded(prompts, "mask", 2, TRUTH)
    np.testing.assert_array_equal(whole, TRUTH)


def test_fewer_prompts_are_the_first_ones_and_there_are_no_more_than_listed():
    prompts = encoded(DRAWN, [])
    assert decoded(prompts, "point", 1, TRUTH) == DRAWN["point"][:1]
    assert decoded(prompts, "point", 5, TRUTH) == DRAWN["point"]
    assert decoded(CasePrompts(), "box", 3, TRUTH) == []


def test_mixed_prompts_take_the_next_one_of_each_kind():
    prompts = encoded(DRAWN, ["box", "point", "box"])
    assert decoded(prompts, "mixed", 1, TRUTH) == DRAWN["box"][:1]
    assert decoded(prompts, "mixed", 3, TRUTH) == [*DRAWN["box"], DRAWN["point"][0]]
