"""The verb bench."""

import argparse
from pathlib import Path

from wsicl_jax.cli.values import Verb, at_least, check_writable, command, write_json

_BENCH_SECTIONS = {
    "context": ("model", "volume", "train"),
    "exchange": ("model", "volume", "train"),
    "loader": ("data", "volume", "synth", "episode", "prompts", "augment", "train"),
    "model": ("model", "volume", "train"),
    "predict": ("model", "volume"),
    "save": ("model", "train"),
    "serve": (),
    "step": ("model", "volume", "train"),
}
"""Sections that `wsicl bench` may change; the others do not affect the cost."""


def _bench(options: argparse.Namespace) -> int:
    from wsicl_jax.config import ExperimentConfig, TrainConfig, override_config
    from wsicl_jax.terminal.progress import console

    if options.json:
        check_writable(Path(options.json))
    batch = {"exchange": options.devices, "step": 4}.get(options.what, 1)
    config = ExperimentConfig(train=TrainConfig(batch=batch))
    config = override_config(config, options.overrides, _BENCH_SECTIONS[options.what])
    if options.what == "loader":
        from wsicl_jax.tools.bench.loading_speed import bench_loader

        numbers = bench_loader(config, episodes=options.episodes, show=console().print)
    elif options.what == "model":
        from wsicl_jax.tools.bench.network_speed import CASES, bench_model

        keys = {override.partition("=")[0] for override in options.overrides}
        chosen = keys & {"model.channels", "volume.grid"}
        numbers = bench_model(
            config,
            [(config.model.channels, config.volume.grid)] if chosen else CASES,
            contexts=max(options.contexts or [4]),
            repeats=max(options.repeats, 1),
            show=console().print,
        )
    elif options.what == "step":
        from wsicl_jax.tools.bench.step_options import bench_step

        numbers = bench_step(
            config,
            contexts=max(options.contexts or [4]),
            repeats=options.repeats,
            show=console().print,
        )
    elif options.what == "predict":
        from wsicl_jax.storage.object_path import place_of
        from wsicl_jax.tools.bench.prediction_time import bench_predict

        numbers = bench_predict(
            config,
            place_of(options.checkpoint) if options.checkpoint else None,
            options.shape,
            contexts=max(options.contexts or [8]),
            structures=options.structures,
            refine=options.refine,
            repeats=max(options.repeats, 1),
            show=console().print,
        )
    elif options.what == "serve":
        from wsicl_jax.cli.serve import check_installed

        check_installed()
        from wsicl_jax.tools.bench.service_time import bench_serve

        numbers = bench_serve(
            options.checkpoint or "small",
            options.shape,
            contexts=max(options.contexts or [3]),
            repeats=max(options.repeats, 1),
            show=console().print,
        )
    elif options.what == "save":
        from wsicl_jax.storage.object_path import place_of
        from wsicl_jax.tools.bench.save_time import bench_save

        numbers = bench_save(
            config,
            place_of(options.place),
            repeats=max(options.repeats, 1),
            show=console().print,
        )
    elif options.what == "context":
        from wsicl_jax.tools.bench.context_cost import bench_context

        numbers = bench_context(
            config,
            options.contexts or [2, 8, 32],
            repeats=options.repeats,
            show=console().print,
        )
    else:
        from wsicl_jax.tools.bench.device_exchange import EXCHANGED_CONTEXTS, bench_exchange

        contexts = max(options.contexts or [EXCHANGED_CONTEXTS])
        numbers = bench_exchange(config, contexts, options.devices, show=console().print)
    if options.json:
        write_json(Path(options.json), {"command": command(), **numbers})
    return 0


def _shape(text: str) -> tuple[int, int, int]:
    sides = [at_least(1)(side) for side in text.split(",")]
    if len(sides) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; expected X,Y,Z")
    x, y, z = sides
    return x, y, z


def add_bench(verb: Verb) -> None:
    bench = verb(
        "bench",
        _bench,
        "measure speed and memory of the network, context sets, device exchange, data loading, "
        "prediction, checkpoints and the service",
        "wsicl bench context 'volume.grid=[64, 64, 64]' model.precision=bfloat16 --contexts 2,8",
    )
    bench.add_argument(
        "what",
        choices=("model", "context", "exchange", "loader", "predict", "save", "serve", "step"),
        help="model: a training step and a forward pass against the PyTorch network; "
        "context: memory and time by size of the context set and by remat; "
        "exchange: bytes between devices by mesh, of the compiled program; "
        "loader: volumes per second from disk, and memory; "
        "predict: one target, from its file to that of its label map; "
        "save: a checkpoint, in a directory or an object store; "
        "serve: a correction in the service of the page; "
        "step: a training step with train.ema and with train.accumulate, against without",
    )
    bench.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    bench.add_argument(
        "--contexts",
        type=lambda text: [at_least(1)(size) for size in text.split(",")],
        metavar="L,L,...",
        help="sizes of the context set (2,8,32); for model and step: 4, for predict: 8, for "
        "serve: 3",
    )
    repeats = "timed runs (3); 0: memory only"
    bench.add_argument("--repeats", type=at_least(0), default=3, metavar="N", help=repeats)
    bench.add_argument(
        "--devices",
        type=at_least(2),
        default=8,
        metavar="N",
        help="devices of the compared meshes (8)",
    )
    bench.add_argument(
        "--episodes",
        type=at_least(5),
        default=1000,
        metavar="N",
        help="episodes for the loader's memory (1000)",
    )
    predict = bench.add_argument_group("predict and serve")
    predict.add_argument(
        "--checkpoint", metavar="PATH", help="network to use instead of a random one, or of small"
    )
    predict.add_argument(
        "--shape",
        type=_shape,
        default=(128, 128, 128),
        metavar="X,Y,Z",
        help="voxels of the target and of each context image (128,128,128)",
    )
    predict.add_argument(
        "--structures", type=at_least(1), default=1, metavar="N", help="structures to segment (1)"
    )
    predict.add_argument(
        "--refine",
        action=argparse.BooleanOptionalAction,
        help="refine in tiles, or never (as the network's training allows)",
    )
    bench.add_argument(
        "--place",
        default=".",
        metavar="PATH",
        help="for save: directory, or s3:// or gs:// URL, where checkpoints are written (.)",
    )
    bench.add_argument("--json", metavar="FILE", help="also write the numbers as JSON")
