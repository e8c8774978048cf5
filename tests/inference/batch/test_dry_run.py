"""What a dry run prints, and that it finds all that would go wrong."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.config import ReadingConfig
from wsicl_jax.errors import CheckpointError
from wsicl_jax.inference.batch.dry_run import dry_run
from wsicl_jax.inference.batch.targets import find_targets
from wsicl_jax.inference.inputs.context_set import ContextSet, from_files
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.memory_plan import Plan
from wsicl_jax.terminal.progress import console

SHAPE = (5, 6, 9)


class Planned:
    """Stands for a task whose targets take 0.1 GB a voxel, far more than the tests themselves."""

    def plan(self, shape, affine, *, probabilities):
        size = int(np.prod(shape)) * 10**8
        looks = "twice" if probabilities else "once"
        return Plan(looks, 0, {"the target": size}, size)


def save(path, array):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1, 2, 1.5, 1])), path)
    return path


@pytest.fixture(autouse=True)
def short_paths(tmp_path, monkeypatch):
    """Long ones would be broken into lines."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def context():
    label = np.zeros(SHAPE, np.uint8)
    label[0], label[1] = 1, 4
    image = save(Path("in") / "shown.nii", np.ones(SHAPE, np.float32))
    return from_files(None, [(image, save(Path("in") / "mask.nii", label))], {1: "low", 4: "high"})


@pytest.fixture
def targets():
    files = [
        save(Path(f"t/{name}.nii"), np.random.default_rng(0).random(shape, np.float32))
        for name, shape in (("a", SHAPE), ("b", (2, 6, 9)))
    ]
    return find_targets(files, Path("out")).targets


def printed(tried):
    with console().capture() as text:
        console().print(tried.report())
    return " ".join(text.get().split())


def test_context_targets_network_and_memory_are_shown(context, targets, tmp_path):
    (tmp_path / "out").mkdir()
    targets[1].output.touch()
    tried = dry_run(Planned, context, targets, notes=["folder: 2 images"])
    assert tried.problems == () and tried.failed == {}
    shown = printed(tried)
    for text in ("folder: 2 images", "low", "high", "4", "1 mask", "5 x 6 x 9", "1 x 2 x 1.5"):
        assert text in shown
    assert "yes" in shown and "27.00" in shown and "10.80" in shown
    assert "for 2 targets: once" in shown and shown.endswith("dry run: nothing was written")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.nii"]


def test_files_of_probabilities_are_shown_and_planned(context, targets):
    shown = printed(dry_run(Planned, context, targets, probabilities=True))
    assert "high_prob" in shown and "twice" in shown


def test_all_that_would_go_wrong_is_found(context, targets):
    wrong = [
        Example(Path("in") / "no.nii", points=[(1.0, 1.0, 1.0)]),
        Example(Path("in") / "shown.nii", points=[(99.0, 1.0, 1.0)], name="far"),
    ]
    more = ContextSet({**context.structures, "third": wrong}, {**context.values, "third": 5}, ())
    targets[0].files[0].write_bytes(b"")

    def never():
        raise AssertionError

    tried = dry_run(never, more, targets, problems=["something exists"])
    assert tried.problems[0] == "something exists" and len(tried.problems) == 3
    assert any("third: context 1: image: " in p and "no.nii" in p for p in tried.problems)
    assert any(p.startswith("far: points 1: ") for p in tried.problems)
    assert list(tried.failed) == [targets[0].name]
    shown = printed(tried)
    assert "is empty" in shown and "would be refused" in shown and "something exists" in shown


def test_a_checkpoint_that_is_not_there_is_one_of_the_problems(context, targets):
    def missing():
        raise CheckpointError("no checkpoint")

    tried = dry_run(missing, context, targets)
    assert tried.problems == ("no checkpoint",) and tried.failed == {}


def test_a_target_that_needs_more_memory_than_is_allowed_would_fail(context, targets):
    tried = dry_run(Planned, context, targets, reading=ReadingConfig(max_memory_gb=20.0))
    assert list(tried.failed) == [targets[0].name]
    assert "27.00 GB" in tried.failed[targets[0].name]


def test_without_a_context_set_the_targets_are_looked_at_all_the_same(targets):
    tried = dry_run(Planned, None, targets, problems=["no context set"])
    assert "5 x 6 x 9" in printed(tried) and tried.problems == ("no context set",)


def test_each_image_is_read_once_however_many_structures_it_shows(context, targets, monkeypatch):
    other = save(Path("in/other.nii"), np.ones(SHAPE, np.float32))
    for examples in context.structures.values():
        examples.append(replace(examples[0], image=other))
    from wsicl_jax.inference.batch import dry_run as module

    read = []
    real = module.as_volume
    monkeypatch.setattr(module, "as_volume", lambda path, **_: read.append(path) or real(path))
    dry_run(Planned, context, targets)
    assert sorted(Path(path).name for path in read) == ["other.nii", "shown.nii"]
