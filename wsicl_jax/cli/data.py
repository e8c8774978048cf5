"""Verbs for data: convert, data, synth."""

import argparse
import os
from pathlib import Path

from wsicl_jax.cli.values import (
    Verb,
    above_0,
    add_configuration,
    add_convention,
    add_reading,
    at_least,
    check_writable,
    label_names,
    part_of,
)

_MOST_WORKERS = 8
"""Most default processes of `wsicl convert`; each needs memory for a case."""


def _convert(options: argparse.Namespace) -> int:
    from wsicl_jax.config import PreparationConfig, validated
    from wsicl_jax.data.conversion.convert import convert
    from wsicl_jax.terminal.progress import console

    preparation = validated(
        PreparationConfig,
        {
            "ras": options.ras,
            "crop": options.crop,
            "spacing_mm": options.spacing,
            "grid": options.grid,
            "percentiles": options.percentiles,
            "replace_nonfinite": options.replace_nonfinite,
            "assume_orientation": options.assume_orientation,
        },
    )
    summary = convert(
        options.source,
        options.store,
        preparation,
        kind=options.layout,
        label_names=options.labels,
        part=options.part,
        workers=options.workers,
        max_memory_gb=options.max_memory,
    )
    console().print(summary.report())
    return 1 if summary.skipped else 0


def _data_list(options: argparse.Namespace) -> int:
    from wsicl_jax.terminal.progress import console
    from wsicl_jax.tools.show.store_listing import listing

    console().print(listing(options.path))
    return 0


def _data_show(options: argparse.Namespace) -> int:
    from wsicl_jax.data.store import Store
    from wsicl_jax.tools.show.pictures import case_figure

    store = Store.open(options.store)
    case = options.case or next(iter(store.cases), "")
    output = Path(options.output or f"{case}.png")
    check_writable(output)
    case_figure(store, case, output, convention=options.convention)
    print(output)
    return 0


def _data_augment(options: argparse.Namespace) -> int:
    from wsicl_jax.config import load_config
    from wsicl_jax.tools.show.augmentation_figure import augmentation_figure

    check_writable(Path(options.output))
    config = load_config(options.config, options.overrides)
    augmentation_figure(config, Path(options.output), index=options.index)
    print(options.output)
    return 0


def _data_mix(options: argparse.Namespace) -> int:
    from wsicl_jax.config import load_config
    from wsicl_jax.terminal.progress import console
    from wsicl_jax.tools.show.mixture_tables import mixture

    console().print(mixture(load_config(options.config, options.overrides)))
    return 0


def _data_verify(options: argparse.Namespace) -> int:
    from wsicl_jax.data.verify import damage_table, verify
    from wsicl_jax.terminal.progress import console

    cases, damage = verify(options.store)
    if damage:
        console().print(damage_table(damage))
        return 1
    console().print(f"{cases} cases, every byte as it was written")
    return 0


def _synth(options: argparse.Namespace) -> int:
    from wsicl_jax.config import ExperimentConfig, override_config
    from wsicl_jax.data.synthesis.cohort_stores import numbered_cohort, write_cohorts
    from wsicl_jax.storage.lock import part_locked

    settings = override_config(ExperimentConfig(), options.overrides, ("synth",)).synth
    if options.picture:
        check_writable(Path(options.picture))
    with part_locked(options.output, (1, 1), f"the directory {options.output}"):
        written = write_cohorts(
            options.output,
            settings,
            cohorts=options.cohorts,
            subjects=options.subjects,
            grid=tuple(options.grid),
            seed=options.seed,
            spacing_mm=options.spacing,
            workers=options.workers,
        )
    if options.picture:
        from wsicl_jax.tools.show.cohort_figure import MOST_COHORTS, MOST_SUBJECTS, cohort_figure

        cohorts = [
            numbered_cohort(options.seed, number, tuple(options.grid), settings)
            for number in range(min(options.cohorts, MOST_COHORTS))
        ]
        cohort_figure(Path(options.picture), cohorts, min(options.subjects, MOST_SUBJECTS))
    print(
        f"{options.output}: {written} cohorts written, {options.cohorts - written} already existed"
    )
    return 0


