"""The cost of options of a training step."""

import json

import pytest

from wsicl_jax.cli import main
from wsicl_jax.config import config_from_dict
from wsicl_jax.tools.bench.step_options import options_of


def test_only_parts_that_the_batch_has_are_compared():
    options = options_of(config_from_dict({"train": {"batch": 2, "ema": 0.5, "accumulate": 2}}))
    assert [*options] == ["neither", "train.ema=0.999", "train.accumulate=2"]
    assert [(o.train.ema, o.train.accumulate) for o in options.values()] == [
        (0, 1),
        (0.999, 1),
        (0, 2),
    ]


@pytest.mark.slow
def test_the_average_takes_the_memory_of_the_parameters_and_parts_take_less(tmp_path, capsys):
    file = tmp_path / "step.json"
    tiny = ["model.channels=[4, 8]", "volume.grid=[16, 16, 16]", "--contexts", "2"]
    assert main(["bench", "step", *tiny, "--repeats", "1", "--json", str(file)]) == 0
    assert "train.accumulate=4" in capsys.readouterr().out
    plain, ema, _, four = json.loads(file.read_text())["options"]
    # Parameters and the two moments of Adam are three times the parameters.
    assert plain["argument_bytes"] < ema["argument_bytes"] < 4 / 3 * plain["argument_bytes"]
    assert four["temporary_bytes"] < plain["temporary_bytes"]
    assert len(plain["seconds"]) == 1
