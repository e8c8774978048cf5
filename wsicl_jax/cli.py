"""`wsicl VERB`: a thin function for each verb.

Only the standard library is imported until a verb runs, so that `--help` answers at once.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wsicl_jax.errors import WsiclError

if TYPE_CHECKING:
    from wsicl_jax.config import ExperimentConfig

_USE_ERROR = 2
_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: a scheduler that sees it may start the same command again."""

_MOST_WORKERS = 8
"""Processes that `wsicl convert` starts by itself at most: each needs memory for a case."""

_EVAL_SECTIONS = ("evaluation", "data", "volume")
"""Settings that `wsicl eval` may change: the others say what was trained, and on which cases."""

_BENCH_SECTIONS = {
    "context": ("model", "volume", "train"),
    "exchange": ("model", "volume", "train"),
    "loader": ("data", "volume", "synth", "episode", "prompts", "augment", "train"),
}
"""Settings that `wsicl bench` may change from their defaults: the others change no cost."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code.

    0: done, 1: done in part, 2: an error of use, 69: another process of the run was lost,
    75: training stopped on SIGTERM and saved.
    """
    options = _parse(arguments)
    warnings.showwarning = _show_warning
    try:
        return options.run(options)
    except (WsiclError, OSError) as error:  # OSError: an unwritable directory, a full disk
        print(f"wsicl {options.verb}: {error}", file=sys.stderr)
        return getattr(error, "exit_code", _USE_ERROR)
    except KeyboardInterrupt:
        print(f"wsicl {options.verb}: interrupted", file=sys.stderr)
        return 130


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _demo(options: argparse.Namespace) -> int:
    from wsicl_jax.demo import run_demo

    run_demo(Path(options.output), seed=options.seed)
    return 0


def _convert(options: argparse.Namespace) -> int:
    from wsicl_jax.config import preparation_from_dict
    from wsicl_jax.data.convert import convert
    from wsicl_jax.progress import console

    preparation = preparation_from_dict(
        {
            "ras": options.ras,
            "crop": options.crop,
            "spacing_mm": options.spacing,
            "grid": options.grid,
            "percentiles": options.percentiles,
            "replace_nonfinite": options.replace_nonfinite,
        }
    )
    summary = convert(
        options.source,
        options.store,
        preparation,
        kind=options.layout,
        label_names=options.labels,
        part=options.part,
        workers=options.workers,
    )
    console().print(summary.report())
    return 1 if summary.left_out else 0


def _data_list(options: argparse.Namespace) -> int:
    from wsicl_jax.browse.listing import listing
    from wsicl_jax.progress import console

    console().print(listing(options.path))
    return 0


def _data_show(options: argparse.Namespace) -> int:
    from wsicl_jax.browse.picture import case_figure
    from wsicl_jax.data.store import Store

    store = Store.open(options.store)
    case = options.case or next(iter(store.cases), "")
    output = Path(options.output or f"{case}.png")
    _check_writable(output)
    case_figure(store, case, output)
    print(output)
    return 0


def _data_augment(options: argparse.Namespace) -> int:
    from wsicl_jax.browse.augmentation import augmentation_figure
    from wsicl_jax.config import load_config

    _check_writable(Path(options.output))
    config = load_config(options.config, options.overrides)
    augmentation_figure(config, Path(options.output), index=options.index)
    print(options.output)
    return 0


def _data_verify(options: argparse.Namespace) -> int:
    from wsicl_jax.data.verify import damage_table, verify
    from wsicl_jax.progress import console

    cases, damage = verify(options.store)
    if damage:
        console().print(damage_table(damage))
        return 1
    console().print(f"{cases} cases, every byte as it was written")
    return 0


