"""Verbs for evaluation: eval, sweep, episodes, score, report."""

import argparse
from pathlib import Path

from wsicl_jax.cli.values import (
    Verb,
    above_0,
    add_configuration,
    at_least,
    check_writable,
    command,
    disk_path,
    part_of,
    write_json,
)

_EVAL_SECTIONS = ("evaluation", "data", "volume")
"""Sections that `wsicl eval` may change; the others define the training and its cases."""


def _eval(options: argparse.Namespace) -> int:
    import jax

    from wsicl_jax.config import config_to_dict, override_config
    from wsicl_jax.errors import DataError
    from wsicl_jax.evaluate.planning import plan_experiment, with_prompts
    from wsicl_jax.evaluate.predictor import Predictor
    from wsicl_jax.evaluate.scoring import evaluate
    from wsicl_jax.evaluate.summaries import report, score_tables, skipped_table
    from wsicl_jax.model.ops.compilation import keep_compiled_programs
    from wsicl_jax.storage.object_path import place_of
    from wsicl_jax.terminal.progress import console
    from wsicl_jax.train.binding import datasets_of_checkpoint
    from wsicl_jax.weights.networks import find_network

    keep_compiled_programs()
    if options.json:
        check_writable(Path(options.json))
    stored = find_network(options.checkpoint)
    config = override_config(stored.experiment, options.overrides, _EVAL_SECTIONS)
    datasets = datasets_of_checkpoint(stored.path, stored.metadata, config)
    planned, skipped = plan_experiment(config, datasets)
    if not planned:
        part = config.evaluation.part.replace("_", "-")
        raise DataError(f"no structure is in enough training and {part} cases to be evaluated")
    network = Predictor(stored.load(), config.volume, jax.local_devices())
    marked = [with_prompts(data) for data in planned]
    scores = evaluate(network, marked, config.evaluation, place_of(options.checkpoint).name)
    if options.json:
        settings = config_to_dict(config)
        about = {name: settings[name] for name in ("seed", "data", "volume", "evaluation")}
        about |= {"checkpoint": str(stored.path), "step": stored.metadata.get("step")}
        write_json(Path(options.json), report(scores, **about))
    console().print(*score_tables(scores))
    if skipped:
        console().print(skipped_table(skipped))
    return 0


def _episodes(options: argparse.Namespace) -> int:
    from wsicl_jax.config import load_sweep
    from wsicl_jax.evaluate.sweep import open_sweep

    sweep = open_sweep(load_sweep(options.config, options.overrides), lists_only=True)
    for path in sweep.lists:
        print(path)
    return _report_skipped(sweep.skipped)


def _sweep(options: argparse.Namespace) -> int:
    import jax

    from wsicl_jax.config import load_sweep
    from wsicl_jax.evaluate.summaries import sweep_table
    from wsicl_jax.evaluate.sweep import finished, open_sweep, run_cells
    from wsicl_jax.model.ops.compilation import keep_compiled_programs
    from wsicl_jax.storage.lock import part_locked
    from wsicl_jax.terminal.progress import console

    keep_compiled_programs()
    config = load_sweep(options.config, options.overrides)
    with part_locked(config.output, options.part, f"the sweep {config.output}"):
        sweep = open_sweep(config, command())
        scored, existing = run_cells(sweep, options.part, jax.local_devices())
    console().print(sweep_table(finished(sweep)))
    print(f"{sweep.config.output}: {scored} cells scored, {existing} already existed")
    return _report_skipped(sweep.skipped)


def _score(options: argparse.Namespace) -> int:
    from wsicl_jax.evaluate.external_masks import score_masks
    from wsicl_jax.evaluate.summaries import score_tables
    from wsicl_jax.storage.object_path import place_of
    from wsicl_jax.terminal.progress import console

    scores = score_masks(
        place_of(options.episodes),
        Path(options.masks),
        place_of(options.output),
        model=options.name,
        kind=options.kind,
        prompts=options.prompts,
        contexts=options.contexts,
        tolerance_mm=options.tolerance,
    )
    console().print(*score_tables(scores))
    return 0


