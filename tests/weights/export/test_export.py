"""Nothing appears that was not checked; what appears has a card and gives the same numbers."""

import dataclasses
import json
import os
import socket
import subprocess

import numpy as np
import pytest

from wsicl_jax.cli import main
from wsicl_jax.config import ExperimentConfig, ModelConfig, VolumeConfig, config_to_dict
from wsicl_jax.errors import CheckpointError, ExportError, MissingExtraError
from wsicl_jax.weights.export import export as exporting
from wsicl_jax.weights.export import safetensors_file
from wsicl_jax.weights.export.export import BOUNDS, export
from wsicl_jax.weights.export.verification import checked_grid, samples_on
from wsicl_jax.weights.file_loading import load_weights
from wsicl_jax.weights.network_checkpoint import save_model
from wsicl_jax.weights.tensor_names import to_state_dict

FORMATS = ("torch", "safetensors", "stablehlo", "onnx")
PUBLISHED = (32, 64, 128, 256, 512)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_networks_numbers_in_its_own_runtime(exported, agree, format):
    made = exported(format)
    found = made.comparison
    assert sorted(found.deviations) == [1, 2, 5]
    assert found.grid == (8, 6, 10)
    agree(f"export: {format}, relative", found.deviation, 0.0, BOUNDS["float32"])
    assert made.path.stat().st_size == made.size > 4 * 8000
    assert made.card.name == f"{made.path.name}.card.md" and made.card.is_file()
    assert not list(made.path.parent.glob(".*"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_deviates_as_it_must_and_no_more(trained, exported, tmp_path, dtype):
    made = export(trained.path, tmp_path / "m.safetensors", "safetensors", dtype=dtype)
    assert 1e-6 < made.comparison.deviation < BOUNDS[dtype]
    assert made.size < 0.7 * exported("safetensors").size


@pytest.mark.parametrize("wrong", [1e-3, np.nan, np.inf])
def test_file_that_gives_other_numbers_does_not_appear(trained, tmp_path, monkeypatch, wrong):
    right = safetensors_file.run_safetensors

    def run(path, samples):
        for output in right(path, samples):
            output = output.copy()
            output[0, 0, 0] += wrong
            yield output

    monkeypatch.setattr(safetensors_file, "run_safetensors", run)
    with pytest.raises(ExportError, match="deviates"):
        export(trained.path, tmp_path / "m.safetensors", "safetensors")
    assert names_in(tmp_path) == []


def test_file_that_gives_too_few_outputs_does_not_appear(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_file, "run_safetensors", lambda path, samples: iter(()))
    with pytest.raises(ValueError, match="shorter"):
        export(trained.path, tmp_path / "m.safetensors", "safetensors")
    assert names_in(tmp_path) == []


def test_file_whose_weights_differ_in_a_bit_does_not_appear(trained, tmp_path, monkeypatch):
    right = safetensors_file.to_state_dict

    def changed(model):
        tensors = right(model)
        first = next(iter(tensors.values()))
        first.view(np.uint32).flat[0] ^= 1
        return tensors

    monkeypatch.setattr(safetensors_file, "to_state_dict", changed)
    with pytest.raises(ExportError, match="does not give back"):
        export(trained.path, tmp_path / "m.safetensors", "safetensors")
    assert names_in(tmp_path) == []


def test_network_that_is_not_finite_is_not_exported(trained, tmp_path):
    model = load_weights_of(trained)
    model.target_decoder.head.bias[...] = np.full(1, np.nan, np.float32)
    about = {"config": config_to_dict(trained.experiment)}
    save_model(tmp_path / "nan", model, about)
    with pytest.raises(ExportError, match="not finite"):
        export(tmp_path / "nan", tmp_path / "m.safetensors", "safetensors")
    assert names_in(tmp_path) == ["nan"]


def load_weights_of(trained):
    from wsicl_jax.weights.network_checkpoint import load_checkpoint

    return load_checkpoint(trained.path)


@pytest.mark.parametrize(
    "there", ["m.safetensors", "m.safetensors.card.md", "m.safetensors.config.json"]
)
def test_what_is_there_stays(trained, tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(ExportError, match=rf"{there} exists already.*--overwrite"):
        export(trained.path, tmp_path / "m.safetensors", "safetensors")
    assert names_in(tmp_path) == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_what_is_there_is_overwritten_if_that_is_asked_for(trained, tmp_path):
    names = ["m.safetensors", "m.safetensors.card.md", "m.safetensors.config.json"]
    for name in names:
        (tmp_path / name).write_text("mine")
    export(trained.path, tmp_path / "m.safetensors", "safetensors", overwrite=True)
    assert names_in(tmp_path) == names
    assert all((tmp_path / name).stat().st_size > 100 for name in names)


def test_a_folder_holds_several_networks_each_with_its_own_settings(trained, tmp_path):
    other = dataclasses.replace(trained.experiment, volume=VolumeConfig(grid=(8, 8, 8), crop=False))
    save_model(tmp_path / "other", trained.model, {"config": config_to_dict(other)})
    export(trained.path, tmp_path / "a.safetensors", "safetensors")
    export(tmp_path / "other", tmp_path / "b.safetensors", "safetensors", dtype="float16")
    first, second = (
        json.loads((tmp_path / f"{name}.safetensors.config.json").read_text()) for name in "ab"
    )
    assert first["working_grid"] == [8, 6, 10] and first["percentiles"] == [1.0, 98.0]
    assert first["prompt_smoothing"] == 0.25 and first["threshold"] == 0.5
    assert first["experiment"] == config_to_dict(trained.experiment)
    assert first["crop"] is True and second["crop"] is False
    assert second["working_grid"] == [8, 8, 8]


@pytest.mark.parametrize("name", ["", "file/where.onnx"])
def test_place_that_is_none_is_refused_at_once(trained, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot write"):
        export(trained.path, tmp_path / name, "onnx")


def test_folder_of_the_file_is_made_and_what_a_killed_export_left_is_removed(trained, tmp_path):
    export(trained.path, tmp_path / "new/folder/m.safetensors", "safetensors")
    assert (tmp_path / "new/folder/m.safetensors").is_file()
    folder = tmp_path / "old"
    folder.mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = folder / f".m.safetensors.{dead.pid}@{socket.gethostname()}.partial"
    left.touch()
    (folder / f".m.safetensors.{os.getppid()}@{socket.gethostname()}.partial").touch()  # it lives
    export(trained.path, folder / "m.safetensors", "safetensors")
    assert not left.exists() and len(list(folder.glob("*.partial"))) == 1


def test_precision_that_a_format_has_not_is_refused(trained, tmp_path):
    with pytest.raises(ExportError, match="for safetensors"):
        export(trained.path, tmp_path / "m.onnx", "onnx", dtype="float16")


def test_missing_checkpoint_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        export(tmp_path / "none", tmp_path / "m.onnx", "onnx")


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_network_beyond_two_gigabytes_is_sent_to_safetensors(
    trained, tmp_path, monkeypatch, format
):
    monkeypatch.setattr(exporting, "_MAX_PROGRAM_BYTES", 1000)
    with pytest.raises(ExportError, match="use safetensors"):
        export(trained.path, tmp_path / "m", format)


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_without_the_extra_its_name_is_told(trained, tmp_path, monkeypatch, format):
    import sys

    monkeypatch.setitem(sys.modules, format, None)
    for name in ("torch_checkpoint", "torch_network", "onnx_file"):
        monkeypatch.delitem(sys.modules, f"wsicl_jax.weights.export.{name}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"wsicl_jax\[{format}\]"):
        export(trained.path, tmp_path / "m", format)
    assert names_in(tmp_path) == []


def test_network_trained_in_bfloat16_is_compared_in_float32(trained, tmp_path):
    model = dataclasses.replace(trained.experiment.model, precision="bfloat16")
    experiment = dataclasses.replace(trained.experiment, model=model)
    save_model(tmp_path / "bf16", trained.model, {"config": config_to_dict(experiment)})
    made = export(tmp_path / "bf16", tmp_path / "m.onnx", "onnx")
    assert made.comparison.deviation < BOUNDS["float32"]
    assert load_weights(made.path)[1].model.precision == "bfloat16"


def test_checked_grid_is_a_multiple_and_bounded():
    assert checked_grid((128, 40, 8), 8) == (64, 40, 8)
    assert checked_grid((48, 72, 96), 24) == (48, 48, 48)
    assert checked_grid((256, 256, 256), 128) == (128, 128, 128)


def test_smaller_context_sets_of_the_check_are_parts_of_larger_ones():
    small, _, large = samples_on((8, 8, 8))
    np.testing.assert_array_equal(small.prompts, large.prompts[:1])
    assert all(channel.any() for channel in large.prompts)
    assert len({channel.tobytes() for channel in large.images}) == 5


@pytest.fixture
def run(trained, tmp_path):
    """A run's directory with the checkpoint of step 30 and a log that has its Dice."""
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(trained.path, folder / "checkpoints" / "30")
    entries = [
        {"step": 20, "data/liver/box": 0.5},
        {"step": 30, "loss": 0.25},
        {"step": 30, "data/liver/box": 0.8125, "data/denoising/contexts=3": 0.99},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))
    return folder


def test_command_writes_file_card_and_table(run, tmp_path, capsys):
    output = tmp_path / "m.onnx"
    arguments = ["export", str(run), "--format", "onnx", "--output", str(output)]
    assert main([*arguments, "--licence", "CC BY 4.0"]) == 0
    printed = capsys.readouterr().out
    assert "ONNX Runtime" in printed and "2e-05" in printed and "bit for bit" in printed
    assert printed.splitlines()[-1] == str(output)
    text = (tmp_path / "m.onnx.card.md").read_text()
    assert "| data/liver/box | 0.8125 |" in text and "0.5000" not in text and "0.99" not in text
    assert "CC BY 4.0" in text
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_command_brings_back_what_it_wrote(exported, trained, tmp_path, capsys):
    output = tmp_path / "back"
    assert main(["import", str(exported("safetensors").path), str(output)]) == 0
    assert "8 x 6 x 10" in capsys.readouterr().out
    again = export(output, tmp_path / "again.safetensors", "safetensors")
    assert again.path.read_bytes() == exported("safetensors").path.read_bytes()


def test_command_that_fails_its_check_ends_with_code_2(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exporting, "BOUNDS", dict.fromkeys(BOUNDS, -1.0))
    arguments = ["--format", "safetensors", "--output", str(tmp_path / "m.safetensors")]
    assert main(["export", str(trained.path), *arguments]) == 2
    assert "deviates" in capsys.readouterr().err
    assert names_in(tmp_path) == []


def test_scores_of_another_step_are_refused_before_anything_is_written(trained, tmp_path, capsys):
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"step": 31, "trials": []}))
    arguments = ["--format", "onnx", "--output", str(tmp_path / "m.onnx"), "--scores", str(scores)]
    assert main(["export", str(trained.path), *arguments]) == 2
    assert "step 31" in capsys.readouterr().err
    assert names_in(tmp_path) == ["scores.json"]


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_published_size_is_exported_and_comes_back(random_network, tmp_path, format):
    config = ExperimentConfig(
        model=ModelConfig(channels=PUBLISHED), volume=VolumeConfig(grid=(32, 32, 32))
    )
    model = random_network(config.model)
    save_model(tmp_path / "published", model, {"config": config_to_dict(config)})
    made = export(tmp_path / "published", tmp_path / "m", format)
    assert made.comparison.deviation < BOUNDS["float32"]
    assert made.size == pytest.approx(4 * 70_854_913, rel=1e-3)
    if format != "stablehlo":
        assert made.tensors == 132
        back = to_state_dict(load_weights(made.path)[0])
        for name, tensor in to_state_dict(model).items():
            np.testing.assert_array_equal(back[name], tensor)