def add_convert(verb: Verb) -> None:
    convert = verb(
        "convert",
        _convert,
        "convert a folder of images and labels to a store",
        "wsicl convert nnUNet_raw/Dataset004_Hippocampus stores/hippocampus",
    )
    convert.add_argument(
        "source", help="folder of nnU-Net v2, Decathlon, image and label pairs, or DICOM"
    )
    convert.add_argument("store", help="directory, or s3:// or gs:// URL, to write or continue")
    convert.add_argument(
        "--layout",
        choices=("auto", "nnunet", "msd", "paired", "dicom"),
        default="auto",
        help="layout of the folder (auto: detected)",
    )
    convert.add_argument(
        "--labels",
        type=label_names,
        metavar="NAME=VALUE,...",
        help="names of the label values, if the folder has none",
    )
    convert.add_argument("--ras", action="store_true", help="reorder the axes to RAS+")
    convert.add_argument(
        "--crop", action="store_true", help="crop to the content, without constant margins"
    )
    convert.add_argument(
        "--spacing", nargs=3, type=float, metavar="MM", help="resample to about this voxel spacing"
    )
    convert.add_argument(
        "--grid", nargs=3, type=int, metavar="N", help="resize each volume to this many voxels"
    )
    convert.add_argument(
        "--percentiles",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="clip intensities to these percentiles and scale them to [0, 1]",
    )
    convert.add_argument(
        "--replace-nonfinite",
        type=float,
        metavar="VALUE",
        help="value for voxels that are NaN or infinite (default: such cases are skipped)",
    )
    add_reading(convert, "memory limit of each process; larger images are refused")
    convert.add_argument(
        "--workers",
        type=at_least(1),
        default=min(os.cpu_count() or 1, _MOST_WORKERS),
        help="processes that convert cases in parallel (one per core, at most 8)",
    )
    convert.add_argument(
        "--part",
        type=part_of,
        default=(1, 1),
        metavar="i/n",
        help="only this part of the cases, for array jobs",
    )


def add_data(verbs, verb: Verb) -> None:
    summary = "list, draw or verify the cases of a store, and show what a training samples"
    group = verbs.add_parser("data", help=summary, description=f"{summary.capitalize()}.")
    parts = group.add_subparsers(dest="part", required=True, metavar="list|show|verify|mix|augment")

    listed = verb(
        "list", _data_list, "list the cases of a store", "wsicl data list stores/liver", parts
    )
    listed.add_argument("path", help="a store, or a directory of stores")

    shown = verb(
        "show",
        _data_show,
        "draw a case with its labels",
        "wsicl data show stores/liver liver_012 --output liver_012.png",
        parts,
    )
    shown.add_argument("store")
    shown.add_argument("case", nargs="?", help="name of the case (the first)")
    add_convention(shown)
    shown.add_argument("--output", metavar="FILE.png", help="file of the picture (CASE.png)")

    verified = verb(
        "verify",
        _data_verify,
        "read a whole store and compare every checksum",
        "wsicl data verify stores/liver",
        parts,
    )
    verified.add_argument("store")

    mixed = verb(
        "mix",
        _data_mix,
        "print the share of each data set and structure in a training",
        "wsicl data mix configs/synthetic.yaml data.0.weight=2",
        parts,
    )
    add_configuration(mixed)

    augmented = verb(
        "augment",
        _data_augment,
        "draw every augmentation of a configuration",
        "wsicl data augment configs/hippocampus.yaml --output augmentation.png",
        parts,
    )
    add_configuration(augmented)
    augmented.add_argument("--index", type=at_least(0), default=0, help="number of the episode (0)")
    augmented.add_argument(
        "--output", required=True, metavar="FILE.png", help="file of the picture"
    )


def add_synth(verb: Verb) -> None:
    synth = verb(
        "synth",
        _synth,
        "write synthetic cohorts, one store for each",
        "wsicl synth stores/synthetic --cohorts 100 --subjects 9 --grid 64 64 64",
    )
    synth.add_argument("output", help="directory, or s3:// or gs:// URL, to write or continue")
    synth.add_argument("overrides", nargs="*", metavar="key=value", help="settings of `synth`")
    number = at_least(1)
    synth.add_argument("--cohorts", type=number, default=1, metavar="N", help="cohorts (1)")
    synth.add_argument(
        "--subjects", type=number, default=9, metavar="M", help="subjects of each cohort (9)"
    )
    synth.add_argument(
        "--grid",
        nargs=3,
        type=number,
        default=(64, 64, 64),
        metavar="N",
        help="grid in voxels (64 64 64)",
    )
    synth.add_argument("--seed", type=at_least(0), default=0, help="seed of all cohorts (0)")
    synth.add_argument(
        "--spacing", type=above_0, default=1.0, metavar="MM", help="voxel spacing in mm (1)"
    )
    synth.add_argument("--workers", type=number, default=1, help="processes (1)")
    synth.add_argument("--picture", metavar="FILE.png", help="also draw some of the cohorts")
