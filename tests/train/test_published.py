"""The published recipe, at a small size."""

from pathlib import Path

import pytest
from tiny_runs import read_lines, saved_steps

from wsicl_jax.cli import main
from wsicl_jax.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs" / "published"
SMALL = [
    "data=synthetic",
    "volume.grid=[16, 16, 16]",
    "model.channels=[2, 4]",
    "train.steps=10",
    "train.batch=2",
    "train.evaluate_every=4",
    "train.log_every=5",
    "train.workers=0",
    "evaluation.synthetic_structures=1",
    "evaluation.synthetic_targets=1",
]


def test_the_second_stage_is_the_first_at_a_fifth_of_the_rate_with_more_context_images():
    first, second = (load_config(CONFIGS / f"stage{number}.yaml") for number in (1, 2))
    assert (first.episode.contexts, second.episode.contexts) == ((3, 3), (1, 8))
    assert second.train.learning_rate == pytest.approx(first.train.learning_rate / 5)
    assert second.train.initial_weights == first.run
    assert first.train.schedule == second.train.schedule == "plateau"
    assert first.data == second.data


@pytest.mark.slow
def test_the_first_stage_runs_ten_steps(tmp_path):
    run = tmp_path / "run"
    assert main(["train", str(CONFIGS / "stage1.yaml"), *SMALL, f"run={run}"]) == 0
    losses = [line for line in read_lines(run) if "loss" in line]
    assert [line["learning_rate"] for line in losses] == pytest.approx([1e-5, 1e-5])
    assert saved_steps(run)[-1] == 10
