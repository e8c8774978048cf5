"""The card says what is known, and nothing else."""

import json

import pytest
import yaml

from wsicl_jax.config import ExperimentConfig, config_from_dict, config_to_dict
from wsicl_jax.errors import ExportError
from wsicl_jax.weights.export.export import export
from wsicl_jax.weights.export.measured import measured_in_log, measured_in_scores
from wsicl_jax.weights.network_checkpoint import save_model

TRIAL = {
    "data_set": "data",
    "structure": "liver",
    "protocol": "in_context",
    "kind": "box",
    "prompts": 3,
    "contexts": 4,
    "round": 0,
}


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0].strip()


@pytest.fixture(scope="module")
def text(exported):
    return exported("onnx").card.read_text()


def test_card_says_what_it_is_and_how_to_feed_it(text):
    for part in ("| channels | 4, 8 |", "ONNX graph", "wsicl_jax 0.", "parameters |"):
        assert part in text
    rules = section(text, "Input and output")
    for part in ("8 x 6 x 10", "RAS+", "percentiles 1 and 98", "[0, 1]", "above 0.5", "any number"):
        assert part in rules
    assert "context_prompts" in rules
    assert "0.25 times the extent" in rules and "**Margins** are cut off first" in rules


def test_card_says_how_it_was_trained(text):
    training = section(text, "Training")
    for part in (
        r"stores/a\|b",
        "| steps | 30 of",
        "smooth_l3_l1",
        "| optimiser | adam |",
        "| seed | 7 |",
        "box",
    ):
        assert part in training


def test_card_has_the_settings_as_they_were(text, experiment):
    block = section(text, "Settings").removeprefix("```yaml\n").removesuffix("```")
    assert config_from_dict(yaml.safe_load(block)) == experiment


def test_card_has_the_numbers_of_the_check(text, exported):
    check = section(text, "Check of this file")
    for contexts, deviation in exported("onnx").comparison.deviations.items():
        assert f"| {contexts} | {deviation:.1e} |" in check
    assert "ONNX Runtime" in check and "2e-05" in check


def test_card_says_the_licence_that_was_given(text):
    assert section(text, "Licence") == "CC BY 4.0"


def test_card_invents_nothing(trained, tmp_path):
    small = {"model": config_to_dict(trained.experiment)["model"]}
    settings = config_to_dict(config_from_dict(small))
    settings["volume"] = {"grid": [8, 6, 10], "crop": False}
    about = {"config": settings, "source": "theirs.ckpt"}
    save_model(tmp_path / "imported", trained.model, about)
    made = export(tmp_path / "imported", tmp_path / "m.safetensors", "safetensors")
    text = made.card.read_text()
    assert section(text, "Licence") == "Not stated."
    assert section(text, "Dice") == "Nothing was measured."
    told = section(text, "Training")
    assert "theirs.ckpt" in told and "not known" in told and "smooth_l3" not in text
    rules = section(text, "Input and output")
    assert "smoothing" not in rules and "are not cut off" in rules
    assert ExperimentConfig().run not in text


# What was measured


def test_log_gives_the_dice_of_its_step_alone():
    entries = [
        {"step": 10, "a/b/box": 0.1},
        {"step": 20, "loss": 1.0, "a/b/box": 0.2, "a/denoising/contexts=2": 0.9},
        {"step": 20, "a/b/point/prompts=3,contexts=4": 0.3},
    ]
    (found,) = measured_in_log(entries, 20)
    expected = [("a/b/box", 0.2), ("a/b/point/prompts=3,contexts=4", 0.3)]
    assert [(row.what, row.dice) for row in found.rows] == expected
    assert measured_in_log(entries, 30) == measured_in_log(entries, None) == []


def test_scores_are_means_over_targets(tmp_path):
    trials = [TRIAL | {"dice": dice} for dice in (0.5, 0.75, None)]
    trials += [TRIAL | {"dice": 1.0, "protocol": "interactive", "round": 2}]
    (tmp_path / "scores.json").write_text(json.dumps({"step": 5, "trials": trials}))
    (found,) = measured_in_scores(tmp_path / "scores.json", 5)
    rows = {row.what: (row.dice, row.targets) for row in found.rows}
    assert rows == {
        "data/liver, box, 3 prompts on each of 4 contexts": (0.625, 2),
        "data/liver, interactive box, round 2": (1.0, 1),
    }


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"trials": 3}',
        '{"trials": [{}]}',
        '{"trials": []}',
        json.dumps({"trials": [TRIAL | {"dice": 1.5}]}),
        json.dumps({"trials": [TRIAL | {"dice": float("nan")}]}),
        json.dumps({"trials": [TRIAL | {"dice": None}]}),
    ],
)
def test_scores_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(ExportError, match=r"scores\.json.*wsicl eval"):
        measured_in_scores(tmp_path / "scores.json", None)


def test_scores_of_another_step_are_refused(tmp_path):
    content = {"step": 5, "trials": [TRIAL | {"dice": 1.0}]}
    (tmp_path / "scores.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"step 5, but the network is that of step 6"):
        measured_in_scores(tmp_path / "scores.json", 6)
