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

_EVAL_SECTIONS = ("evaluation", "data", "volume")
"""Settings that `wsicl eval` may change: the others say what was trained, and on which cases."""

_BENCH_SECTIONS = ("model", "volume", "train")
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
    from wsicl_jax.data.convert import convert
    from wsicl_jax.progress import console

    summary = convert(options.source, options.store, workers=options.workers)
    console().print(summary.table())
    return 1 if summary.skipped else 0


def _train(options: argparse.Namespace) -> int:
    from wsicl_jax.cluster import join_processes, peers_watched
    from wsicl_jax.config import load_config
    from wsicl_jax.parallel import keep_compiled_programs

    config = load_config(options.config, options.overrides)
    keep_compiled_programs()
    join_processes(options.coordinator, options.num_processes, options.process_id)
    with peers_watched():
        return _train_together(config, resume=options.resume)


def _train_together(config: "ExperimentConfig", *, resume: bool) -> int:
    from wsicl_jax.cluster import is_leader
    from wsicl_jax.errors import PreemptedError
    from wsicl_jax.evaluate.protocol import evaluate, plan_trials
    from wsicl_jax.evaluate.report import dice_table, left_out_table, mean_dice, report
    from wsicl_jax.progress import console
    from wsicl_jax.train.loop import train

    # Now, so that a data set that cannot be evaluated is told before the training.
    planned = plan_trials(config)
    scores = []

    def evaluator(model):
        scores[:] = evaluate(model, planned.trials, config.evaluation)
        return mean_dice(scores)

    try:
        train(config, resume=resume, evaluate=evaluator if planned.trials else None)
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
    from wsicl_jax.evaluate.report import dice_table, left_out_table, report
    from wsicl_jax.parallel import keep_compiled_programs
    from wsicl_jax.progress import console

    keep_compiled_programs()
    if options.json:
        _check_writable(Path(options.json))
    checkpoint = find_checkpoint(options.checkpoint)
    metadata = read_metadata(checkpoint)
    config = override_config(experiment_config(metadata), options.overrides, _EVAL_SECTIONS)
    planned = plan_trials(config)
    if not planned.trials:
        raise DataError("no structure is in enough training and validation cases to be evaluated")
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
    config = ExperimentConfig(train=TrainConfig(batch=options.devices))
    config = override_config(config, options.overrides, _BENCH_SECTIONS)
    if options.what == "context":
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wsicl",
        description="Weakly supervised in-context segmentation of 3D medical images.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run, summary: str, example: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(
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

    convert = verb(
        "convert",
        _convert,
        "convert an nnU-Net v2 folder to a store",
        "wsicl convert nnUNet_raw/Dataset004_Hippocampus stores/hippocampus",
    )
    convert.add_argument("source", help="folder with dataset.json, imagesTr and labelsTr")
    convert.add_argument("store", help="directory to write; must not exist")
    convert.add_argument("--workers", type=int, default=4, help="cases at a time (4)")

    train = verb(
        "train",
        _train,
        "train a model as a configuration says",
        "wsicl train configs/hippocampus.yaml train.steps=4000 run=runs/long",
    )
    train.add_argument("config", help="YAML file; see configs/")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
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
        "measure Dice on validation cases",
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
        "measure what a context set costs, and what devices exchange",
        "wsicl bench context 'volume.grid=[64, 64, 64]' model.precision=bfloat16 --contexts 2,8",
    )
    bench.add_argument(
        "what",
        choices=("context", "exchange"),
        help="context: memory and time by size and by remat, then exchange; "
        "exchange: bytes between devices by mesh, of the compiled program",
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
