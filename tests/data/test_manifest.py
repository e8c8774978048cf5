"""What binds a run to its data: written in full, compared in words, and never a leak."""

import json
import time
from dataclasses import replace

import pytest
from fabricated import dataset, store_of
from hypothesis import given
from hypothesis import strategies as st

from wsicl_jax.config import EpisodeConfig, ExperimentConfig, config_from_dict
from wsicl_jax.data.manifest import (
    Manifest,
    bound,
    compare,
    manifest_of,
    read_manifest,
    write_manifest,
)
from wsicl_jax.errors import DataError

EPISODE = EpisodeConfig(validation_share=0.3, held_out_share=0.2)
CONFIG = ExperimentConfig()
CASES = {f"case{i}": {1: 9, 2: 9} for i in range(10)}


def data_of(cases=CASES, digests=None, **store):
    """A data set; `digests` gives cases another content."""
    made = store_of(cases, **store)
    for name, digest in (digests or {}).items():
        made.catalogue[name] = replace(made.catalogue[name], digest=digest)
    return dataset(made, EPISODE)


def manifest(data, before=None) -> Manifest:
    return manifest_of(CONFIG, [data], before)


def parts_of(found: Manifest) -> dict[str, str]:
    return {name: case.part for name, case in found.data_sets[0].cases.items()}


def test_a_manifest_says_what_the_data_are_and_how_they_are_split():
    data = data_of()
    (record,) = manifest(data).data_sets
    assert (record.name, record.store, record.trained_on) == ("tiny", "/none", True)
    assert record.channels == ("T1",)
    assert record.labels == {1: "label 1", 2: "label 2"}
    assert parts_of(manifest(data)) == data.parts
    assert record.cases["case3"].digest == data.store.catalogue["case3"].digest
    assert record.cases["case3"].subject == "case3"


def test_a_manifest_comes_back_from_its_file_with_a_line_for_each_case(tmp_path):
    written = manifest(data_of())
    write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == written
    assert read_manifest(tmp_path).digest == written.digest
    text = (tmp_path / "data.json").read_text()
    lines = [line for line in text.splitlines() if '"case' in line and "subject" in line]
    assert len(lines) == len(CASES)


@pytest.mark.parametrize(
    "harm", [lambda text: text[:-40], lambda text: text.replace('"train"', '"held_out"', 1)]
)
def test_a_damaged_manifest_is_reported(tmp_path, harm):
    write_manifest(tmp_path, manifest(data_of()))
    path = tmp_path / "data.json"
    path.write_text(harm(path.read_text()))
    with pytest.raises(DataError, match=r"data\.json is damaged .*bring the file back"):
        read_manifest(tmp_path)


def test_a_missing_manifest_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"data\.json is missing"):
        read_manifest(tmp_path)


def test_the_manifest_in_whose_place_another_comes_is_kept(tmp_path):
    first = manifest(data_of())
    second = manifest(data_of({**CASES, "case10": {1: 9}}), first)
    third = manifest(data_of({**CASES, "case11": {1: 9}}), second)
    for written in (first, second, third):
        write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == third
    assert third.previous == (first.digest, second.digest)
    for number, kept in ((1, first), (2, second)):
        (tmp_path / "data.json").write_text((tmp_path / f"data.{number:04}.json").read_text())
        assert read_manifest(tmp_path) == kept


def test_a_store_that_lies_elsewhere_is_the_same():
    assert not compare(manifest(data_of()), manifest(data_of(path="s3://bucket/moved"))).texts


def test_changes_are_reported_by_number_and_first_names():
    other = {name: CASES[name] for name in list(CASES)[4:]} | {"extra": {1: 9}}
    changes = compare(
        manifest(data_of()),
        manifest(data_of(other, {"case5": "x"}, subjects={"case6": "Ann"})),
    )
    assert str(changes) == (
        "'tiny': 1 case changed (case5), 1 case of another subject (case6), 1 case new (extra), "
        "4 cases missing (case0, case1, case2, ...)"
    )
    assert (changes.changed, changes.new, changes.missing) == (2, 1, 4)


def test_changes_of_labels_and_channels_are_reported():
    labels = {1: "label 1", 2: "liver", 3: "spleen"}
    changes = compare(manifest(data_of()), manifest(data_of(labels=labels, channels=("T2",))))
    assert str(changes) == (
        "'tiny': channels were ['T1'] and are ['T2'], label 2 was 'label 2' and is 'liver', "
        "label 3 was nothing and is 'spleen'"
    )