def _synth(options: argparse.Namespace) -> int:
    from wsicl_jax.config import ExperimentConfig, override_config
    from wsicl_jax.data.synth.write import numbered_cohort, write_cohorts

    settings = override_config(ExperimentConfig(), options.overrides, ("synth",)).synth
    if options.picture:
        _check_writable(Path(options.picture))
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
        from wsicl_jax.browse.cohorts import MOST_COHORTS, MOST_SUBJECTS, cohort_figure

        shown = [
            numbered_cohort(options.seed, number, tuple(options.grid), settings)
            for number in range(min(options.cohorts, MOST_COHORTS))
        ]
        cohort_figure(Path(options.picture), shown, min(options.subjects, MOST_SUBJECTS))
    print(f"{options.output}: {written} cohorts written, {options.cohorts - written} were there")
    return 0


def _train(options: argparse.Namespace) -> int:
    from wsicl_jax.cluster import join_processes, peers_watched
    from wsicl_jax.config import load_config
    from wsicl_jax.parallel import keep_compiled_programs

    if options.accept_data_changes and not options.resume:
        raise WsiclError("--accept-data-changes is about a run that goes on: add --resume")
    config = load_config(options.config, options.overrides)
    keep_compiled_programs()
    join_processes(options.coordinator, options.num_processes, options.process_id)
    with peers_watched():
        return _train_together(
            config, resume=options.resume, accept_data_changes=options.accept_data_changes
        )


def _train_together(config: "ExperimentConfig", *, resume: bool, accept_data_changes: bool) -> int:
    from wsicl_jax.cluster import is_leader
    from wsicl_jax.errors import PreemptedError
    from wsicl_jax.evaluate.protocol import evaluate, plan_trials
    from wsicl_jax.evaluate.tables import dice_table, left_out_table, mean_dice, report
    from wsicl_jax.progress import console
    from wsicl_jax.train.binding import open_run
    from wsicl_jax.train.loop import train

    start = open_run(config, resume=resume, accept_data_changes=accept_data_changes)
    # Now, so that a data set that cannot be evaluated is told before the training.
    planned = plan_trials(config, start.datasets)
    scores = []

    def evaluator(model):
        scores[:] = evaluate(model, planned.trials, config.evaluation)
        return mean_dice(scores)

    try:
        train(config, start, evaluate=evaluator if planned.trials else None)
    except PreemptedError as error:
        if is_leader():
            print(f"wsicl train: {error}", file=sys.stderr)
        return _STOPPED
    if is_leader():
        if scores:
            settings = config.evaluation
            _write_json(Path(config.run) / "evaluation.json", report(scores, settings))
            console().print(dice_table(scores, settings))
        if planned.left_out:
            console().print(left_out_table(planned.left_out))
    return 0


def _check(options: argparse.Namespace) -> int:
    from wsicl_jax.check.run import check
    from wsicl_jax.config import load_config
    from wsicl_jax.parallel import keep_compiled_programs
    from wsicl_jax.progress import console

    config = load_config(options.config, options.overrides)
    keep_compiled_programs()
    check(
        config,
        show=console().print,
        devices=options.devices,
        hosts=options.hosts,
        memory=options.memory,
        resume=options.resume,
    )
    return 0


def _eval(options: argparse.Namespace) -> int:
    from wsicl_jax.checkpoint import (
        experiment_config,
        find_checkpoint,
        load_model,
        read_metadata,
    )
    from wsicl_jax.config import config_to_dict, override_config
    from wsicl_jax.errors import DataError
    from wsicl_jax.evaluate.protocol import evaluate, plan_trials
    from wsicl_jax.evaluate.tables import dice_table, left_out_table, report
    from wsicl_jax.parallel import keep_compiled_programs
    from wsicl_jax.progress import console
    from wsicl_jax.train.binding import datasets_of_checkpoint

    keep_compiled_programs()
    if options.json:
        _check_writable(Path(options.json))
    checkpoint = find_checkpoint(options.checkpoint)
    metadata = read_metadata(checkpoint)
    config = override_config(experiment_config(metadata), options.overrides, _EVAL_SECTIONS)
    planned = plan_trials(config, datasets_of_checkpoint(checkpoint, metadata, config))
    if not planned.trials:
        part = config.evaluation.part.replace("_", "-")
        raise DataError(f"no structure is in enough training and {part} cases to be evaluated")
    scores = evaluate(load_model(checkpoint), planned.trials, config.evaluation)
    if options.json:
        settings = config_to_dict(config)
        about = {name: settings[name] for name in ("seed", "data", "volume", "evaluation")}
        about |= {"checkpoint": str(checkpoint), "step": metadata.get("step")}
        _write_json(Path(options.json), report(scores, config.evaluation, **about))
    console().print(dice_table(scores, config.evaluation))
    if planned.left_out:
        console().print(left_out_table(planned.left_out))
    return 0


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


