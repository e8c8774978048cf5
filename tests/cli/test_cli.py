"""The command line as people use it: the whole path on small files, and hurried mistakes."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest
import yaml

from wsicl_jax import cli
from wsicl_jax.cli import main
from wsicl_jax.data.store import Store
from wsicl_jax.data.store_writer import finish_store, write_case

DATA = Path(__file__).parents[1] / "data"
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
        "augment": {"gin": 0},  # which alone would double the time of compiling
        "model": {"channels": [2, 4]},
        "train": {"steps": 2, "batch": 1},
        "evaluation": {"contexts": 2, "kinds": ["box", "point"]},
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def printed_by_train():
    """Filled by `run`: what the training printed."""
    return []


@pytest.fixture(scope="module")
def run(config, printed_by_train):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["train", str(config)]) == 0
    printed_by_train.append(printed.getvalue())
    return config.parent / "run"


def test_a_training_ends_with_the_name_of_its_run(run, printed_by_train):
    assert printed_by_train[0].splitlines()[-1] == str(run)


def test_a_run_ends_with_its_evaluation(run):
    content = json.loads((run / "evaluation.json").read_text())
    assert set(content["mean_dice"]) == {
        f"Dataset001_Blocks/{structure}/{kind}"
        for structure in ("left", "right")
        for kind in ("box", "point")
    }


def test_a_run_logs_the_loss_of_its_validation_cases_and_draws_them(run):
    trials = json.loads((run / "evaluation.json").read_text())["trials"]
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    mean = sum(trial["loss"] for trial in trials) / len(trials)
    assert logged[-1]["validation_loss"] == pytest.approx(mean)
    (board,) = (run / "tensorboard").iterdir()
    assert board.read_bytes().count(b"pictures/Dataset001_Blocks/") == 2


def test_eval_prints_a_table_and_writes_json(run, tmp_path, capsys):
    file = tmp_path / "scores.json"
    settings = ["evaluation.kinds=[mask]", "evaluation.contexts=2"]
    assert main(["eval", str(run), *settings, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "mask" in printed and "left" in printed
    content = json.loads(file.read_text())
    assert content["step"] == 2
    assert [trial["kind"] for trial in content["trials"]] == ["mask"] * 4
    assert {trial["contexts"] for trial in content["trials"]} == {2}


def test_settings_may_stand_on_both_sides_of_an_option(run, tmp_path):
    file = tmp_path / "scores.json"
    command = ["eval", str(run), "evaluation.kinds=[mask]", "--json", str(file)]
    assert main([*command, "evaluation.targets=1", "evaluation.prompts=[1, 2]"]) == 0
    content = json.loads(file.read_text())
    assert [trial["kind"] for trial in content["trials"]] == ["mask"] * 2
    assert content["evaluation"]["prompts"] == [1, 2]


def examples(source: Path) -> list[str]:
    """Two context images, as in all of these tests: the network is compiled for a number."""
    pairs = [(f"imagesTr/case{n}_0000.nii.gz", f"labelsTr/case{n}.nii.gz") for n in (0, 3)]
    return [word for pair in pairs for word in ("--example", *(str(source / f) for f in pair))]


def seen(folder: Path) -> set[str]:
    """What people see in a folder: hidden are the records of finished targets."""
    return {file.name for file in folder.iterdir() if not file.name.startswith(".")}


def test_predict_writes_a_mask_on_each_targets_own_grid(run, source, tmp_path):
    context = tmp_path / "context.json"
    image = str(source / "imagesTr" / "case0_0000.nii.gz")
    context.write_text(
        json.dumps({"context": [{"image": image, "boxes": [[[2, 9], [3, 9], [6, 7]]]}]})
    )
    targets = [str(source / "imagesTr" / f"case{n}_0000.nii.gz") for n in (1, 2)]
    example = [image, str(source / "labelsTr" / "case0.nii.gz")]
    arguments = ["predict", str(run), "--context", str(context), "--example", *example]
    # Targets may stand on both sides of an option.
    assert main([*arguments, targets[0], "--output", str(tmp_path / "masks"), targets[1]]) == 0
    files = [tmp_path / "masks" / f"case{n}.nii.gz" for n in (1, 2)]
    assert seen(tmp_path / "masks") == {file.name for file in files}
    for file in files:
        mask = nib.load(file)
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
    output = tmp_path / "masks"
    arguments = ["predict", str(run), *examples(source), "--output", str(output)]
    assert main([*arguments, str(bad), str(good)]) == 1
    assert "bad.nii.gz" in capsys.readouterr().out
    assert seen(output) == {"case1.nii.gz"}


def test_predict_is_shown_the_task_by_cases_of_a_data_set(run, source, tmp_path, capsys):
    folder = shutil.copytree(source, tmp_path / "raw")
    arguments = ["predict", str(run), "--dataset", str(folder), "--subjects", "2"]
    arguments += ["--output", str(tmp_path / "out"), "--format", "seg.nrrd"]
    assert main(arguments) == 2
    assert "no target is given" in capsys.readouterr().err
    (folder / "imagesTs").mkdir()
    image = folder / "imagesTr" / "case0_0000.nii.gz"
    image.rename(folder / "imagesTs" / "new_0000.nii.gz")
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "imagesTs: 1 image" in printed and "2 of 7 training cases" in printed
    assert "1 of 1 label maps written" in printed
    header = (tmp_path / "out" / "new.seg.nrrd").read_bytes()
    assert b"Segment0_Name:=left" in header and b"Segment1_Name:=right" in header


def test_predict_with_labels_writes_a_label_map_names_and_probabilities(run, source, tmp_path):
    target = str(source / "imagesTr" / "case1_0000.nii.gz")
    arguments = ["predict", str(run), target, *examples(source), "--labels", "l=1,r=2"]
    arguments += ["--output", str(tmp_path / "out"), "--probabilities", "--no-refine"]
    assert main(arguments) == 0
    assert seen(tmp_path / "out") == {
        *("case1.nii.gz", "case1_l_prob.nii.gz", "case1_r_prob.nii.gz", "labels.json"),
    }
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == {"l": 1, "r": 2}
    assert nib.load(tmp_path / "out" / "case1_l_prob.nii.gz").get_data_dtype() == np.float32


def test_a_dry_run_tells_what_predict_would_do_and_all_that_is_wrong(
    run, source, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(source)
    arguments = ["predict", str(run), "imagesTr/case1_0000.nii.gz", "--output", str(tmp_path / "o")]
    assert main([*arguments, *examples(source), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for text in ("1 mask", "20 x 14 x 18", "case1.nii.gz", "8 x 8 x 8", "peak"):
        assert text in printed
    assert not (tmp_path / "o").exists()
    # What is wrong with a target alone does not stop the others.
    assert main([*arguments, *examples(source), "missing.nii", "--dry-run"]) == 1
    assert "missing.nii is missing" in capsys.readouterr().out
    little = ["--max-memory", "0.001", "--dry-run"]
    assert main([*arguments, *examples(source), "missing.nii", *little]) == 2
    printed = capsys.readouterr().out
    assert "missing.nii is missing" in printed and "max_memory_gb is 0.001" in printed
    # A context set that was made with another network is taken, with a note.
    entry = {"image": str(source / "imagesTr/case0_0000.nii.gz"), "points": [[9, 7, 9]]}
    task = tmp_path / "task.json"
    task.write_text(json.dumps({"network": "small", "context": [entry]}))
    assert main([*arguments, "--context", str(task), "--dry-run"]) == 0
    assert "made with the network small" in capsys.readouterr().out
    # And what is refused is told in all.
    wrong = ["--example", "imagesTr/no.nii", "labelsTr/case0.nii.gz", "imagesTr/case1_0000.nii.gz"]
    assert main([*arguments, *wrong, "--dry-run"]) == 2
    printed = capsys.readouterr().out
    assert "no.nii is missing" in printed and "several targets" in printed
    assert main([*arguments, *wrong]) == 2
    assert "several targets" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_info_describes_a_store_and_a_run(store, run, capsys):
    assert main(["info", str(store)]) == 0
    assert "right" in capsys.readouterr().out
    assert main(["info", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2" in printed and "8 x 8 x 8" in printed


# Sweeps.


@pytest.fixture(scope="module")
def sweep(run, store, tmp_path_factory):
    """A sweep's configuration of two cells."""
    folder = tmp_path_factory.mktemp("sweeps")
    settings = {
        "output": str(folder / "sweep"),
        "checkpoints": {"mine": str(run)},
        "data": [{"store": str(store)}],
        "evaluation": {"contexts": [1, 2], "prompts": 2, "kinds": ["box", "point"]},
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def listed(sweep):
    """The list of episodes of that sweep."""
    output = sweep.parent / "lists"
    assert main(["episodes", str(sweep), f"output={output}"]) == 0
    return output / "episodes" / "Dataset001_Blocks.json"


@pytest.fixture
def masks(listed, source, tmp_path):
    """Masks of a model that knows the truth, each on its target's own grid."""
    for episode in json.loads(listed.read_text())["episodes"]:
        truth = nib.load(source / "labelsTr" / f"{episode['target']}.nii.gz")
        value = {"left": 1, "right": 2}[episode["structure"]]
        write_nifti(
            tmp_path / "masks" / f"{episode['name']}.nii.gz",
            (np.asarray(truth.dataobj) == value).astype(np.uint8),
        )
    return tmp_path / "masks"


def test_a_sweep_scores_every_cell_once_and_becomes_a_report(sweep, capsys, tmp_path):
    assert main(["sweep", str(sweep), "--part", "1/2"]) == 0
    assert "1 cells scored, 0 already existed" in capsys.readouterr().out
    assert main(["sweep", str(sweep)]) == 0
    printed = capsys.readouterr().out
    assert "1 cells scored, 1 already existed" in printed
    assert "mine" in printed and "point" in printed
    cells = sweep.parent / "sweep" / "cells" / "mine" / "Dataset001_Blocks"
    assert sorted(file.name for file in cells.iterdir()) == ["box-2.json", "point-2.json"]
    before = [file.stat().st_mtime_ns for file in cells.iterdir()]
    assert main(["sweep", str(sweep)]) == 0
    assert "0 cells scored, 2 already existed" in capsys.readouterr().out
    assert [file.stat().st_mtime_ns for file in cells.iterdir()] == before
    report = ["report", str(sweep.parent / "sweep"), "--output", str(tmp_path / "report")]
    assert main(report) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert "WS-ICL (Point)" in page and "mine" in page
    assert main(report) == 2
    assert "holds a report" in capsys.readouterr().err
    assert main([*report, "--overwrite"]) == 0


def test_lists_of_episodes_need_no_checkpoint(sweep, tmp_path, capsys):
    settings = [f"output={tmp_path}", "checkpoints={}"]
    assert main(["episodes", str(sweep), *settings]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert {e["structure"] for e in json.loads(path.read_text())["episodes"]} == {"left", "right"}
    assert [file.name for file in tmp_path.iterdir()] == ["episodes"]


def test_masks_of_another_model_are_scored_on_the_same_episodes(listed, masks, tmp_path, capsys):
    arguments = ["score", str(listed), str(masks), "--name", "other", "--kind", "box"]
    arguments += ["--prompts", "2", "--contexts", "2", "--output", str(tmp_path / "other")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "box x 2" in printed and "1.000" in printed and "40 s" in printed
    assert (tmp_path / "other" / "sweep.json").is_file()


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
    output = jax.jit(model, compiler_options={"xla_backend_optimization_level": 0})(
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


@pytest.fixture(scope="module")
def of_a_changed_store(store, sweep, tmp_path_factory):
    """A list of episodes whose store has changed since."""
    folder = tmp_path_factory.mktemp("changed")
    changed = shutil.copytree(store, folder / "store")
    settings = [f"data=[{{store: {changed}}}]", "checkpoints={}", f"output={folder}"]
    assert main(["episodes", str(sweep), *settings]) == 0
    for name in Store.open(changed).cases:
        write_case(changed, name, np.ones((1, *SHAPE)), np.ones(SHAPE, np.uint8), AFFINE)
    finish_store(changed)
    return folder / "episodes" / "Dataset001_Blocks.json"


PREDICT = ["predict", "{run}", "t.nii", "--output", "{new}"]

SCORE = ["--name", "other", "--kind", "box", "--prompts", "2", "--output", "{new}"]

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
    "a sweep nowhere": (["sweep", "nothing.yaml"], "nothing.yaml"),
    "a sweep of a missing run": (["sweep", "{sweep}", "checkpoints={{a: no/run}}"], "no/run"),
    "a sweep of no model": (["sweep", "{sweep}", "checkpoints={{}}"], "give checkpoints"),
    "an unknown kind": (["sweep", "{sweep}", "evaluation.kinds=[boxes]"], "evaluation.kinds.0"),
    "an episode list nowhere": (["sweep", "{sweep}", "data=[]", "episodes=[no.json]"], "no.json"),
    "a context size beyond the list": (
        ["sweep", "{sweep}", "data=[]", "episodes=[{listed}]", "evaluation.contexts=[1, 50]"],
        "50 are requested",
    ),
    "a kind that the list lacks": (
        ["sweep", "{sweep}", "data=[]", "episodes=[{listed}]", "evaluation.kinds=[scribble]"],
        "only box, point",
    ),
    "a changed store under a list": (["sweep", "{sweep}", "data=[]", "episodes=[{old}]"], "plan"),
    "masks that are missing": (
        ["score", "{listed}", "{empty}", *SCORE, "--contexts", "2"],
        "4 of 4 masks are missing",
    ),
    "masks of more contexts": (
        ["score", "{listed}", "{masks}", *SCORE, "--contexts", "3"],
        "3 are requested",
    ),
    "masks of a changed store": (
        ["score", "{old}", "{masks}", *SCORE, "--contexts", "2"],
        "has changed since",
    ),
    "no episode list": (
        ["score", "{config}", "{masks}", *SCORE, "--contexts", "2"],
        "cannot be read",
    ),
    "a report of nothing": (["report", "{empty}", "--output", "{new}"], "has no scores"),
    "no context": (PREDICT, "no context set; give"),
    "a context file nowhere": (
        [*PREDICT, "--context", "c.json"],
        "c.json",
    ),
    "no target": (
        ["predict", "{run}", "--example", "a.nii", "b.nii", "--output", "{new}"],
        "no target is given",
    ),
    "a folder without images": (
        ["predict", "{run}", "{empty}", "--example", "a.nii", "b.nii", "--output", "{new}"],
        "no image in it",
    ),
    "two sources of a context set": (
        [*PREDICT, "--dataset", "d", "--context", "c"],
        "leave out --context",
    ),
    "structures of no data set": (
        [*PREDICT, "--example", "a.nii", "b.nii", "--structures", "liver"],
        "--structures chooses from a data set",
    ),
    "a structure that a data set lacks": (
        [*PREDICT, "--dataset", "{source}", "--structures", "heart"],
        "it has ['left', 'right']",
    ),
    "labels without masks": (
        [*PREDICT, "--context", "c.json", "--labels", "a=1"],
        "add images with masks",
    ),
    "a context image that is not there": (
        [*PREDICT, "--example", "a.nii", "b.nii"],
        "a.nii is missing",
    ),
    "a checkpoint for predicting that is not there": (
        ["predict", "no/run", "t.nii", "--example", "a.nii", "b.nii", "--output", "{new}"],
        "no/run",
    ),
    "DICOM-SEG of what is no DICOM": (
        [*PREDICT, "--example", "a.nii", "b.nii", "--format", "dcm"],
        "t.nii: no DICOM",
    ),
    "RTSTRUCT of what is no DICOM": (
        [*PREDICT, "--example", "a.nii", "b.nii", "--format", "rtstruct"],
        "t.nii: no DICOM, to which RTSTRUCT could refer",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line_or_two(
    mistake, config, run, store, source, sweep, listed, of_a_changed_store, masks, tmp_path, capsys
):
    arguments, expected = MISTAKES[mistake]
    if arguments[0] == "sweep":
        arguments = [*arguments, "output={new}"]
    (tmp_path / "empty").mkdir()
    places = {
        "config": config,
        "run": run,
        "store": store,
        "source": source,
        "empty": tmp_path / "empty",
        "new": tmp_path / "new",
        "sweep": sweep,
        "listed": listed,
        "old": of_a_changed_store,
        "masks": masks,
        "ckpt": DATA / "tiny_lightning.ckpt",
    }
    capsys.readouterr()
    assert main([argument.format(**places) for argument in arguments]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("wsicl ") and expected in message
    assert len(message.splitlines()) <= 2 and "Traceback" not in message
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "empty").iterdir())


def test_masks_on_another_grid_are_told_by_name(listed, masks, tmp_path, capsys):
    moved = next(masks.rglob("*.nii.gz"))
    nib.save(nib.Nifti1Image(np.asarray(nib.load(moved).dataobj), np.eye(4)), moved)
    score = [argument.format(new=tmp_path / "new") for argument in SCORE]
    assert main(["score", str(listed), str(masks), *score, "--contexts", "2"]) == 2
    message = capsys.readouterr().err
    assert str(moved) in message and "own grid" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("convert -- -a -b", {"source": "-a", "store": "-b"}),
        ("data show -- -a -b", {"store": "-a", "case": "-b"}),
        ("data list -- -a", {"path": "-a"}),
        ("synth --seed 1 -- -o", {"output": "-o", "seed": 1}),
        ("train --resume -- -c run=-r", {"config": "-c", "overrides": ["run=-r"], "resume": True}),
        ("sweep -- -c", {"config": "-c"}),
        ("score --name a --kind mask --contexts 1 --output o -- -e -m", {"masks": "-m"}),
        ("report --output o -- -s --t", {"sweeps": ["-s", "--t"]}),
        ("predict small a.nii --output o -- -x.nii", {"targets": ["a.nii", "-x.nii"]}),
        ("show --output p -- -i -l", {"image": "-i", "labels": "-l"}),
        ("info -- -r", {"path": "-r"}),
        ("export --format onnx --output o -- -r", {"checkpoint": "-r"}),
        ("import -- -a -b", {"file": "-a", "output": "-b"}),
    ],
)
def test_names_that_begin_with_a_dash_stand_behind_two(words, found):
    options = vars(cli.parse(words.split()))
    assert {name: options[name] for name in found} == found


def test_the_help_of_every_verb_tells_how_to_name_what_begins_with_a_dash(capsys):
    for verb in ("convert", "predict", "data show", "import"):
        with pytest.raises(SystemExit):
            main([*verb.split(), "--help"])
        assert "begin with a dash come last, after --" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["segment"], "segment"),
        (["info", "--", "-a", "-b"], "unrecognized arguments: -b"),
        (["score", "l", "m", "--kind", "boxes"], "'boxes' (choose from"),
        (["sweep", "x.yaml", "--part", "0/3"], "'0/3' is no part"),
        (["predict", "r", "t.nii", "--format", "png", "--output", "o"], "'png' (choose from"),
        (["predict", "r", "t.nii", "--structures", "a,,b", "--output", "o"], "an empty name"),
        (["predict", "r", "t.nii", "--formt", "nii", "--output", "o"], "--formt"),
    ],
)
def test_what_no_verb_takes_is_told_with_code_2(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_run_stopped_before_its_evaluation_is_evaluated_when_resumed(config, run, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    (again / "evaluation.json").unlink()
    assert main(["train", str(config), f"run={again}", "--resume"]) == 0
    content, first = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (again, run)
    )
    for trial in (*content["trials"], *first["trials"]):
        assert Path(trial.pop("model")).name == "run"
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
        "wsicl_jax.tools.show.augmentation_figure.augmentation_figure",
        lambda config, path, *, index: drawn.append((config.augment.flip, path, index)),
    )
    output = str(tmp_path / "a.png")
    arguments = ["data", "augment", str(config), "augment.flip=0.5", "--index", "3"]
    assert main([*arguments, "--output", output]) == 0
    assert drawn == [(0.5, Path(output), 3)]


