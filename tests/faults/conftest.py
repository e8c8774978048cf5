"""Small data, a network, and places where nothing can be written."""

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import yaml

from wsicl_jax.cli import main
from wsicl_jax.weights.export.export import export

SHAPE = (20, 14, 18)


class Place(NamedTuple):
    """Where the verbs read, and where they write."""

    source: Path
    """A data set in the layout of nnU-Net."""
    store: Path
    run: Path
    weights: Path
    """The network of the run as safetensors."""
    output: Path


class Told(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


VERBS: dict[str, Callable[[Place], list[str]]] = {
    "convert": lambda p: [str(p.source), str(p.output / "store"), "--workers", "1"],
    "train": lambda p: [str(written(p.output, "train", experiment(p.output / "run", p.store)))],
    "sweep": lambda p: [str(written(p.output, "sweep", sweep(p.output / "sweep", p)))],
    "predict": lambda p: [
        *(str(p.run), *map(str, images(p.source, 1, 2)), "--output", str(p.output / "masks")),
        *("--example", *(str(file) for file in (*images(p.source, 0), label(p.source, 0)))),
    ],
    "export": lambda p: [
        *(str(p.run), "--format", "safetensors", "--output", str(p.output / "new/m.safetensors"))
    ],
    "import": lambda p: [str(p.weights), str(p.output / "imported")],
}
"""Arguments by which each verb writes into `Place.output`."""


def images(source: Path, *numbers: int) -> list[Path]:
    return [source / f"imagesTr/case{number}_0000.nii.gz" for number in numbers]


def label(source: Path, number: int) -> Path:
    return source / f"labelsTr/case{number}.nii.gz"


def written(output: Path, name: str, settings: dict) -> Path:
    """Settings as a file outside of `output`, where there may be no room."""
    path = output.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def experiment(run: Path, store: Path) -> dict:
    return {
        "run": str(run),
        "data": str(store),
        "volume": {"grid": [8, 8, 8]},
        "episode": {"contexts": [2, 2], "validation_share": 0.25},
        "augment": {"gin": 0},
        "model": {"channels": [2, 4]},
        "train": {"steps": 2, "batch": 1},
        "evaluation": {"contexts": 2, "kinds": ["box"]},
    }


def sweep(output: Path, place: Place) -> dict:
    return {
        "output": str(output),
        "checkpoints": {"mine": str(place.run)},
        "data": [{"store": str(place.store)}],
        "evaluation": {"contexts": [1], "prompts": 1, "kinds": ["box"]},
    }


@pytest.fixture(autouse=True)
def failed_writes_are_collected():
    """Orbax leaves failed tasks behind, which log a traceback when they are collected.

    Python 3.11 ends in a SystemError where that happens while it parses a module.
    """
    yield
    gc.collect()


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Place:
    """Everything that the verbs read; its output is not to be used."""
    folder = tmp_path_factory.mktemp("made")
    source, rng = folder / "Dataset001_Blocks", np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (source / name).mkdir(parents=True)
    for number in range(8):
        blocks = np.zeros(SHAPE, np.uint8)
        blocks[2 + number % 3 : 9, 3:9, 4:12] = 1
        image = (blocks * 100 + rng.normal(0, 5, SHAPE)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), *images(source, number))
        nib.save(nib.Nifti1Image(blocks, np.eye(4)), label(source, number))
    dataset = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "block": 1}}
    dataset |= {"numTraining": 8, "file_ending": ".nii.gz"}
    (source / "dataset.json").write_text(json.dumps(dataset))
    place = Place(source, folder / "store", folder / "run", folder / "m.safetensors", folder)
    assert main(["convert", str(source), str(place.store), "--workers", "1"]) == 0
    assert (
        main(["train", str(written(folder / "x", "run", experiment(place.run, place.store)))]) == 0
    )
    export(place.run, place.weights, "safetensors")
    return place


@pytest.fixture
def place(made, tmp_path) -> Place:
    """The same with an output of its own."""
    (tmp_path / "output").mkdir()
    return made._replace(output=tmp_path / "output")


@pytest.fixture
def wsicl(capfd) -> Callable[..., Told]:
    """`wsicl("convert", ...)`: the command in this process, with all that it prints; with
    `process=True` in a process of its own."""

    def command(*words: str, process: bool = False) -> Told:
        if process:
            ended = subprocess.run(
                [sys.executable, "-m", "wsicl_jax", *words],
                capture_output=True,
                text=True,
                timeout=120,
            )
            return Told(ended.returncode, ended.stdout, ended.stderr)
        capfd.readouterr()
        code = main(words)
        return Told(code, *capfd.readouterr())

    return command


@pytest.fixture
def mounted(place):
    """A file system of 4 MB of its own as the output."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place.output)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place.output)], check=True)


@pytest.fixture
def full(mounted) -> Callable[[int], Path]:
    """`full(left)`: fill the output but for so many bytes, by the file that is returned."""

    def fill(left: int) -> Path:
        filler = mounted.output / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(mounted.output).free - left))
        return filler

    return fill


@pytest.fixture
def read_only(request, place) -> Place:
    """An output that cannot be written to, also not by root."""
    if os.geteuid() != 0:
        place.output.chmod(0o555)
        yield place
        place.output.chmod(0o755)
        return
    request.getfixturevalue("mounted")
    subprocess.run(["mount", "-o", "remount,ro", str(place.output)], check=True)
    yield place