def _bench(options: argparse.Namespace) -> int:
    from wsicl_jax.bench.context import bench_context
    from wsicl_jax.bench.exchange import EXCHANGED_CONTEXTS, bench_exchange
    from wsicl_jax.config import ExperimentConfig, TrainConfig, override_config
    from wsicl_jax.progress import console

    if options.json:
        _check_writable(Path(options.json))
    batch = 1 if options.what == "loader" else options.devices
    config = ExperimentConfig(train=TrainConfig(batch=batch))
    config = override_config(config, options.overrides, _BENCH_SECTIONS[options.what])
    if options.what == "loader":
        from wsicl_jax.bench.loader import bench_loader

        found = bench_loader(config, episodes=options.episodes, show=console().print)
    elif options.what == "context":
        found = bench_context(
            config,
            options.contexts or [2, 8, 32],
            options.devices,
            repeats=options.repeats,
            show=console().print,
        )
    else:
        contexts = max(options.contexts or [EXCHANGED_CONTEXTS])
        found = bench_exchange(config, contexts, options.devices, show=console().print)
    if options.json:
        _write_json(Path(options.json), found)
    return 0


def _import(options: argparse.Namespace) -> int:
    from wsicl_jax.export.lightning import import_lightning
    from wsicl_jax.progress import console

    model = import_lightning(options.file, options.output)
    channels = ", ".join(map(str, model.config.channels))
    console().print(f"imported a network of channels {channels} to {options.output}")
    return 0


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {least} or more")
        return int(text)

    return number


