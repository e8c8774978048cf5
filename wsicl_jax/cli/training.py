"""The verbs demo, train, ablate and check."""

import argparse
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wsicl_jax.cli.values import (
    Verb,
    add_configuration,
    at_least,
    check_writable,
    command,
    disk_path,
    numbers,
    write_json,
)
from wsicl_jax.errors import WsiclError

if TYPE_CHECKING:
    from wsicl_jax.config import ExperimentConfig
    from wsicl_jax.train.binding import RunStart

_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: a scheduler may start the same command again."""


def _demo(options: argparse.Namespace) -> int:
    from wsicl_jax.tools.demo.demo import run_demo

    run_demo(Path(options.output), seed=options.seed)
    return 0


def _train(options: argparse.Namespace) -> int:
    from wsicl_jax.config import load_config
    from wsicl_jax.distributed.processes import JOIN_SECONDS, join_processes, watch_peers
    from wsicl_jax.model.ops.compilation import keep_compiled_programs

    if options.accept_data_changes and not options.resume:
        raise WsiclError("--accept-data-changes is for resumed runs: add --resume")
    config = load_config(options.config, options.overrides)
    join_processes(
        options.coordinator,
        options.num_processes,
        options.process_id,
        timeout=options.join_timeout or JOIN_SECONDS,
    )
    keep_compiled_programs()
    from wsicl_jax.train.binding import open_run  # imports what may use devices: after joining

    with (
        watch_peers(),
        open_run(
            config, resume=options.resume, accept_data_changes=options.accept_data_changes
        ) as start,
    ):
        return _train_and_evaluate(config, start)


def _train_and_evaluate(config: "ExperimentConfig", start: "RunStart") -> int:
    import jax

    from wsicl_jax.distributed.processes import is_leader
    from wsicl_jax.errors import PreemptedError
    from wsicl_jax.evaluate.planning import plan_experiment, with_prompts
    from wsicl_jax.evaluate.predictor import Predictor
    from wsicl_jax.evaluate.scoring import evaluate
    from wsicl_jax.evaluate.summaries import (
        mean_dice,
        mean_loss,
        mean_ssim,
        report,
        score_tables,
        skipped_table,
    )
    from wsicl_jax.model.losses import make_loss
    from wsicl_jax.report.validation_pictures import validation_pictures
    from wsicl_jax.terminal.progress import console
    from wsicl_jax.train.evaluation import Evaluation
    from wsicl_jax.train.loop import train
    from wsicl_jax.train.run_directory import run_directory

    run = run_directory(config)
    # Before training, so that a data set that cannot be evaluated is reported early.
    planned, skipped = plan_experiment(config, start.datasets)
    scores = []
    # Sampled once, at the first evaluation, because this reads label maps.
    marked = functools.cache(lambda: [with_prompts(data) for data in planned])

    loss = jax.jit(make_loss(config.train))

    def evaluator(model):
        network, data = Predictor(model, config.volume, jax.devices()), marked()
        scores[:] = evaluate(network, data, config.evaluation, run.name, loss)
        return Evaluation(
            mean_dice(scores) | mean_ssim(scores),
            mean_loss(scores),
            validation_pictures(network, data, scores, config.train.pictures),
        )

    try:
        train(config, start, evaluate=evaluator if planned else None)
    except PreemptedError as error:
        if is_leader():
            print(f"wsicl train: {error}", file=sys.stderr)
        return _STOPPED
    if is_leader():
        if scores:
            write_json(run / "evaluation.json", report(scores))
            console().print(*score_tables(scores))
        if skipped:
            console().print(skipped_table(skipped))
        print(config.run)
    return 0


def _ablate(options: argparse.Namespace) -> int:
    from wsicl_jax.config import load_ablation
    from wsicl_jax.errors import PreemptedError
    from wsicl_jax.terminal.progress import console
    from wsicl_jax.tools.ablate.ablation import ablate

    if options.launcher == "slurm" and options.jobs is not None:
        raise WsiclError("--jobs is for --launcher local; for Slurm, set slurm.array_parallelism=N")
    try:
        complete = ablate(
            load_ablation(options.config, options.overrides),
            show=console().print,
            launcher=options.launcher,
            jobs=options.jobs or 1,
            dry_run=options.dry_run,
        )
    except PreemptedError as error:
        print(f"wsicl ablate: {error}", file=sys.stderr)
        return _STOPPED
    return 0 if complete else 1


def _check(options: argparse.Namespace) -> int:
    from wsicl_jax.config import load_config
    from wsicl_jax.model.ops.compilation import keep_compiled_programs
    from wsicl_jax.terminal.progress import console
    from wsicl_jax.tools.check.check import check, show_scaling

    config = load_config(options.config, options.overrides)
    if options.json:
        check_writable(Path(options.json))
    if not options.chip:  # whose compiler's seconds are a result
        keep_compiled_programs(simulated=True)
    show, devices = console().print, options.devices
    if options.table:
        found = show_scaling(config, options.chip, devices or (1,), show=show)
    elif devices and len(devices) > 1:
        raise WsiclError("--devices has several numbers, which are for --table: add it")
    else:
        found = check(
            config,
            show=show,
            devices=devices[0] if devices else None,
            hosts=options.hosts,
            memory=options.memory,
            resume=options.resume,
            chip=options.chip,
            every_size=options.every_size,
        )
    if options.json:
        write_json(Path(options.json), {"command": command(), **found})
    return 0


def add_demo(verb: Verb) -> None:
    demo = verb(
        "demo",
        _demo,
        "train a tiny network on synthetic data and draw its results, in 5 minutes",
        "wsicl demo --output demo",
    )
    demo.add_argument(
        "--output", default="demo", type=disk_path, help="directory for the run and its figures"
    )
    demo.add_argument("--seed", type=int, default=0, help="seed of the whole demo")


def add_train(verb: Verb) -> None:
    train = verb(
        "train",
        _train,
        "train a network by a configuration",
        "wsicl train configs/hippocampus.yaml train.steps=4000 run=runs/long",
    )
    add_configuration(train)
    train.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    train.add_argument(
        "--accept-data-changes",
        action="store_true",
        help="with --resume: accept changed stores; cases keep their part of the split",
    )
    cluster = train.add_argument_group(
        "several processes", "detected under Slurm, in a JobSet and on TPU pods"
    )
    cluster.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    cluster.add_argument("--num-processes", type=int, metavar="N", help="number of processes")
    cluster.add_argument(
        "--process-id", type=int, metavar="I", help="number of this process, from 0"
    )
    cluster.add_argument(
        "--join-timeout",
        type=at_least(1),
        metavar="SECONDS",
        help="how long processes wait for each other at the start (300)",
    )


def add_ablate(verb: Verb) -> None:
    ablate = verb(
        "ablate",
        _ablate,
        "train a grid of settings, here or as Slurm jobs; skips finished cells",
        "wsicl ablate configs/sweeps/contexts.yaml train.steps=500 --dry-run",
    )
    add_configuration(ablate)
    ablate.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="local: each cell in a process here; slurm: each cell in an array job (local)",
    )
    ablate.add_argument(
        "--jobs", type=at_least(1), metavar="N", help="with local: cells in parallel (1)"
    )
    ablate.add_argument("--dry-run", action="store_true", help="only list the cells")


def add_check(verb: Verb) -> None:
    check = verb(
        "check",
        _check,
        "report what a training would need and where it would fail, before it starts",
        "wsicl check configs/hippocampus.yaml --devices 64 --hosts 8 --memory 80",
    )
    add_configuration(check)
    check.add_argument("--resume", action="store_true", help="check resuming the run")
    check.add_argument(
        "--devices",
        type=numbers,
        metavar="N",
        help="devices of all hosts (default: those here; with --chip 1; with --table N,N,...)",
    )
    check.add_argument("--hosts", type=int, default=1, metavar="H", help="number of hosts (1)")
    check.add_argument(
        "--memory", type=float, metavar="GB", help="memory of one device (default: the chip's)"
    )
    check.add_argument(
        "--chip",
        metavar="NAME",
        help="compile with this chip's own compiler, which needs no device but the extra cuda or "
        "tpu: a100, a100-40, b200, h100, h100-pcie, h200, l4, l40s, v4, v5e, v5p, v6e",
    )
    check.add_argument(
        "--every-size",
        action="store_true",
        help="with --chip: compile for each size of context set, not only for the largest",
    )
    check.add_argument(
        "--table",
        action="store_true",
        help="with --chip: only predict the time of a step on each of several numbers of devices",
    )
    check.add_argument("--json", metavar="FILE", help="also write the numbers as JSON")
