"""Whatever carries weights comes back bit for bit with its settings, told by its content."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from wsicl_jax.config import ModelConfig, config_to_dict
from wsicl_jax.errors import CheckpointError
from wsicl_jax.storage.checkpoints import read_metadata
from wsicl_jax.weights.file_digest import DIGEST
from wsicl_jax.weights.file_loading import import_weights, load_weights
from wsicl_jax.weights.network_checkpoint import experiment_config, load_checkpoint
from wsicl_jax.weights.stored_settings import KEY, Settings, read_settings, settings_text
from wsicl_jax.weights.tensor_names import to_state_dict

TINY = Path(__file__).parents[1] / "data" / "tiny_lightning.ckpt"
CARRYING = ("torch", "safetensors", "onnx")


def assert_equal_bits(given, expected):
    given, expected = to_state_dict(given), to_state_dict(expected)
    assert given.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(given[name].view(np.uint32), tensor.view(np.uint32))


@pytest.mark.parametrize("format", CARRYING)
def test_parameters_and_settings_come_back_bit_for_bit(exported, trained, format):
    model, experiment = load_weights(exported(format).path)
    assert_equal_bits(model, trained.model)
    assert experiment == trained.experiment
    assert model.config == trained.experiment.model


@pytest.mark.parametrize("format", CARRYING)
def test_imported_checkpoint_is_what_was_exported(exported, trained, tmp_path, format):
    import_weights(exported(format).path, tmp_path / "back")
    metadata = read_metadata(tmp_path / "back")
    assert experiment_config(metadata) == trained.experiment
    assert metadata["source"] == exported(format).path.name and metadata["step"] == 30
    assert_equal_bits(load_checkpoint(tmp_path / "back"), trained.model)


@pytest.mark.parametrize("format", CARRYING)
def test_format_is_told_by_content_whatever_the_name(exported, trained, tmp_path, format):
    for name in ("m.ckpt", "m.onnx", "m.safetensors", "m"):
        (tmp_path / name).write_bytes(exported(format).path.read_bytes())
        assert_equal_bits(load_weights(tmp_path / name)[0], trained.model)


def test_authors_file_gets_the_published_grid_and_no_training(tmp_path):
    model, experiment = load_weights(TINY)
    assert model.config.channels == (4, 8, 16)
    assert experiment.volume.grid == (128, 128, 128)
    assert experiment.model.context.mini_context == 1
    import_weights(TINY, tmp_path / "imported")
    assert "step" not in read_metadata(tmp_path / "imported")


def test_neither_pytorch_nor_onnx_is_needed_to_read(exported):
    files = [str(exported(format).path) for format in CARRYING]
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'onnx', 'onnxruntime')))\n"
        "from wsicl_jax.weights.file_loading import load_weights\n"
        "for path in sys.argv[1:]:\n    print(load_weights(path)[1].volume.grid)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, *files], check=True, capture_output=True)
    assert told.stdout.decode().splitlines() == ["(8, 6, 10)"] * 3


# What is none


@pytest.mark.parametrize(
    "content", [b"", b"weights", bytes(5000), b"\x80\x02}q\x00.", b"PK\x05\x06" + bytes(18)]
)
def test_file_of_no_known_format_is_refused(tmp_path, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.safetensors: its format is unknown"):
        load_weights(tmp_path / "m.safetensors")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file .*absent\.onnx"):
        load_weights(tmp_path / "absent.onnx")


def test_directory_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="it is a directory"):
        load_weights(tmp_path)


def test_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(CheckpointError, match="it is a pipe"):
        load_weights(tmp_path / "m.onnx")


def test_refused_file_leaves_nothing_behind(exported, tmp_path):
    data = exported("safetensors").path.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-4])
    with pytest.raises(CheckpointError):
        import_weights(tmp_path / "cut.safetensors", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.safetensors"]


def test_existing_output_is_refused_before_the_file_is_read(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        import_weights(tmp_path / "absent.onnx", tmp_path / "there")


# Settings that are not ours


@pytest.fixture(scope="module")
def honest(experiment) -> dict:
    return json.loads(settings_text(Settings(experiment, 30)))


def test_settings_come_back(honest, experiment):
    assert read_settings(json.dumps(honest), experiment.model) == (experiment, 30, None)


def changed(*path, to):
    def change(content: dict) -> str:
        node = content = json.loads(json.dumps(content))
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to
        return json.dumps(content)

    return change


NONSENSE = {
    "no JSON": lambda _: "{",
    "nothing": lambda _: "",
    "a number": lambda _: "3",
    "deep": lambda _: "[" * 100_000,
    "a giant text": lambda _: '"' + "x" * 2_000_000 + '"',
    "a giant number": lambda _: '{"format": ' + "9" * 10_000 + "}",
    "another format": changed("format", to=2),
    "a damaged record": changed("seen", to={"data_sets": 3}),
    "no configuration": changed("config", to=None),
    "a negative step": changed("step", to=-1),
    "a step that is none": changed("step", to=True),
    "an unknown setting": changed("config", "volume", "gird", to=1),
    "a NaN": changed("config", "volume", "percentiles", to=[float("nan"), 99.0]),
    "an infinity": changed("config", "train", "learning_rate", to=float("inf")),
    "a number beyond all": lambda c: json.dumps(c).replace('"step": 30', '"step": 1e999'),
    "percentiles out of order": changed("config", "volume", "percentiles", to=[99.0, 1.0]),
    "a grid of another multiple": changed("config", "volume", "grid", to=[8, 7, 10]),
    "a giant grid": changed("config", "volume", "grid", to=[10**9, 10**9, 10**9]),
    "an absurd grid": changed("config", "volume", "grid", to=[10**4000, 2, 2]),
    "a grid of nothing": changed("config", "volume", "grid", to=[0, 8, 8]),
    "another network": changed("config", "model", "channels", to=[4, 8, 16]),
    "a giant network": changed("config", "model", "channels", to=[10**9] * 1000),
    "a long name": changed("config", "x" * 100_000, to=1),
}


@pytest.mark.parametrize("told", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_in_settings_is_refused_in_few_words(honest, told):
    with pytest.raises(CheckpointError, match=KEY) as error:
        read_settings(told(honest), ModelConfig(channels=(4, 8)))
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_a_file_that_has_lost_its_digest_is_refused(exported, tmp_path, format):
    data = exported(format).path.read_bytes()
    (tmp_path / "m.file").write_bytes(data.replace(DIGEST.encode(), b"_" * len(DIGEST)))
    with pytest.raises(CheckpointError, match="the digest of the file is missing"):
        load_weights(tmp_path / "m.file")


def test_file_with_nonsense_is_named(exported, tmp_path):
    data = exported("onnx").path.read_bytes()
    data = data.replace(DIGEST.encode(), b"_" * len(DIGEST))  # or nobody would look further
    (tmp_path / "m.onnx").write_bytes(data.replace(b'"grid": [8, 6, 10]', b'"grid": [8, 0, 10]'))
    with pytest.raises(CheckpointError, match=r"m\.onnx: its settings .*grid"):
        load_weights(tmp_path / "m.onnx")


def test_loaded_network_runs(exported):
    model, experiment = load_weights(exported("safetensors").path)
    volume = np.zeros((1, *experiment.volume.grid, 1), np.float32)
    shape = jax.eval_shape(model, volume, volume[:, None], volume[:, None]).shape
    assert shape == (1, 8, 6, 10, 1)


def test_configuration_that_travels_is_whole(honest, experiment):
    assert honest["config"] == config_to_dict(experiment)
