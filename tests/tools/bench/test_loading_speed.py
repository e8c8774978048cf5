"""The loader's benchmark, on volumes small enough to take no time."""

import json

import numpy as np
import pytest

from wsicl_jax.cli import main
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.tools.bench import loading_speed


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(loading_speed, "_SECONDS", 0.05)
    monkeypatch.setattr(loading_speed, "_RANDOM_SHAPE", (32, 32, 16))


SETTINGS = ["volume.grid=[16, 16, 16]", "episode.contexts=[1, 2]"]


def test_every_reading_is_measured_and_memory_is_watched_to_the_end(tmp_path, capsys):
    file = tmp_path / "found.json"
    arguments = ["bench", "loader", *SETTINGS, "--episodes", "20", "--json", str(file)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "nibabel, .nii.gz: read" in printed
    found = json.loads(file.read_text())
    assert len(found["rates"]) == 9
    assert all(rate["volumes_per_second"] > 0 for rate in found["rates"])
    assert [entry["episodes"] for entry in found["memory"]][-1] >= 20
    assert len(found["memory"]) == 5


def test_the_cases_of_a_store_may_be_measured(tmp_path, capsys):
    path = tmp_path / "store"
    create_store(path, "mine", ("CT",), {1: "liver"})
    for number in range(4):
        label = np.zeros((12, 12, 12), np.uint8)
        label[2:9, 2:9, 2:9] = 1
        image = label + np.random.default_rng(number).random(label.shape)
        write_case(path, f"case{number}", image[None], label, np.eye(4))
    finish_store(path)
    arguments = ["bench", "loader", f"data={path}", *SETTINGS, "--episodes", "5"]
    assert main(arguments) == 0
    assert "Memory by episodes read" in capsys.readouterr().out
