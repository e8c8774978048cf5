"""The command line as people use it: the whole path on small files, and hurried mistakes."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from wsicl_jax.cli import main

DATA = Path(__file__).parent / "data"
SHAPE = (20, 14, 18)
AFFINE = np.diag([-1.0, 2.0, 1.5, 1.0])


def write_nifti(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An nnU-Net v2 folder of eight cases with two structures."""
    folder = tmp_path_factory.mktemp("nnunet") / "Dataset001_Blocks"
    rng = np.random.default_rng(0)
    for number in range(8):
        label = np.zeros(SHAPE, np.uint8)
        label[2 + number % 3 : 9, 3:9, 4:12] = 1
        label[11:17, 3:9, 4:12] = 2
        image = (label * 100 + rng.normal(0, 5, SHAPE)).astype(np.float32)
        write_nifti(folder / "imagesTr" / f"case{number}_0000.nii.gz", image)
        write_nifti(folder / "labelsTr" / f"case{number}.nii.gz", label)
    dataset = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "left": 1, "right": 2},
        "numTraining": 8,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


@pytest.fixture(scope="module")
def store(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "blocks"
    assert main(["convert", str(source), str(path), "--workers", "1"]) == 0
    return path


@pytest.fixture(scope="module")
def config(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    settings = {
        "run": str(folder / "run"),
        "data": str(store),
        "volume": {"grid": [8, 8, 8]},
        "episode": {"contexts": [2, 2], "validation_share": 0.25},
        "model": {"channels": [2, 4]},
        "train": {"steps": 2, "batch": 1},
        "evaluation": {"contexts": 2, "kinds": ["box", "point"]},
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def run(config):
    assert main(["train", str(config)]) == 0
    return config.parent / "run"


def test_a_run_ends_with_its_evaluation(run):
    content = json.loads((run / "evaluation.json").read_text())
    assert set(content["mean_dice"]) == {
        f"Dataset001_Blocks/{structure}/{kind}"
        for structure in ("left", "right")
        for kind in ("box", "point")
    }


def test_eval_prints_a_table_and_writes_json(run, tmp_path, capsys):
    file = tmp_path / "scores.json"
    assert main(["eval", str(run), "evaluation.kinds=[mask]", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "mask" in printed and "left" in printed
    content = json.loads(file.read_text())
    assert content["step"] == 2
    assert [trial["kind"] for trial in content["trials"]] == ["mask"] * 4


def test_predict_writes_a_mask_on_each_targets_own_grid(run, source, tmp_path):
    context = tmp_path / "context.json"
    image = str(source / "imagesTr" / "case0_0000.nii.gz")
    context.write_text(
        json.dumps({"context": [{"image": image, "boxes": [[[2, 9], [3, 9], [6, 7]]]}]})
    )
    targets = [str(source / "imagesTr" / f"case{n}_0000.nii.gz") for n in (1, 2)]
    example = [image, str(source / "labelsTr" / "case0.nii.gz")]
    arguments = ["predict", str(run), "--context", str(context), "--example", *example]
    assert main([*arguments, "--output", str(tmp_path / "masks"), *targets]) == 0
    for target in targets:
        mask = nib.load(tmp_path / "masks" / Path(target).name)
        assert mask.shape == SHAPE
        np.testing.assert_array_equal(mask.affine, AFFINE)
        assert set(np.unique(mask.dataobj)) <= {0, 1}


def test_predict_names_a_bad_target_and_ends_with_code_1(
    run, source, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    bad = Path("bad.nii.gz")
    bad.write_bytes(b"no image")
    good = source / "imagesTr" / "case1_0000.nii.gz"
    example = [str(good), str(source / "labelsTr" / "case1.nii.gz")]
    output = tmp_path / "masks"
    arguments = ["predict", str(run), "--example", *example, "--output", str(output)]
    assert main([*arguments, str(bad), str(good)]) == 1
    assert "bad.nii.gz" in capsys.readouterr().out
    assert [file.name for file in output.iterdir()] == [good.name]


def test_info_describes_a_store_and_a_run(store, run, capsys):
    assert main(["info", str(store)]) == 0
    assert "right" in capsys.readouterr().out
    assert main(["info", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2" in printed and "8 x 8 x 8" in printed


def test_the_authors_checkpoint_is_imported_and_described(tmp_path, capsys):
    output = tmp_path / "imported"
    assert main(["import", str(DATA / "tiny_lightning.ckpt"), str(output)]) == 0
    assert main(["info", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "4, 8, 16" in printed and "128 x 128 x 128" in printed


def test_the_imported_network_gives_the_authors_numbers(tmp_path):
    import wsicl_jax

    golden = np.load(DATA / "tiny_forward.npz")
    main(["import", str(DATA / "tiny_lightning.ckpt"), str(tmp_path / "imported")])
    model = wsicl_jax.load_model(tmp_path / "imported")
    output = model(
        golden["target"][None, ..., None],
        golden["context_image"][None, ..., None],
        golden["context_prompt"][None, ..., None],
    )
    expected = golden["output_mini_context_5"]
    np.testing.assert_allclose(output[0, ..., 0], expected, atol=1e-5)


def test_convert_names_what_it_left_out_and_ends_with_code_1(source, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    (broken / "labelsTr" / "case3.nii.gz").write_bytes(b"")
    assert main(["convert", str(broken), str(tmp_path / "store"), "--workers", "1"]) == 1
    printed = capsys.readouterr().out
    assert "7 of 8" in printed and "case3" in printed and "empty" in printed


MISTAKES = {
    "a configuration that is not there": (["train", "nothing.yaml"], "nothing.yaml"),
    "a misspelt setting": (["train", "{config}", "train.step=3"], "train.steps"),
    "an ill-typed value": (["train", "{config}", "train.steps=many"], "train.steps"),
    "a run that exists": (["train", "{config}"], "--resume"),
    "a data set that is not there": (
        ["train", "{config}", "data=no/store", "run={new}"],
        "no/store",
    ),
    "a checkpoint that is not there": (["eval", "no/run"], "no/run"),
    "a folder without checkpoint": (["eval", "{empty}"], "no checkpoint"),
    "an unknown setting of the evaluation": (["eval", "{run}", "evaluation.context=2"], "contexts"),
    "more contexts than cases": (["eval", "{run}", "evaluation.contexts=50"], "enough"),
    "a JSON path that is a directory": (["eval", "{run}", "--json", "{empty}"], "directory"),
    "another seed, so another split": (["eval", "{run}", "seed=1"], "evaluation, data, volume"),
    "a run below a file": (["train", "{config}", "run={config}/run"], "experiment.yaml"),
    "a JSON file nowhere": (["eval", "{run}", "--json", "no/where.json"], "no/where"),
    "a source with nothing known in it": (["convert", "{empty}", "{new}"], "dataset.json"),
    "a store with other options": (["convert", "{source}", "{store}", "--ras"], "was begun"),
    "a store on no object store": (["convert", "{source}", "ftp://a/b"], "s3://"),
    "two grids at once": (
        ["convert", "{source}", "{new}", "--grid", "8", "8", "8", "--spacing", "1", "1", "1"],
        "both",
    ),
    "a spacing of nothing": (["convert", "{source}", "{new}", "--spacing", "0", "1", "1"], "0"),
    "a store to verify that is not there": (["data", "verify", "{new}"], "no store"),
    "a case that is not there": (["data", "show", "{store}", "case9"], "no case"),
    "a file that is no checkpoint": (["import", "{config}", "{new}"], "experiment.yaml"),
    "an import onto something": (["import", "{ckpt}", "{empty}"], "exists"),
    "a path of no kind": (["info", "no/path"], "no/path"),
    "no context": (["predict", "{run}", "t.nii.gz", "--output", "{new}"], "context"),
    "a context file nowhere": (
        ["predict", "{run}", "t.nii.gz", "--context", "c.json", "--output", "{new}"],
        "c.json",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line_or_two(mistake, config, run, store, source, tmp_path, capsys):
    arguments, expected = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    places = {
        "config": config,
        "run": run,
        "store": store,
        "source": source,
        "empty": tmp_path / "empty",
        "new": tmp_path / "new",
        "ckpt": DATA / "tiny_lightning.ckpt",
    }
    capsys.readouterr()
    assert main([argument.format(**places) for argument in arguments]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("wsicl ") and expected in message
    assert len(message.splitlines()) <= 2 and "Traceback" not in message
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "empty").iterdir())


def test_an_unknown_verb_is_told_with_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["segment"])
    assert stop.value.code == 2
    assert "segment" in capsys.readouterr().err


def test_settings_may_stand_on_both_sides_of_an_option(config, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", str(config), "train.steps=1", "--resume", f"run={run}"]) == 0
    assert (run / "checkpoints" / "1").is_dir()


def test_a_run_stopped_before_its_evaluation_is_evaluated_when_resumed(config, run, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    (again / "evaluation.json").unlink()
    assert main(["train", str(config), f"run={again}", "--resume"]) == 0
    content, first = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (again, run)
    )
    assert content == first
    assert (again / "log.jsonl").read_text() == (run / "log.jsonl").read_text()


def test_info_describes_a_run_without_checkpoint(run, tmp_path, capsys):
    young = tmp_path / "run"
    young.mkdir()
    shutil.copy(run / "config.yaml", young)
    assert main(["info", str(young)]) == 0
    printed = capsys.readouterr().out
    assert "none yet" in printed and "0 of 2" in printed


def test_the_picture_of_augmentation_is_of_the_configuration_given(config, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "wsicl_jax.browse.augmentation.augmentation_figure",
        lambda config, path, *, index: drawn.append((config.augment.flip, path, index)),
    )
    output = str(tmp_path / "a.png")
    arguments = ["data", "augment", str(config), "augment.flip=0.5", "--index", "3"]
    assert main([*arguments, "--output", output]) == 0
    assert drawn == [(0.5, Path(output), 3)]
