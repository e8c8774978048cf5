"""A run and its data: what it writes of them, and what may have changed when it goes on."""

import gc
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import STEPS, assert_equal_networks, read_lines, start, tiny

from wsicl_jax.cli import main
from wsicl_jax.config import config_from_dict, config_to_dict, override_config
from wsicl_jax.data.datasets import open_datasets
from wsicl_jax.data.manifest import read_manifest, write_manifest
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate.planning import plan_experiment
from wsicl_jax.storage.checkpoints import find_checkpoint, read_metadata
from wsicl_jax.storage.location import Location
from wsicl_jax.train import binding
from wsicl_jax.train.binding import DATA, datasets_of_checkpoint, find_start, open_run, write_start
from wsicl_jax.train.loop import train

SHAPE = (16, 16, 16)
STOPPED = 6


def case(path: Path, name: str, seed: int, subject: str | None = None) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[2:8, 4:12, 4:12] = 1
    label[9:14, 4:12, 4:12] = 2
    image = label + np.random.default_rng(seed).normal(0, 0.2, SHAPE)
    write_case(path, name, image[None], label, np.eye(4), subject=subject)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "blocks"
    create_store(path, "blocks", ("MR",), {1: "left", 2: "right"})
    for number in range(10):
        case(path, f"case{number}", number)
    finish_store(path)
    return path


def on(store: Path, run: Path):
    plain = config_to_dict(tiny(run))
    plain["data"] = [{"store": str(store)}]
    plain["augment"]["gin"] = 0  # which alone would double the time of compiling
    plain["episode"]["validation_share"] = 0.3
    plain["evaluation"] = {"contexts": 2, "prompts": 1}
    return config_from_dict(plain)


def test_the_log_tells_episodes_and_loss_of_each_data_set_and_structure(data_set, tmp_path):
    settings = config_to_dict(on(data_set, tmp_path / "run"))
    settings["data"].append({"store": "synthetic"})
    config = config_from_dict(settings)
    train(config)
    counts = dict.fromkeys(("blocks", "synthetic"), 0.0)
    lines = read_lines(tmp_path / "run")
    by_structure = [line for line in lines if any(n.startswith("loss_of/blocks/") for n in line)]
    assert [line["step"] for line in by_structure] == [3, 6, 8]  # with the checkpoints
    for line in (line for line in lines if "loss" in line):
        shown = [name for name in counts if f"episodes_of/{name}" in line]
        episodes = {name: line[f"episodes_of/{name}"] for name in shown}
        total = sum(line[f"loss_of/{name}"] * count for name, count in episodes.items())
        assert total / sum(episodes.values()) == pytest.approx(line["loss"])
        for name in shown:
            counts[name] += episodes[name]
    assert sum(counts.values()) == STEPS * config.train.batch
    assert all(counts.values())
    names = [name for line in by_structure for name in line if "/blocks/" in name]
    assert {name.rpartition("/")[2] for name in names} == {"left", "right"}
    shown = [line[name] for line in by_structure for name in line if "episodes_of" in name]
    assert counts["blocks"] <= sum(shown) <= 2 * counts["blocks"]  # some unite both


def test_a_start_reads_two_files_of_a_store_however_many_cases_it_has(
    data_set, tmp_path, monkeypatch
):
    read, keys, collects = Location.read, [], []

    def told(location, key):
        keys.append(key)
        collects.append(gc.isenabled())
        return read(location, key)

    monkeypatch.setattr(Location, "read", told)
    with open_run(on(data_set, tmp_path / "run")):
        pass
    assert sorted(keys) == ["catalogue.jsonl", "zarr.json"]
    # A collection walks over all cases that have been read so far.
    assert not any(collects) and gc.isenabled()


@pytest.fixture(scope="module")
def trained(data_set, tmp_path_factory):
    """A run that was bound to the data set, and its network."""
    run = tmp_path_factory.mktemp("bound") / "run"
    return run, train(on(data_set, run))