def test_another_data_set_is_reported():
    changes = compare(manifest(data_of()), manifest(data_of(name="other")))
    assert str(changes) == "data set 'tiny' is missing; data set 'other' is new"


def test_a_synthetic_data_set_is_bound_to_its_prior(monkeypatch):
    from wsicl_jax.data import manifest as module
    from wsicl_jax.data.datasets import open_datasets

    config = config_from_dict({"data": "synthetic"})
    before = manifest_of(config, open_datasets(config))
    assert before.data_sets[0].store == "synthetic"
    monkeypatch.setattr(module, "priors_fingerprint", lambda settings: 7)
    assert "synth.prior" in str(compare(before, manifest_of(config, open_datasets(config))))


names = st.sets(st.text("abcd", min_size=1, max_size=3), min_size=1, max_size=20)
people = st.dictionaries(st.text("abcd", min_size=1, max_size=3), st.sampled_from("uvwxyz"))


@given(names, people, st.lists(st.tuples(names, people), min_size=1, max_size=3))
def test_what_was_trained_on_never_becomes_a_target_whatever_happens_to_the_store(
    cases, subjects, steps
):
    """Cases come, go, come back, and turn out to be of other subjects."""
    data = data_of({name: {1: 9} for name in cases}, subjects=subjects)
    trained, now = set(), None
    for cases, subjects in [(cases, subjects), *steps]:  # noqa: B020
        data = data_of({name: {1: 9} for name in cases}, subjects=subjects)
        data = bound(data, now) if now else data
        now = manifest(data, now)
        assert parts_of(now) == data.parts
        for part in ("validation", "held_out"):
            assert not trained & set(data.cases(part))
            assert not data.subjects_of(data.cases("train")) & data.subjects_of(data.cases(part))
        trained |= set(data.cases("train"))


@given(names, names)
def test_cases_that_stay_keep_their_part_and_new_subjects_get_theirs_by_the_same_rule(old, new):
    before = manifest(data_of({name: {1: 9} for name in old}))
    now = data_of({name: {1: 9} for name in old | new})
    found = bound(now, before).parts
    for name in now.subjects:
        assert found[name] == (parts_of(before)[name] if name in old else now.parts[name])


def test_renamed_cases_keep_their_part_by_their_content():
    before = manifest(data_of())
    renamed = {f"patient{name[4:]}": voxels for name, voxels in CASES.items()}
    digests = {f"patient{name[4:]}": f"digest of {name}" for name in CASES}
    found = bound(data_of(renamed, digests), before).parts
    assert found == {f"patient{name[4:]}": part for name, part in parts_of(before).items()}
    # In another data set as well, if it is among those of the run or not.
    found = bound(data_of(renamed, digests, name="other"), before).parts
    assert all(
        found[f"patient{name[4:]}"] == "train"
        for name, part in parts_of(before).items()
        if part == "train"
    )


def test_a_case_that_takes_the_content_of_a_trained_one_is_no_target():
    before = manifest(data_of())
    trained, target = (
        next(name for name, part in parts_of(before).items() if part == wanted)
        for wanted in ("train", "validation")
    )
    found = bound(data_of(digests={target: f"digest of {trained}"}), before)
    assert found.parts[target] == "train"


def test_another_case_of_a_known_subject_joins_it():
    before = manifest(data_of())
    more = {**CASES, **{f"again{i}": {1: 9} for i in range(10)}}
    subjects = {f"again{i}": f"case{i}" for i in range(10)}
    found = bound(data_of(more, subjects=subjects), before).parts
    for name, part in parts_of(before).items():
        assert found[name] == found[name.replace("case", "again")] == part


def test_a_subject_that_comes_back_with_another_case_keeps_its_part():
    before = manifest(data_of())
    again = {f"again{i}": {1: 9} for i in range(10)}
    subjects = {f"again{i}": f"case{i}" for i in range(10)}
    found = bound(data_of({**again, "more": {1: 9}}, subjects=subjects), before).parts
    assert all(found[f"again{i}"] == parts_of(before)[f"case{i}"] for i in range(10))


def test_a_manifest_of_ten_thousand_cases_is_written_and_compared_in_two_seconds(tmp_path):
    data = data_of({f"case{i:05}": {1: 9} for i in range(10_000)})
    begin = time.process_time()
    write_manifest(tmp_path, manifest(data))
    before = read_manifest(tmp_path)
    assert not compare(before, manifest(bound(data, before), before)).texts
    assert time.process_time() - begin < 2
    assert json.loads((tmp_path / "data.json").read_text())["data_sets"][0]["name"] == "tiny"