def _above_0(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _check_writable(path: Path) -> None:
    if path.is_dir():
        raise WsiclError(f"cannot write {path}: it is a directory; give a file's name")
    if not os.access(path.absolute().parent, os.W_OK):
        raise WsiclError(f"cannot write {path}: there is no directory {path.parent} to write to")


def _write_json(path: Path, content: object) -> None:
    from wsicl_jax.files import write_whole

    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no more `key=value` once an option came between.
    unknown = [word for word in rest if word.startswith("-") or "=" not in word]
    if unknown or (rest and "overrides" not in options):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        options.overrides += rest
    return options


def _part(text: str) -> tuple[int, int]:
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; expected i/n, from 1/n to n/n")
    return int(number), int(parts)


def _labels(text: str) -> dict[int, str]:
    names = {}
    for item in text.split(","):
        name, _, value = item.rpartition("=")
        if not name or not value.isdecimal() or not int(value) or int(value) in names:
            raise argparse.ArgumentTypeError(
                f"{item!r} in {text!r}; expected a name and its value for each label, such as "
                "liver=1,spleen=2"
            )
        names[int(value)] = name
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wsicl",
        description="Weakly supervised in-context segmentation of 3D medical images.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run, summary: str, example: str, group=verbs) -> argparse.ArgumentParser:
        added = group.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    demo = verb(
        "demo",
        _demo,
        "train a tiny model on synthetic data and show what it can do, in 5 minutes",
        "wsicl demo --output demo",
    )
    demo.add_argument("--output", default="demo", help="directory for the run and its figures")
    demo.add_argument("--seed", type=int, default=0, help="seed of the whole demo")

    _add_convert(verb)
    _add_data(verbs, verb)

    _add_synth(verb)

    train = verb(
        "train",
        _train,
        "train a model as a configuration says",
        "wsicl train configs/hippocampus.yaml train.steps=4000 run=runs/long",
    )
    train.add_argument("config", help="YAML file; see configs/")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    train.add_argument(
        "--accept-data-changes",
        action="store_true",
        help="with --resume: go on although the stores have changed since; cases keep their part",
    )
    cluster = train.add_argument_group(
        "several processes", "found by themselves under Slurm, in a JobSet and on TPU pods"
    )
    cluster.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    cluster.add_argument("--num-processes", type=int, metavar="N", help="how many train together")
    cluster.add_argument("--process-id", type=int, metavar="I", help="which this is, from 0")

    check = verb(
        "check",
        _check,
        "say what a training run would need and where it would fail, before it starts",
        "wsicl check configs/hippocampus.yaml --devices 64 --hosts 8 --memory 80",
    )
    check.add_argument("config", help="YAML file; see configs/")
    check.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    check.add_argument("--resume", action="store_true", help="check `wsicl train --resume`")
    check.add_argument("--devices", type=int, metavar="N", help="devices of all hosts (as here)")
    check.add_argument("--hosts", type=int, default=1, metavar="H", help="hosts they are on (1)")
    check.add_argument("--memory", type=float, metavar="GB", help="memory of one device")

    evaluate = verb(
        "eval",
        _eval,
        "measure Dice on validation cases, or on those held out",
        "wsicl eval runs/hippocampus 'evaluation.kinds=[box, point, mask]'",
    )
    evaluate.add_argument("checkpoint", help="a run, one of its checkpoints, or an imported one")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    evaluate.add_argument("--json", metavar="FILE", help="write every score there too")

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

    info = verb(
        "info",
        _info,
        "say what a store, a checkpoint or a run holds",
        "wsicl info runs/hippocampus",
    )
    info.add_argument("path")

    bench = verb(
        "bench",
        _bench,
        "measure what a context set costs, what devices exchange, how fast episodes come",
        "wsicl bench context 'volume.grid=[64, 64, 64]' model.precision=bfloat16 --contexts 2,8",
    )
    bench.add_argument(
        "what",
        choices=("context", "exchange", "loader"),
        help="context: memory and time by size and by remat, then exchange; "
        "exchange: bytes between devices by mesh, of the compiled program; "
        "loader: volumes per second from disk, and memory",
    )
    bench.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    bench.add_argument(
        "--contexts",
        type=lambda text: [_at_least(1)(size) for size in text.split(",")],
        metavar="L,L,...",
        help="sizes of the context set (2,8,32)",
    )
    repeats = "timed runs (3); 0: memory only"
    bench.add_argument("--repeats", type=_at_least(0), default=3, metavar="N", help=repeats)
    bench.add_argument(
        "--devices", type=_at_least(2), default=8, metavar="N", help="of the meshes compared (8)"
    )
    bench.add_argument(
        "--episodes",
        type=_at_least(5),
        default=1000,
        metavar="N",
        help="for loader's memory (1000)",
    )
    bench.add_argument("--json", metavar="FILE", help="write the numbers there too")

    imported = verb(
        "import",
        _import,
        "turn the authors' Lightning checkpoint into one of ours",
        "wsicl import box.ckpt checkpoints/box",
    )
    imported.add_argument("file", help="the authors' .ckpt")
    imported.add_argument("output", help="checkpoint directory to write; must not exist")
    return parser


def _add_convert(verb: Callable[..., argparse.ArgumentParser]) -> None:
    convert = verb(
        "convert",
        _convert,
        "convert a folder of images and labels to a store",
        "wsicl convert nnUNet_raw/Dataset004_Hippocampus stores/hippocampus",
    )
    convert.add_argument(
        "source", help="folder of nnU-Net v2 or of the Decathlon, of paired files, or of DICOM"
    )
    convert.add_argument("store", help="directory, or s3:// or gs:// URL, to write or go on with")
    convert.add_argument(
        "--layout",
        choices=("auto", "nnunet", "msd", "paired", "dicom"),
        default="auto",
        help="what kind of folder it is (auto: by what is in it)",
    )
    convert.add_argument(
        "--labels",
        type=_labels,
        metavar="NAME=VALUE,...",
        help="names of the label values, where the folder gives none",
    )
    convert.add_argument("--ras", action="store_true", help="turn the axes to RAS+ order")
    convert.add_argument(
        "--crop", action="store_true", help="keep only the box of what is above the lowest value"
    )
    convert.add_argument(
        "--spacing", nargs=3, type=float, metavar="MM", help="resample to about this spacing"
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
        help="put this where voxels are NaN or infinite (else such cases are left out)",
    )
    convert.add_argument(
        "--workers",
        type=_at_least(1),
        default=min(os.cpu_count() or 1, _MOST_WORKERS),
        help="processes that each convert a case at a time (one per core)",
    )
    convert.add_argument(
        "--part", type=_part, default=(1, 1), metavar="i/n", help="only every n-th case: array jobs"
    )


def _add_synth(verb: Callable[..., argparse.ArgumentParser]) -> None:
    synth = verb(
        "synth",
        _synth,
        "write synthetic cohorts, one store for each",
        "wsicl synth stores/synthetic --cohorts 100 --subjects 9 --grid 64 64 64",
    )
    synth.add_argument("output", help="directory, or s3:// or gs:// URL, to write or go on with")
    synth.add_argument("overrides", nargs="*", metavar="key=value", help="settings of `synth`")
    number = _at_least(1)
    synth.add_argument("--cohorts", type=number, default=1, metavar="N", help="cohorts (1)")
    synth.add_argument("--subjects", type=number, default=9, metavar="M", help="of each cohort (9)")
    synth.add_argument(
        "--grid", nargs=3, type=number, default=(64, 64, 64), metavar="N", help="voxels (64 64 64)"
    )
    synth.add_argument("--seed", type=_at_least(0), default=0, help="seed of all cohorts (0)")
    synth.add_argument(
        "--spacing", type=_above_0, default=1.0, metavar="MM", help="side of a voxel (1)"
    )
    synth.add_argument("--workers", type=number, default=1, help="processes (1)")
    synth.add_argument("--picture", metavar="FILE.png", help="draw some of the cohorts, too")


def _add_data(verbs, verb: Callable[..., argparse.ArgumentParser]) -> None:
    summary = "list, show or verify what is in a store, and how training changes it"
    group = verbs.add_parser("data", help=summary, description=f"{summary.capitalize()}.")
    parts = group.add_subparsers(dest="part", required=True, metavar="list|show|verify|augment")

    listed = verb(
        "list", _data_list, "list the cases of a store", "wsicl data list stores/liver", parts
    )
    listed.add_argument("path", help="a store, or a directory of stores")

    shown = verb(
        "show",
        _data_show,
        "write a picture of a case with its labels",
        "wsicl data show stores/liver liver_012 --output liver_012.png",
        parts,
    )
    shown.add_argument("store")
    shown.add_argument("case", nargs="?", help="name of the case (the first)")
    shown.add_argument("--output", metavar="FILE.png", help="the picture (CASE.png)")

    verified = verb(
        "verify",
        _data_verify,
        "read all of a store and compare every checksum",
        "wsicl data verify stores/liver",
        parts,
    )
    verified.add_argument("store")

    augmented = verb(
        "augment",
        _data_augment,
        "write a picture of every random change of a configuration",
        "wsicl data augment configs/hippocampus.yaml --output augmentation.png",
        parts,
    )
    augmented.add_argument("config", help="YAML file; see configs/")
    augmented.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    augmented.add_argument(
        "--index", type=_at_least(0), default=0, help="episode that is shown (0)"
    )
    augmented.add_argument("--output", required=True, metavar="FILE.png", help="the picture")
