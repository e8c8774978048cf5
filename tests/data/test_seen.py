"""What a network has seen, put together from its own run and those before it."""

import numpy as np
import pytest

from wsicl_jax.config import PriorConfig, SynthConfig
from wsicl_jax.data.seen import Seen, SeenDataSet, seen_as_priors
from wsicl_jax.data.store_writer import create_store, finish_store, write_case


def seen(name="liver", use="training", cases=("a", "b")) -> Seen:
    return Seen((SeenDataSet(name, use, len(cases), tuple(cases)),))


def test_a_data_set_of_two_runs_appears_once_with_all_its_cases():
    (both,) = (seen() + seen(cases=("b", "c"))).data_sets
    assert both.cases == ("a", "b", "c")
    assert len((seen() + seen(use="prior") + seen("heart")).data_sets) == 3
    assert seen() + Seen() == Seen() + seen() == seen()


def test_unknown_networks_are_kept():
    assert (Seen(unknown=("x",)) + seen() + Seen(unknown=("y", "x"))).unknown == ("x", "y")


def test_a_data_set_is_recognized_by_its_name_or_any_of_its_cases():
    assert seen().of("liver", ["z"]).name == "liver"
    assert seen().of("other", ["z", "b"]).name == "liver"
    assert seen().of("other", ["z"]) is None
    assert seen("synthetic", cases=()).of("synthetic", []) is None


def test_it_goes_through_json():
    told = seen() + Seen(unknown=("x",))
    assert Seen.from_json(told.to_json()) == told
    with pytest.raises(ValueError, match="damaged"):
        Seen.from_json({"data_sets": [{"name": 3}]})


def test_priors_are_seen_with_all_their_cases(tmp_path):
    path = tmp_path / "brain"
    create_store(path, "brain", ["T1"], {1: "nucleus"})
    for name in ("a1", "a2", "b1"):
        label = np.ones((4, 4, 4), np.uint8)
        image = np.full((1, 4, 4, 4), ord(name[0]) + ord(name[1]), np.float32)
        write_case(path, name, image, label, np.eye(4), subject=name[0])
    finish_store(path)
    (found,) = seen_as_priors(SynthConfig(priors=(PriorConfig(store=str(path)),))).data_sets
    assert (found.name, found.use, found.subjects, len(found.cases)) == ("brain", "prior", 2, 3)
    assert seen_as_priors(SynthConfig()) == Seen()
