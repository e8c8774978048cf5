"""The benchmark of segmenting, on a target small enough to take no time."""

import json

import pytest

from wsicl_jax.cli import main
from wsicl_jax.tools.bench import prediction_time

SETTINGS = ["model.channels=[2, 4]", "volume.grid=[8, 8, 8]", "--contexts", "2"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(prediction_time, "_COARSE", 24)


def test_every_stage_of_a_target_is_measured(tmp_path, capsys):
    file = tmp_path / "found.json"
    words = [*SETTINGS, "--shape", "20,24,16", "--structures", "2", "--refine", "--repeats", "2"]
    assert main(["bench", "predict", *words, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert all(stage in printed for stage in ("reading", "network", "composing", "writing"))
    found = json.loads(file.read_text())
    assert len(found["seconds"]) == 2
    assert all(seconds > 0 for run in found["seconds"] for seconds in run.values())
    assert 0 < found["bytes"]["before"] <= found["bytes"]["peak"]


@pytest.mark.parametrize("shape", ["20,24", "0,1,2", "a,b,c"])
def test_a_shape_that_is_none_is_refused(shape, capsys):
    with pytest.raises(SystemExit) as refused:
        main(["bench", "predict", "--shape", shape])
    assert refused.value.code == 2


def test_a_checkpoint_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["bench", "predict", "--checkpoint", str(tmp_path / "none")]) == 2
    assert "no checkpoint" in capsys.readouterr().err