def _report(options: argparse.Namespace) -> int:
    from wsicl_jax.model.ops.compilation import keep_compiled_programs
    from wsicl_jax.report.page import write_report
    from wsicl_jax.report.replay import Replay
    from wsicl_jax.storage.object_path import place_of

    keep_compiled_programs()
    sweeps = [place_of(directory) for directory in options.sweeps]
    files = write_report(
        sweeps,
        Path(options.output),
        title=options.title,
        command=command(),
        replay=None if options.no_gallery else Replay(sweeps),
        overwrite=options.overwrite,
    )
    print(files.page)
    return 0


def _report_skipped(skipped: dict[str, str]) -> int:
    from wsicl_jax.evaluate.summaries import skipped_table
    from wsicl_jax.terminal.progress import console

    if skipped:
        console().print(skipped_table(skipped))
    return 1 if skipped else 0


def add_eval(verb: Verb) -> None:
    evaluate = verb(
        "eval",
        _eval,
        "evaluate a network on validation or held-out cases",
        "wsicl eval runs/hippocampus 'evaluation.kinds=[box, point, mask]'",
    )
    evaluate.add_argument("checkpoint", help="a run, a checkpoint, a file of weights, or small")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    evaluate.add_argument("--json", metavar="FILE", help="also write every score as JSON")


def add_sweep(verb: Verb) -> None:
    swept = verb(
        "sweep",
        _sweep,
        "evaluate a grid of models, data sets, kinds and numbers of prompts, and context sizes",
        "wsicl sweep configs/sweeps/paper.yaml 'evaluation.contexts=[1, 2, 4]'",
    )
    listed = verb(
        "episodes",
        _episodes,
        "write only the episode lists of a sweep: its cases and prompts",
        "wsicl episodes configs/sweeps/paper.yaml output=sweeps/paper",
    )
    for parser in (swept, listed):
        add_configuration(parser)
    swept.add_argument(
        "--part",
        type=part_of,
        default=(1, 1),
        metavar="i/n",
        help="only this part of the cells, for array jobs",
    )

    scored = verb(
        "score",
        _score,
        "score masks of an external model on an episode list",
        "wsicl score sweeps/paper/episodes/liver.json masks --name nnU-Net --kind mask "
        "--contexts 8 --output sweeps/nnunet",
    )
    scored.add_argument("episodes", help="an episode list")
    scored.add_argument("masks", help="directory of EPISODE.nii.gz, each on its target's grid")
    scored.add_argument("--name", required=True, help="name of the model")
    scored.add_argument(
        "--kind",
        required=True,
        choices=("point", "box", "scribble", "box3d", "mask2d", "mask", "mixed"),
        help="kind of prompts that it received",
    )
    number = at_least(1)
    scored.add_argument(
        "--prompts", type=number, default=1, help="prompts on each context image (1)"
    )
    scored.add_argument("--contexts", type=number, required=True, help="number of context images")
    scored.add_argument(
        "--tolerance",
        type=above_0,
        default=2.0,
        metavar="MM",
        help="tolerance of the surface Dice (2)",
    )
    scored.add_argument("--output", required=True, help="directory to write, for wsicl report")

    reported = verb(
        "report",
        _report,
        "write a report of sweeps: an HTML page, and its tables and figures as CSV and PNG",
        "wsicl report sweeps/paper sweeps/nnunet --output reports/paper",
    )
    reported.add_argument(
        "sweeps", nargs="+", metavar="SWEEP", help="directories or URLs of sweeps"
    )
    reported.add_argument("--output", required=True, type=disk_path, help="directory to write")
    reported.add_argument("--title", help="title of the page")
    reported.add_argument(
        "--no-gallery",
        action="store_true",
        help="no pictures of cases, so that no checkpoint or store is needed",
    )
    reported.add_argument("--overwrite", action="store_true", help="replace an existing report")
