"""The verbs predict, show and info."""

import argparse
import functools
from pathlib import Path

from wsicl_jax.cli.values import (
    Verb,
    add_convention,
    add_reading,
    at_least,
    check_writable,
    disk_path,
    label_names,
)
from wsicl_jax.errors import DataError, WsiclError


def _predict(options: argparse.Namespace) -> int:
    from wsicl_jax import __version__
    from wsicl_jax.config import InferenceConfig, validated
    from wsicl_jax.inference.batch.dry_run import dry_run
    from wsicl_jax.inference.batch.outputs import refusals
    from wsicl_jax.inference.batch.predict import predict
    from wsicl_jax.inference.batch.targets import find_targets
    from wsicl_jax.inference.ensemble import load_ensemble
    from wsicl_jax.model.ops.compilation import keep_compiled_programs
    from wsicl_jax.terminal.progress import console

    keep_compiled_programs()
    output = Path(options.output)
    settings = {
        "refine": options.refine,
        "largest_component": options.largest_component,
        "fill_holes": options.fill_holes,
        "max_memory_gb": options.max_memory,
        "assume_orientation": options.assume_orientation,
    }
    reading = validated(InferenceConfig, settings)
    paths = [Path(target) for target in options.targets] or _images_for_testing(options)
    ending = "rtstruct.dcm" if options.format == "rtstruct" else options.format
    selection = find_targets(paths, output, ending=ending, channel=options.channel)
    problems, context = list(selection.problems), None
    if not paths:
        problems.append("no target is given, and --dataset has no imagesTs; name images")
    try:
        context = _context_set(
            options, [f for target in selection.targets for f in target.files], reading
        )
    except WsiclError as error:
        problems.append(str(error))
    networks = [options.checkpoint, *options.ensemble]
    notes = [*selection.notes, *(context.notes_for(networks) if context else ())]
    problems += refusals(
        selection.targets,
        output,
        context.values if context else {},
        inputs=context.files if context else (),
        probabilities=options.probabilities,
        overwrite=options.overwrite,
        resume=options.resume,
    )
    segmenter = functools.cache(lambda: load_ensemble(networks, **settings))

    def make_task():
        return segmenter().task(context.structures, context.values)

    if options.dry_run:
        trial = dry_run(
            make_task,
            context,
            selection.targets,
            notes=notes,
            problems=problems,
            probabilities=options.probabilities,
            reading=reading,
        )
        console().print(trial.report())
        return 2 if trial.problems else int(bool(trial.failed))
    if problems:
        more = f" ({len(problems) - 1} more, see --dry-run)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    for note in notes:
        print(note)
    task = make_task()
    record = {
        "network": segmenter().digest,
        "context set": context.digest(),
        "--refine": options.refine,
        "--largest-component": options.largest_component,
        "--fill-holes": options.fill_holes,
        "--assume-orientation": options.assume_orientation,
        "version of wsicl_jax": __version__,
    }
    summary = predict(
        task,
        selection.targets,
        output,
        probabilities=options.probabilities,
        reading=reading,
        settings=record,
        resume=options.resume,
    )
    console().print(summary.table())
    return 1 if summary.failed else 0


def _images_for_testing(options: argparse.Namespace) -> list[Path]:
    folder = Path(options.dataset, "imagesTs") if options.dataset else None
    return [folder] if folder and folder.is_dir() else []


