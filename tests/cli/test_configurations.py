"""The configurations that come with the package."""

from pathlib import Path

import pytest

from wsicl_jax.cli import main
from wsicl_jax.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.yaml")}


def test_configs_lists_every_configuration(capsys):
    assert main(["configs"]) == 0
    assert set(capsys.readouterr().out.splitlines()) == set(files(CONFIGS))


@pytest.mark.parametrize("name", ["small/02_prompts", "small/02_prompts.yaml"])
def test_configs_prints_a_configuration_by_its_name(name, capsys):
    assert main(["configs", name]) == 0
    assert capsys.readouterr().out == (CONFIGS / "small" / "02_prompts.yaml").read_text()


def test_configs_copies_all_configurations_so_that_they_load(tmp_path, capsys):
    output = tmp_path / "below" / "configs"
    assert main(["configs", "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert files(output) == files(CONFIGS)
    assert [path.name for path in output.parent.iterdir()] == ["configs"]
    assert load_config(output / "small.yaml") == load_config(CONFIGS / "small.yaml")


def test_configs_refuses_an_unknown_name_and_an_existing_directory(tmp_path, capsys):
    assert main(["configs", "hipocampus"]) == 2
    assert "nearest is 'hippocampus.yaml'" in capsys.readouterr().err
    assert main(["configs", "--output", str(tmp_path)]) == 2
    assert "give a new directory" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
