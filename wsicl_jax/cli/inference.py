"""Verbs for trained networks: predict, info, import."""

import argparse
from pathlib import Path

from wsicl_jax.cli.values import Verb


def _predict(options: argparse.Namespace) -> int:
    from wsicl_jax.infer.predict import predict_files
    from wsicl_jax.infer.request import example_with_mask, read_context
    from wsicl_jax.infer.segmenter import Segmenter
    from wsicl_jax.parallel import keep_compiled_programs
    from wsicl_jax.progress import console

    keep_compiled_programs()
    examples = read_context(options.context) if options.context else []
    examples += [example_with_mask(image, mask) for image, mask in options.example]
    segmenter = Segmenter.load(options.checkpoint)
    summary = predict_files(
        segmenter,
        segmenter.context(examples),
        [Path(target) for target in options.targets],
        Path(options.output),
        inputs=[file for example in examples for file in example.files],
        overwrite=options.overwrite,
    )
    console().print(summary.table())
    return 1 if summary.failed else 0


def _info(options: argparse.Namespace) -> int:
    from wsicl_jax.info import describe
    from wsicl_jax.progress import console

    console().print(describe(Path(options.path)))
    return 0


def _import(options: argparse.Namespace) -> int:
    from wsicl_jax.export.lightning import import_lightning
    from wsicl_jax.progress import console

    model = import_lightning(options.file, options.output)
    channels = ", ".join(map(str, model.config.channels))
    console().print(f"imported a network of channels {channels} to {options.output}")
    return 0


def add_predict(verb: Verb) -> None:
    predict = verb(
        "predict",
        _predict,
        "segment images, given context images with prompts",
        "wsicl predict runs/hippocampus --context context.json --output masks target.nii.gz",
    )
    predict.add_argument("checkpoint", help="a run, one of its checkpoints, or an imported one")
    predict.add_argument("targets", nargs="+", metavar="TARGET", help="NIfTI images to segment")
    predict.add_argument("--context", metavar="FILE", help="context images with prompts, JSON")
    predict.add_argument(
        "--example",
        nargs=2,
        action="append",
        default=[],
        metavar=("IMAGE", "MASK"),
        help="a context image with its mask; may be repeated",
    )
    predict.add_argument("--output", required=True, help="directory for the masks")
    predict.add_argument("--overwrite", action="store_true", help="replace masks that exist")


def add_info(verb: Verb) -> None:
    info = verb(
        "info",
        _info,
        "say what a store, a checkpoint or a run holds",
        "wsicl info runs/hippocampus",
    )
    info.add_argument("path")


def add_import(verb: Verb) -> None:
    imported = verb(
        "import",
        _import,
        "turn the authors' Lightning checkpoint into one of ours",
        "wsicl import box.ckpt checkpoints/box",
    )
    imported.add_argument("file", help="the authors' .ckpt")
    imported.add_argument("output", help="checkpoint directory to write; must not exist")