def _context_set(options: argparse.Namespace, targets: list[Path], reading):
    from wsicl_jax.inference.inputs.context_set import SUBJECTS, from_dataset, from_files

    of_dataset = {
        "--subjects": options.subjects,
        "--seed": options.seed,
        "--structures": options.structures,
        "--exclude": options.exclude,
    }
    if options.dataset is None:
        if options_of_it := [name for name, value in of_dataset.items() if value is not None]:
            raise DataError(f"{options_of_it[0]} chooses from a data set; give --dataset too")
        if not options.context and not options.example:
            raise DataError(
                "no context set; give --context FILE, --example IMAGE MASK, or --dataset FOLDER"
            )
        request = Path(options.context) if options.context else None
        pairs = [(Path(image), Path(mask)) for image, mask in options.example]
        return from_files(request, pairs, options.labels)
    if options.context or options.example:
        raise DataError("--dataset is a context set by itself; leave out --context and --example")
    return from_dataset(
        Path(options.dataset),
        subjects=options.subjects or SUBJECTS,
        seed=options.seed or 0,
        structures=options.structures,
        exclude=options.exclude or (),
        channel=options.channel,
        labels=options.labels,
        targets=targets,
        reading=reading,
    )


def _show(options: argparse.Namespace) -> int:
    from wsicl_jax.config import ReadingConfig, validated
    from wsicl_jax.inference.inputs.request import read_context
    from wsicl_jax.tools.show.file_figures import context_figure, image_figure

    output = Path(options.output)
    check_writable(output)
    reading = validated(
        ReadingConfig,
        {
            "max_memory_gb": options.max_memory,
            "assume_orientation": options.assume_orientation,
        },
    )
    if (options.image is None) == (options.context is None):
        raise DataError("give an image with or without a label map, or --context FILE")
    if options.prediction and not options.labels:
        raise DataError("--prediction is compared with a label map; give IMAGE LABELS too")
    if options.context is not None:
        structures = read_context(options.context).structures
        context_figure(structures, output, reading, convention=options.convention)
    else:
        image_figure(
            Path(options.image),
            Path(options.labels) if options.labels else None,
            options.names or {},
            output,
            reading,
            prediction=Path(options.prediction) if options.prediction else None,
            convention=options.convention,
        )
    print(output)
    return 0


def _info(options: argparse.Namespace) -> int:
    from wsicl_jax.terminal.progress import console
    from wsicl_jax.tools.info import describe

    console().print(describe(options.path))
    return 0


_PREDICT_EXAMPLES = """\
examples:
  # one image; the context set is in a JSON file
  wsicl predict small --context context.json --output masks target.nii.gz
  # all images of a folder; the context set is images with label maps of two structures
  wsicl predict small --example sub1.nii.gz sub1_label.nii.gz \\
      --example sub2.nii.gz sub2_label.nii.gz --labels anterior=1,posterior=2 --output masks images/
  # nnU-Net: training cases are the context set, imagesTs the targets; first a dry run
  wsicl predict small --dataset Dataset004_Hippocampus --output masks --dry-run
  wsicl predict small --dataset Dataset004_Hippocampus --output masks
  # a folder of DICOM series, results as DICOM-SEG, or as RTSTRUCT for radiotherapy
  wsicl predict small --context context.json --format dcm --output masks series/
  wsicl predict small --context context.json --format rtstruct --output contours series/
"""


