"""`wsicl VERB`: a thin function for each verb, by what it is for.

Only the standard library is imported until a verb runs, so that `--help` answers at once.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence

from wsicl_jax import __version__
from wsicl_jax.cli import bench, data, evaluation, exchange, inference, training
from wsicl_jax.errors import WsiclError

_USE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code.

    0: done, 1: done in part, 2: an error of use, 69: another process of the run was lost,
    75: training stopped on SIGTERM and saved.
    """
    options = parse(arguments)
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


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; exits with code 2 where it is wrong."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no more `key=value`, and no more targets, once an option came between.
    name = "overrides" if "overrides" in options else "targets"
    unknown = [
        word for word in rest if word.startswith("-") or (name == "overrides" and "=" not in word)
    ]
    if unknown or (rest and name not in options):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        setattr(options, name, [*getattr(options, name), *rest])
    return options


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="wsicl",
        description="Weakly supervised in-context segmentation of 3D medical images.",
    )
    parser.add_argument("--version", action="version", version=f"wsicl {__version__}")
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

    training.add_demo(verb)
    data.add_convert(verb)
    data.add_data(verbs, verb)
    data.add_synth(verb)
    training.add_train(verb)
    training.add_ablate(verb)
    training.add_check(verb)
    evaluation.add_eval(verb)
    evaluation.add_sweep(verb)
    inference.add_predict(verb)
    inference.add_show(verb)
    inference.add_info(verb)
    bench.add_bench(verb)
    exchange.add_export(verb)
    exchange.add_import(verb)
    return parser
