"""Damaged records of sweeps: every mutant is read, or refused with the package's own error."""

import json
from contextlib import suppress

import pytest
from fuzz import failures

from wsicl_jax.errors import WsiclError
from wsicl_jax.evaluate.episode_list import (
    CasePrompts,
    EpisodeList,
    ListedEpisode,
    Structure,
    read_list,
    write_list,
)
from wsicl_jax.evaluate.records import ABOUT, Cell, Score, write_cell
from wsicl_jax.report.results import read_results
from wsicl_jax.storage.digests import CHECKSUM, with_digest
from wsicl_jax.weights.export.measured import measured_in_scores

COUNTS = [50, pytest.param(2000, marks=pytest.mark.slow)]
WORDS = (b'"cells": []', b'"models": {"a": 1}', b'"dice": "x"', b"NaN", b'"wall_seconds": "x"')


def score(target: str) -> Score:
    return Score(
        model="m", data_set="d", structure="s", episode=target, target=target, subject=target,
        protocol="in_context", kind="box", prompts=1, contexts=2, seconds=7.0, dice=0.5,
    )  # fmt: skip


def sweep(folder):
    scores = (score("a"), score("b"))
    cell = Cell(name="m/d/box", key="0", scores=scores, about={"wall_seconds": 1.5, "device": "x"})
    write_cell(folder, cell)
    about = {"command": "wsicl sweep", "config": {}, "versions": {"jax": "1"}, "cells": {}}
    about["models"] = {"m": {"path": "runs/m", "digest": "0"}}
    about["data_sets"] = {"d": {"episodes": "episodes/d.json", "digest": "0"}}
    about["cells"] = {"m/d/box": "0"}
    (folder / ABOUT).write_text(json.dumps(about, indent=1))
    return {
        ABOUT: (folder / ABOUT).read_bytes(),
        "cells/m/d/box.json": (folder / "cells/m/d/box.json").read_bytes(),
    }


def listed(folder):
    prompts = {"a": CasePrompts(point=((1.0, 2.0, 3.0),), box=(((0, 1), (2, 3), (4, 5)),))}
    episodes = EpisodeList(
        data_set="d", store="synthetic", cases={"a": "0", "b": "1"},
        structures={"s": Structure(labels=(1,), marked=(1,), prompts=prompts)},
        episodes=(
            ListedEpisode(
                name="e", structure="s", channel="T1", target="b", subject="B", contexts=("a",)
            ),
        ),
        contexts=1, prompts=1, kinds=("point", "box"), seed=0, part="validation", jitter=0.0,
    )  # fmt: skip
    write_list(folder / "a.json", episodes)
    return {"a.json": (folder / "a.json").read_bytes()}


def write_new_digest(path):
    """Give a file the right checksum, so that what is wrong is not found by it alone."""
    with suppress(ValueError, RecursionError, OSError):
        value = json.loads(path.read_bytes())
        if isinstance(value, dict) and CHECKSUM in value:
            value.pop(CHECKSUM)
            path.write_text(json.dumps(with_digest(value)))


def read_sweep(path):
    """Read all scores of a sweep, as they are and with right checksums."""
    for _ in range(2):
        with suppress(WsiclError):
            read_results([path.parent])
        write_new_digest(path.parent / "cells/m/d/box.json")


def read_episodes(path):
    """Read a list of episodes, as it is and with a right checksum."""
    for _ in range(2):
        with suppress(WsiclError):
            read_list(path)
        write_new_digest(path)


def read_scores(path):
    """Read what `wsicl eval --json` wrote."""
    measured_in_scores(path, 3)


def test_the_seeds_are_sound(tmp_path):
    sweep(tmp_path)
    assert len(read_results([tmp_path]).scores) == 2
    listed(tmp_path)
    assert read_list(tmp_path / "a.json").data_set == "d"


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_scores_of_a_sweep_are_refused_or_read(tmp_path, count):
    found = failures(read_sweep, [sweep(tmp_path)], tmp_path, count=count, words=WORDS)
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_list_of_episodes_is_refused_or_read(tmp_path, count):
    found = failures(read_episodes, [listed(tmp_path)], tmp_path, count=count, words=WORDS)
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_scores_of_an_evaluation_are_refused_or_read(tmp_path, count):
    trial = {"data_set": "d", "structure": "s", "protocol": "in_context", "kind": "box"}
    trial |= {"prompts": 1, "contexts": 2, "round": 0, "dice": 0.5}
    seed = {"a.json": json.dumps({"step": 3, "trials": [trial, trial]}, indent=1).encode()}
    found = failures(read_scores, [seed], tmp_path, count=count, words=WORDS)
    assert not found, "\n".join(map(str, found))