@pytest.fixture
def store(data_set, tmp_path) -> Path:
    """A copy of the data set, to be changed."""
    return Path(shutil.copytree(data_set, tmp_path / "blocks"))


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the run, stopped after its checkpoint before the last."""
    copied = Path(shutil.copytree(trained[0], tmp_path / "run"))
    shutil.rmtree(copied / "checkpoints" / str(STEPS))
    return copied


def parts_of(run: Path) -> dict[str, str]:
    return {name: case.part for name, case in read_manifest(run).data_sets[0].cases.items()}


def test_a_run_writes_which_cases_it_trains_on(trained, data_set):
    run, _ = trained
    (data,) = open_datasets(on(data_set, run))
    assert parts_of(run) == data.parts
    assert sorted(data.parts.values()).count("validation") == 3
    metadata = read_metadata(run)
    assert metadata[DATA] == read_manifest(run).digest


def test_a_store_that_has_moved_is_no_change(trained, run, store):
    assert_equal_networks(train(on(store, run), resume=True), trained[1])
    assert read_manifest(run) == read_manifest(trained[0])


def test_what_else_is_said_of_a_data_set_may_not_change(run, store):
    config = override_config(on(store, run), ["data.0.weight=2"])
    with pytest.raises(ConfigError, match=r"another data\.0\.weight"):
        train(config, resume=True)


def test_changed_data_are_refused_with_what_changed(run, store):
    case(store, "case3", 77)
    shutil.rmtree(store / "cases" / "case4")
    case(store, "new", 11)
    finish_store(store)
    before = (run / "data.json").read_bytes()
    message = r"1 case changed \(case3\), 1 case new \(new\), 1 case missing \(case4\)\. Restore"
    with pytest.raises(DataError, match=message):
        train(on(store, run), resume=True)
    assert (run / "data.json").read_bytes() == before


def test_changes_that_are_accepted_are_written_and_told_in_the_log(run, store):
    before = parts_of(run)
    case(store, "case3", 77)
    case(store, "new", 11)
    finish_store(store)
    train(on(store, run), resume=True, accept_data_changes=True)
    now = parts_of(run)
    assert now.keys() == before.keys() | {"new"}
    assert {name: now[name] for name in before} == before
    told = {"step": STOPPED, "cases_changed": 1, "cases_new": 1, "cases_missing": 0}
    assert told in read_lines(run)
    kept = json.loads((run / "data.0001.json").read_text())
    assert "new" not in kept["data_sets"][0]["cases"]
    # From now on they are what the run is bound to, for its checkpoint before them as well.
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    config = on(store, run)
    assert find_start(config, open_datasets(config), resume=True).done == STOPPED


def test_what_cannot_be_trained_on_is_not_accepted(run, store):
    for number in range(2, 10):
        shutil.rmtree(store / "cases" / f"case{number}")
    finish_store(store)
    before = (run / "data.json").read_bytes()
    with pytest.raises(DataError, match="training cases"):
        train(on(store, run), resume=True, accept_data_changes=True)
    assert (run / "data.json").read_bytes() == before


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "is damaged"),
        (lambda file: file.write_text("[]"), "is damaged"),
    ],
)
@pytest.mark.parametrize("accept", [False, True])
def test_a_run_without_its_manifest_does_not_go_on(run, data_set, harm, message, accept):
    harm(run / "data.json")
    with pytest.raises(DataError, match=rf"data\.json {message}.* bring the file back"):
        train(on(data_set, run), resume=True, accept_data_changes=accept)


def test_the_manifest_of_another_run_is_noticed(run, data_set, tmp_path):
    config = override_config(on(data_set, tmp_path / "other"), ["seed=1"])
    start_of_other = find_start(config, open_datasets(config), resume=False)
    write_manifest(run, start_of_other.manifest)
    with pytest.raises(DataError, match="not the one that the checkpoint of step 6"):
        train(on(data_set, run), resume=True)


def test_a_start_that_saved_nothing_is_bound_anew(data_set, store, tmp_path):
    run = tmp_path / "run"
    config = on(store, run)
    with open_run(config) as start:
        write_start(config, start)
    case(store, "new", 11)
    finish_store(store)
    with open_run(config, resume=True) as start:
        write_start(config, start)
    assert "new" in parts_of(run)
    assert not (run / "data.0001.json").exists()


def test_a_process_that_sees_other_data_says_so(data_set, store, tmp_path, monkeypatch):
    with open_run(on(data_set, tmp_path / "run")) as leaders:
        pass
    monkeypatch.setattr(
        binding, "broadcast_from_leader", lambda _: [0, leaders.manifest.to_json(), leaders.changes]
    )
    with open_run(on(store, tmp_path / "run")) as own:
        assert own.manifest == leaders.manifest
    case(store, "case3", 77)
    finish_store(store)
    with pytest.raises(DataError, match=r"other data than process 0: .*1 case changed \(case3\)"):
        open_run(on(store, tmp_path / "run")).__enter__()


# Evaluation of a checkpoint.


def evaluated(checkpoint: Path, config):
    found = find_checkpoint(checkpoint)
    (data,) = datasets_of_checkpoint(found, read_metadata(found), config)
    return data


def test_a_checkpoint_is_evaluated_on_the_split_it_was_trained_with(run, store):
    """Also after changes were accepted, by which the seed alone would give another one."""
    for number in range(10, 30):
        case(store, f"case{number}", number)
    finish_store(store)
    before, config = parts_of(run), on(store, run)
    train(config, resume=True, accept_data_changes=True)
    (by_seed,) = open_datasets(config)
    assert any(by_seed.parts[name] != part for name, part in before.items())
    for checkpoint in (run, run / "checkpoints" / str(STEPS)):
        with warnings.catch_warnings(action="error"):
            data = evaluated(checkpoint, config)
        assert data.parts == parts_of(run)
        assert {n: data.parts[n] for n in before} == before
        (planned,) = plan_experiment(config, [data]).planned
        targets = {episode.target for episode in planned.episodes.episodes}
        assert not targets & {name for name, part in before.items() if part == "train"}


def test_data_that_changed_since_are_warned_of_and_no_trained_case_becomes_a_target(run, store):
    for number in range(10, 40):
        case(store, f"case{number}", number)
    case(store, "case0", 99)
    finish_store(store)
    with pytest.warns(UserWarning, match=r"1 case changed \(case0\), 30 cases new"):
        data = evaluated(run, on(store, run))
    before = parts_of(run)
    assert {n: data.parts[n] for n in before} == before


def test_a_checkpoint_away_from_its_run_is_evaluated_with_a_warning(run, data_set, tmp_path):
    alone = shutil.copytree(run / "checkpoints" / str(STOPPED), tmp_path / "alone")
    with pytest.warns(UserWarning, match=r"data\.json.* is missing"):
        data = evaluated(alone, on(data_set, run))
    assert data.parts == parts_of(run)


def test_data_sets_that_the_run_does_not_know_are_split_by_the_seed(run, tmp_path):
    path = tmp_path / "others"
    create_store(path, "others", ("MR",), {1: "left", 2: "right"})
    for number in range(100, 110):
        case(path, f"case{number}", number)
    finish_store(path)
    with warnings.catch_warnings(action="error"):
        data = evaluated(run, on(path, run))
    (by_seed,) = open_datasets(on(path, run))
    assert data.parts == by_seed.parts


# The commands.


def test_the_commands_refuse_accept_and_evaluate(run, store, capsys):
    case(store, "new", 11)
    finish_store(store)
    start(on(store, run), "").wait()
    file = str(run.with_suffix(".yaml"))
    assert main(["train", file, "--resume"]) == 2
    assert "1 case new (new)" in capsys.readouterr().err
    assert main(["train", file, "--accept-data-changes"]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main(["train", file, "--resume", "--accept-data-changes"]) == 0
    assert "new" in parts_of(run)
    assert main(["eval", str(run), f"data={store}"]) == 0
    assert "blocks" in capsys.readouterr().out
