"""`wsicl info`: what a checkpoint is, and whether it is still what was written."""

import pytest
from flax import nnx
from rich.console import Console

from wsicl_jax.config import ExperimentConfig, ModelConfig, config_to_dict
from wsicl_jax.errors import CheckpointError, ConfigError, WsiclError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.storage.object_path import place_of
from wsicl_jax.storage.transfer import upload
from wsicl_jax.tools.info import describe
from wsicl_jax.weights.export.export import export
from wsicl_jax.weights.network_checkpoint import save_model
from wsicl_jax.weights.networks import shipped_networks


@pytest.fixture
def checkpoint(tmp_path):
    config = ExperimentConfig(model=ModelConfig(channels=(2, 4), precision="bfloat16"))
    model = DualBranch(config.model, rngs=nnx.Rngs(0))
    about = {"config": config_to_dict(config), "step": 7, "skipped": 3}
    save_model(tmp_path / "saved", model, about)
    return tmp_path / "saved"


def told(path) -> str:
    console = Console(width=200)
    with console.capture() as printed:
        console.print(describe(path))
    return printed.get()


def test_it_says_what_the_checkpoint_is(checkpoint):
    printed = told(checkpoint)
    facts = (
        "7 of 2,000",
        "wsicl_jax 0.",
        "bfloat16",
        "mini_context 0",
        "2, 4",
        "synthetic",
        "cut off",
    )
    for fact in (*facts, "margins of one value", "cut off"):
        assert fact in printed
    assert "yes" in printed.split("verified")[1].splitlines()[0]
    assert "3" in printed.split("skipped updates")[1].splitlines()[0]


def test_a_checkpoint_and_a_file_in_a_bucket_are_described_as_on_a_disk(checkpoint, s3):
    place = place_of(s3)
    upload(checkpoint, [f for f in checkpoint.rglob("*") if f.is_file()], place / "saved")
    saved = f"{s3}/saved"
    here, there = ([line.split() for line in told(p).splitlines()] for p in (checkpoint, saved))
    assert there[0] == ["checkpoint", saved] and ["verified", "yes"] in there
    assert there[1:-1] == here[1:-1]  # the last line names the path
    file = shipped_networks()["small"]
    (place / file.name).write_bytes(file.read_bytes())
    assert told(f"{s3}/{file.name}") == told(file)
    with pytest.raises(WsiclError, match=f"{s3}/nothing does not exist"):
        told(f"{s3}/nothing")


def test_a_damaged_checkpoint_is_said_to_be_damaged(checkpoint):
    for file in (checkpoint / "parameters" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:-10])
    assert "damaged" in told(checkpoint).split("verified")[1].splitlines()[0]


def test_a_checkpoint_with_damaged_metadata_is_an_error(checkpoint):
    file = checkpoint / "metadata" / "metadata"
    file.write_text(file.read_text().replace('"step": 7', '"step": 8'))
    with pytest.raises(CheckpointError, match="damaged"):
        told(checkpoint)


def test_it_says_what_an_exported_file_is(checkpoint, tmp_path):
    file = tmp_path / "network.safetensors"
    export(checkpoint, file, "safetensors")
    printed = told(file)
    for fact in ("network.safetensors", "7 of 2,000", "2, 4", "bfloat16"):
        assert fact in printed
    file.write_bytes(b"no network")
    with pytest.raises(CheckpointError, match=r"network\.safetensors"):
        told(file)


def test_a_run_whose_configuration_is_empty_is_told(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"is empty, so the settings of .* are unknown"):
        told(tmp_path / "run")


def test_a_folder_does_not_hide_the_network_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    with pytest.warns(UserWarning, match=r"write \./small"):
        assert "small.safetensors" in told("small")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        told("./small")