def add_predict(verb: Verb) -> None:
    predict = verb(
        "predict",
        _predict,
        "segment images; context images with prompts define the structures",
        "wsicl predict small --context context.json --output masks target.nii.gz",
    )
    predict.epilog = f"{_PREDICT_EXAMPLES}\n{predict.epilog.partition(chr(10) * 2)[2]}"
    predict.add_argument(
        "checkpoint",
        help="a run, a checkpoint, a file of weights, or small, which comes with wsicl_jax",
    )
    predict.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="images to segment: files, folders of them, or folders of DICOM series; "
        "by default imagesTs of --dataset",
    )
    context = predict.add_argument_group("context set, one of")
    context.add_argument("--context", metavar="FILE", help="context images with prompts, in JSON")
    context.add_argument(
        "--example",
        nargs=2,
        action="append",
        default=[],
        metavar=("IMAGE", "MASK"),
        help="a context image with its mask or label map; may be repeated",
    )
    context.add_argument(
        "--dataset",
        metavar="FOLDER",
        help="training cases of a data set (nnU-Net, Decathlon, folders of images and labels)",
    )
    chosen = predict.add_argument_group("selection")
    chosen.add_argument(
        "--labels",
        type=label_names,
        metavar="NAME=VALUE,...",
        help="structures of the masks by value (default: all nonzero values are one structure)",
    )
    chosen.add_argument(
        "--structures",
        type=_names,
        metavar="NAME,...",
        help="only these structures of --dataset (default: all)",
    )
    chosen.add_argument(
        "--exclude", type=_names, metavar="NAME,...", help="not these structures of --dataset"
    )
    chosen.add_argument(
        "--subjects", type=at_least(1), metavar="N", help="cases of --dataset (default: 8)"
    )
    chosen.add_argument(
        "--seed",
        type=at_least(0),
        metavar="N",
        help="seed that selects the cases of --dataset (default: 0)",
    )
    chosen.add_argument(
        "--channel",
        type=at_least(0),
        default=0,
        metavar="N",
        help="channel of multi-channel images, from 0 (default: 0)",
    )
    results = predict.add_argument_group("results")
    results.add_argument(
        "--output", required=True, type=disk_path, metavar="DIR", help="directory for the results"
    )
    results.add_argument(
        "--format",
        choices=("nii.gz", "nii", "nrrd", "seg.nrrd", "mha", "dcm", "rtstruct"),
        help="format of label maps (default: that of the target, or nii.gz); seg.nrrd: "
        "segmentation of 3D Slicer, dcm: DICOM-SEG, rtstruct: contours as .rtstruct.dcm",
    )
    results.add_argument(
        "--probabilities",
        action="store_true",
        help="also write a probability map for each structure",
    )
    again = results.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace results that exist")
    again.add_argument(
        "--resume", action="store_true", help="continue an interrupted batch: only missing results"
    )
    work = predict.add_argument_group("processing")
    work.add_argument(
        "--ensemble",
        action="append",
        default=[],
        metavar="NETWORK",
        help="another network, whose output is averaged with the first; may be repeated",
    )
    work.add_argument(
        "--dry-run",
        action="store_true",
        help="report what would be done and what would fail; write nothing",
    )
    work.add_argument(
        "--refine",
        action=argparse.BooleanOptionalAction,
        help="refine at the target's full resolution (default: if the network was trained with "
        "crops and its working grid is much coarser)",
    )
    work.add_argument(
        "--largest-component",
        action="store_true",
        help="keep only the largest connected component of each structure",
    )
    work.add_argument(
        "--fill-holes", action="store_true", help="fill background that a structure encloses"
    )
    add_reading(work, "memory limit; larger targets are refused")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    return names


def add_show(verb: Verb) -> None:
    show = verb(
        "show",
        _show,
        "draw an image with a label map, or a context set with its prompts",
        "wsicl show target.nii.gz masks/target.nii.gz --output prediction.png\n"
        "         wsicl show --context context.json --output context.png",
    )
    show.add_argument("image", nargs="?", metavar="IMAGE", help="an image file")
    show.add_argument("labels", nargs="?", metavar="LABELS", help="a label map on its grid")
    show.add_argument("--context", metavar="FILE", help="a context set in JSON, instead")
    show.add_argument(
        "--prediction", metavar="FILE", help="a second label map, drawn dotted beside LABELS"
    )
    show.add_argument(
        "--names",
        type=label_names,
        metavar="NAME=VALUE,...",
        help="names of the label map's values",
    )
    add_convention(show)
    add_reading(show, "memory limit; larger images are refused")
    show.add_argument("--output", required=True, metavar="FILE.png", help="file of the picture")


def add_info(verb: Verb) -> None:
    info = verb(
        "info",
        _info,
        "describe a store, a checkpoint or a run",
        "wsicl info runs/hippocampus",
    )
    info.add_argument("path", help="a store, run, checkpoint or file of weights, or small")
