"""What a training will sample, by data set and structure."""

import numpy as np
import pytest

from wsicl_jax.cli import main
from wsicl_jax.data.store_writer import create_store, finish_store, write_case


@pytest.fixture
def stores(tmp_path):
    """Two stores: 4 and 16 cases; in the first, the label `rare` is in one case alone."""
    for name, count in (("few", 4), ("many", 16)):
        path = tmp_path / name
        create_store(path, name, ("T1",), {1: "left", 2: "right", 3: "rare"})
        for number in range(count):
            label = np.zeros((8, 8, 8), np.uint8)
            label[:3], label[4:6], label[7] = 1, 2, 3 * (name == "many" or not number)
            write_case(path, f"case{number}", label[None] + 0.5, label, np.eye(4))
        finish_store(path)
    return tmp_path


def mixed(stores, capsys, *overrides: str) -> dict[str, list[str]]:
    """The rows that are printed, by their first cell; structures as `data set/structure`."""
    config = stores / "experiment.yaml"
    config.write_text(
        f"data: [{{store: {stores}/few}}, {{store: {stores}/many, weight: 2}}, "
        f"{{store: synthetic, weight: 0}}]\n"
        "volume: {grid: [16, 16, 16]}\n"
        "episode: {contexts: [1, 1], validation_share: 0}\n"
        "train: {steps: 100, batch: 3}\n"
    )
    assert main(["data", "mix", str(config), *overrides]) == 0
    rows, prefix = {}, ""
    for line in capsys.readouterr().out.splitlines():
        if "structures of " in line:
            prefix = line.split("structures of ")[1].split(",")[0].strip() + "/"
        cells = [cell.strip() for cell in line.split("│") if cell.strip()]
        if len(cells) > 1:
            rows[prefix + cells[0]] = cells[1:]
    return rows


def test_shares_of_data_sets_follow_their_weights(stores, capsys):
    rows = mixed(stores, capsys)
    assert rows["few"] == ["1", "4", "4", "33.3%", "100"]
    assert rows["many"] == ["2", "16", "16", "66.7%", "200"]
    assert rows["synthetic"] == ["0", "-", "-", "0.0%", "0"]
    rows = mixed(stores, capsys, "episode.sampling=sqrt_cases")
    assert [rows[name][3] for name in ("few", "many")] == ["20.0%", "80.0%"]


def test_labels_that_episodes_unite_share_them(stores, capsys):
    rows = mixed(stores, capsys)
    # 1 or 2 of the 2 labels of `few`, 1 to 3 of the 3 of `many`.
    assert rows["few/left"] == rows["few/right"] == ["4", "25.00%"]
    assert rows["few/rare"] == ["1", "too few cases"]
    assert rows["many/rare"] == ["16", "44.44%"]


def test_named_structures_share_episodes_by_their_weights(stores, capsys):
    rows = mixed(
        stores,
        capsys,
        "episode.structures=named",
        "data.1.structures={both: [1, 2], rare: [3]}",
        "data.1.structure_weights.both=3",
    )
    assert rows["many/both"] == ["16", "50.00%"]
    assert rows["many/rare"] == ["16", "16.67%"]
