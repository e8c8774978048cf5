"""The verbs export and import, for networks in other formats."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from wsicl_jax.cli.values import Verb, disk_path

if TYPE_CHECKING:
    from wsicl_jax.weights.networks import StoredNetwork


def _export(options: argparse.Namespace) -> int:
    from wsicl_jax.model.ops.compilation import keep_compiled_programs
    from wsicl_jax.terminal.progress import console
    from wsicl_jax.train.binding import seen_by
    from wsicl_jax.weights.export.export import export
    from wsicl_jax.weights.networks import find_network

    keep_compiled_programs()
    # Once, because a running training may write a newer checkpoint in between.
    stored = find_network(options.checkpoint)
    exported = export(
        stored.path,
        options.output,
        options.format,
        dtype=options.dtype,
        measured=_measured(stored, options.scores),
        licence=options.licence,
        seen=seen_by(stored),
        overwrite=options.overwrite,
    )
    console().print(exported.table())
    print(exported.path)
    return 0


def _measured(stored: "StoredNetwork", scores: str | None) -> list:
    from wsicl_jax.storage.checkpoints import STEPS
    from wsicl_jax.train.log import read_log
    from wsicl_jax.weights.export.measured import measured_in_log, measured_in_scores

    step = stored.metadata.get("step")
    measured = []
    if stored.path.parent.name == STEPS:
        measured += measured_in_log(read_log(stored.path.parent.parent), step)
    if scores:
        measured += measured_in_scores(Path(scores), step)
    return measured


def _import(options: argparse.Namespace) -> int:
    from wsicl_jax.terminal.progress import console
    from wsicl_jax.weights.file_loading import import_weights

    model, settings = import_weights(options.file, options.output)
    channels = ", ".join(map(str, model.config.channels))
    grid = " x ".join(map(str, settings.experiment.volume.grid))
    console().print(
        f"imported a network of channels {channels} and working grid {grid} to {options.output}"
    )
    return 0


def add_export(verb: Verb) -> None:
    exported = verb(
        "export",
        _export,
        "write a network for PyTorch, ONNX, JAX or safetensors, verified, with a model card",
        "wsicl export runs/hippocampus --format onnx --output hippocampus.onnx",
    )
    exported.add_argument(
        "checkpoint",
        help="a run, a checkpoint, a file of weights, or small, which comes with wsicl_jax",
    )
    exported.add_argument(
        "--format",
        required=True,
        choices=("torch", "safetensors", "stablehlo", "onnx"),
        help="torch: the authors' .ckpt; safetensors: weights; stablehlo, onnx: programs",
    )
    exported.add_argument(
        "--output", required=True, type=disk_path, metavar="FILE", help="the file to write"
    )
    exported.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="number format of the weights; only safetensors may differ from float32 (float32)",
    )
    exported.add_argument(
        "--scores", metavar="FILE", help="scores of `wsicl eval --json`, for the model card"
    )
    exported.add_argument(
        "--licence", metavar="TEXT", help="licence of weights and data, for the model card"
    )
    exported.add_argument("--overwrite", action="store_true", help="replace files that exist")


def add_import(verb: Verb) -> None:
    imported = verb(
        "import",
        _import,
        "convert the authors' checkpoint, or a file of wsicl export, to a checkpoint",
        "wsicl import box.ckpt checkpoints/box",
    )
    imported.add_argument("file", help=".ckpt or .pt, .safetensors, or .onnx of wsicl export")
    imported.add_argument(
        "output", type=disk_path, help="checkpoint directory to write; must not exist"
    )
