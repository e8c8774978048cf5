"""Cohorts as stores, from the command line; also when it is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from wsicl_jax.cli import main
from wsicl_jax.config import SynthConfig
from wsicl_jax.data.store import Store
from wsicl_jax.data.synthesis.cohort_stores import numbered_cohort, write_cohorts
from wsicl_jax.errors import DataError

GRID = (12, 14, 16)
WORDS = ["--subjects", "3", "--grid", "12", "14", "16", "--seed", "7"]


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three cohorts, written in one go."""
    output = tmp_path_factory.mktemp("synth") / "whole"
    assert main(["synth", str(output), "--cohorts", "3", *WORDS, "--spacing", "1.5"]) == 0
    return output


def test_every_cohort_is_a_store_of_its_subjects(whole):
    for number in range(3):
        store = Store.open(whole / f"cohort_{number:04}")
        cohort = numbered_cohort(7, number, GRID, SynthConfig())
        assert store.label_names == cohort.names
        assert store.cases == ("subject_0000", "subject_0001", "subject_0002")
        for index, case in enumerate(store.cases):
            image, label = cohort.subject(index)
            np.testing.assert_array_equal(store.read_image(case), image)
            np.testing.assert_array_equal(store.read_label(case), label)
            assert store.case(case).shape == GRID
            np.testing.assert_allclose(store.case(case).affine[:3, :3], np.diag([1.5] * 3))
            middle = store.case(case).affine @ [*(np.array(GRID) - 1) / 2, 1]
            np.testing.assert_allclose(middle[:3], 0, atol=1e-9)


def test_stores_have_distinct_names(whole):
    names = {Store.open(store).name for store in whole.glob("cohort_*")}
    assert len(names) == 3


def test_settings_change_what_is_written(tmp_path):
    words = ["synth", str(tmp_path / "out"), "synth.structures=[2, 2]", *WORDS]
    assert main([*words, "synth.distractors=[0, 0]"]) == 0
    assert len(Store.open(tmp_path / "out" / "cohort_0000").label_names) == 2


def test_a_killed_command_goes_on_to_the_same_stores(whole, tmp_path):
    output = tmp_path / "killed"
    words = ["synth", str(output), *WORDS, "--spacing", "1.5"]
    run = subprocess.Popen([sys.executable, "-m", "wsicl_jax", *words, "--cohorts", "3000"])
    while not (output / "cohort_0001" / "cases").exists() and run.poll() is None:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    last = max(output.glob("cohort_*"))
    assert main([*words, "--cohorts", str(int(last.name[-4:]) + 1)]) == 0
    assert Store.open(last).cases == ("subject_0000", "subject_0001", "subject_0002")
    for number in range(2):
        name = f"cohort_{number:04}"
        assert contents(output / name) == contents(whole / name)


def test_a_finished_store_is_left_as_it_is(whole, capsys):
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()}
    assert main(["synth", str(whole), "--cohorts", "2", *WORDS, "--spacing", "1.5"]) == 0
    assert before == {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()}
    assert "0 cohorts written, 2 already existed" in capsys.readouterr().out


def test_more_cohorts_may_be_requested_later(whole, tmp_path):
    for cohorts in ("1", "3"):
        words = ["synth", str(tmp_path / "out"), "--cohorts", cohorts, "--spacing", "1.5"]
        assert main([*words, *WORDS]) == 0
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.slow
def test_processes_write_what_one_writes(whole, tmp_path):
    settings = SynthConfig()
    written = write_cohorts(
        tmp_path / "out",
        settings,
        cohorts=3,
        subjects=3,
        grid=GRID,
        seed=7,
        spacing_mm=1.5,
        workers=2,
    )
    assert written == 3
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "8"], "begun with seed 7 (now 8)"),
        (["synth.body=0"], "synth.body 0.75 (now 0.0)"),
        (["synth.bdy=0"], "nearest is 'synth.body'"),
        (["synth.structures=[9, 2]"], "give the smaller number first"),
        (
            ["synth.kinds={organ: 0, nested: 0, lobes: 0, tube: 0, shell: 0, lesions: 0, pair: 0}"],
            "a frequency above 0",
        ),
        (["train.steps=3"], "only settings of synth may be changed"),
        (["synth.priors=[{store: /no/where}]"], "no store at /no/where"),
        (["--picture", "/no/where/a.png"], "no directory"),
    ],
)
def test_mistakes_are_reported_and_nothing_is_written(whole, words, told, capsys):
    before = contents(whole)
    assert main(["synth", str(whole), *WORDS, "--spacing", "1.5", *words]) == 2
    assert told in capsys.readouterr().err
    assert contents(whole) == before


@pytest.mark.parametrize(
    "words",
    [["--spacing", "0"], ["--spacing", "nan"], ["--grid", "8", "8", "0"], ["--cohorts", "-1"]],
)
def test_numbers_out_of_range_are_refused(tmp_path, words):
    with pytest.raises(SystemExit) as leaving:
        main(["synth", str(tmp_path / "out"), *words])
    assert leaving.value.code == 2
    assert not (tmp_path / "out").exists()


def test_an_output_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    arguments = {"cohorts": 1, "subjects": 1, "grid": GRID, "seed": 0}
    with pytest.raises(DataError, match="not empty"):
        write_cohorts(tmp_path, SynthConfig(), **arguments)
    with pytest.raises(DataError, match="is a file"):
        write_cohorts(tmp_path / "file", SynthConfig(), **arguments)
    (tmp_path / "out").mkdir()
    assert write_cohorts(tmp_path / "out", SynthConfig(), **arguments) == 1
    (tmp_path / "out" / "synth.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        write_cohorts(tmp_path / "out", SynthConfig(), **arguments)


def test_a_grid_without_room_is_refused(tmp_path):
    with pytest.raises(DataError, match="use a larger one"):
        write_cohorts(tmp_path / "o", SynthConfig(), cohorts=1, subjects=1, grid=(1, 1, 1), seed=0)