def test_files_with_names_that_cannot_be_are_told_in_a_short_line(tmp_path, capsys):
    for name in ("A" * 300 + ".nii.gz", "A" * 300):
        assert main(["show", name, "--output", str(tmp_path / "a.png")]) == 2
        printed = capsys.readouterr().err
        assert "longer name than files can have" in printed and len(printed) < 250


def test_show_and_predict_take_what_is_said_of_images_that_do_not_say_it(
    run, source, tmp_path, capsys
):
    image = nib.load(source / "imagesTr" / "case1_0000.nii.gz")
    unsaid = nib.Nifti1Image(np.asanyarray(image.dataobj), None)
    unsaid.header["pixdim"][1:4] = (1, 2, 1.5)
    nib.save(unsaid, tmp_path / "a.nii.gz")
    given = [str(tmp_path / "a.nii.gz"), "--output"]
    said = ["--assume-orientation", "LAS"]
    assert main(["show", *given, str(tmp_path / "a.png")]) == 0
    assert "axes taken as LAS, so that left" in capsys.readouterr().err
    assert main(["show", *given, str(tmp_path / "a.png"), *said]) == 0
    assert "axes taken as LAS, as requested" in capsys.readouterr().err
    predict = ["predict", str(run), *examples(source), *given, str(tmp_path / "out")]
    assert main([*predict, *said]) == 0
    assert "taken as LAS, as" in capsys.readouterr().out
    assert main([*predict, "--overwrite", "--assume-orientation", "LLS"]) == 2
    assert "three letters such as RAS" in capsys.readouterr().err
    assert main(["show", *given, str(tmp_path / "a.png"), "--max-memory", "0.001"]) == 2
    assert "max_memory_gb is 0.001" in capsys.readouterr().err
