"""The verb bench."""

import argparse
from pathlib import Path

from wsicl_jax.cli.values import Verb, at_least, check_writable, write_json

_BENCH_SECTIONS = {
    "context": ("model", "volume", "train"),
    "exchange": ("model", "volume", "train"),
    "loader": ("data", "volume", "synth", "episode", "prompts", "augment", "train"),
}
"""Settings that `wsicl bench` may change from their defaults: the others change no cost."""


def _bench(options: argparse.Namespace) -> int:
    from wsicl_jax.bench.context import bench_context
    from wsicl_jax.bench.exchange import EXCHANGED_CONTEXTS, bench_exchange
    from wsicl_jax.config import ExperimentConfig, TrainConfig, override_config
    from wsicl_jax.progress import console

    if options.json:
        check_writable(Path(options.json))
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
        write_json(Path(options.json), found)
    return 0


def add_bench(verb: Verb) -> None:
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
        type=lambda text: [at_least(1)(size) for size in text.split(",")],
        metavar="L,L,...",
        help="sizes of the context set (2,8,32)",
    )
    repeats = "timed runs (3); 0: memory only"
    bench.add_argument("--repeats", type=at_least(0), default=3, metavar="N", help=repeats)
    bench.add_argument(
        "--devices", type=at_least(2), default=8, metavar="N", help="of the meshes compared (8)"
    )
    bench.add_argument(
        "--episodes",
        type=at_least(5),
        default=1000,
        metavar="N",
        help="for loader's memory (1000)",
    )
    bench.add_argument("--json", metavar="FILE", help="write the numbers there too")
