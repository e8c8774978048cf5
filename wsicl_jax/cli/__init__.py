"""The command line `wsicl VERB`: one file for each group of verbs.

Verbs only parse options, call the rooms below and print. Until a verb runs, only the standard
library is imported, so that `--help` is fast.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress

from wsicl_jax import __version__
from wsicl_jax.cli import (
    bench,
    configurations,
    data,
    evaluation,
    exchange,
    inference,
    serve,
    training,
)
from wsicl_jax.errors import WsiclError

_USE_ERROR = 2

_LONGEST_NAME = 200
"""Most characters of a file's name in a message."""
_PLAIN = "\0"
"""Prefix of words after `--`, so that a dash in front makes no option of them."""

_DASHES = "names that begin with a dash come last, after --: wsicl VERB ... -- -name"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code.

    0: done, 1: partly done, 2: a user error, 69: another process of the run was lost,
    75: training stopped and saved, and can be resumed.
    Without `arguments`, uses those of the command line, and an error ends the process at once.
    """
    options = parse(arguments)
    warnings.showwarning = _show_warning
    sys.excepthook = _show_uncaught
    try:
        return options.run(options)
    except (WsiclError, OSError) as error:  # OSError: an unwritable directory, a full disk
        print(f"wsicl {options.verb}: {_message(error)}", file=sys.stderr)
        code = getattr(error, "exit_code", _USE_ERROR)
    except KeyboardInterrupt:
        print(f"wsicl {options.verb}: interrupted", file=sys.stderr)
        code = 130
    if arguments is None:
        _end(code)
    return code


def _message(error: WsiclError | OSError) -> str:
    from wsicl_jax.storage.atomic import why_full

    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        name = str(error.filename or "")
        short = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
        text = f"{short}: {error.strerror}" if name else error.strerror
    if why_full(error) and "make room" not in text:
        text += "; make room there, then repeat the command"
    return text


def _end(code: int) -> None:
    """End this process without waiting for threads and processes of libraries.

    After a full disk or a killed process, these may wait forever or print tracebacks.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    os._exit(code)


def _show_uncaught(kind: type[BaseException], error: BaseException, trace: object) -> None:
    """Print a traceback, except TensorStore's of writes that another failure cancelled."""
    if kind is not RuntimeError or str(error) != "Event loop is closed":
        sys.__excepthook__(kind, error, trace)


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; exits with code 2 if it is wrong."""
    parser = build_parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--" in words:
        # argparse handles `--` differently in each list of words; the prefix makes it simple.
        end = words.index("--")
        words = [*words[:end], *(f"{_PLAIN}{word}" for word in words[end + 1 :])]
    options, rest = parser.parse_known_args(words)
    # argparse accepts no more `key=value` and targets after an option in between.
    name = "overrides" if "overrides" in options else "targets"
    unknown = [
        word for word in rest if word.startswith("-") or (name == "overrides" and "=" not in word)
    ]
    if unknown or (rest and name not in options):
        named = (word.removeprefix(_PLAIN) for word in unknown or rest)
        parser.error(f"unrecognized arguments: {' '.join(named)}")
    if rest:
        setattr(options, name, [*getattr(options, name), *rest])
    for key, value in vars(options).items():
        if isinstance(value, str):
            setattr(options, key, value.removeprefix(_PLAIN))
        elif isinstance(value, list):
            plain = [word.removeprefix(_PLAIN) if isinstance(word, str) else word for word in value]
            setattr(options, key, plain)
    return options


class _PrintCompletion(argparse.Action):
    def __call__(self, parser, namespace, shell, option_string=None):
        try:
            import shtab
        except ImportError:
            parser.error("completion needs the extra: pip install 'wsicl_jax[completion]'")
        print(shtab.complete(parser, shell))
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="wsicl",
        description="Weakly supervised in-context segmentation of 3D medical images.",
    )
    parser.add_argument("--version", action="version", version=f"wsicl {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print the completion script of a shell",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run, summary: str, example: str, group=verbs) -> argparse.ArgumentParser:
        added = group.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {example}\n\n{_DASHES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    training.add_demo(verb)
    data.add_convert(verb)
    data.add_data(verbs, verb)
    data.add_synth(verb)
    configurations.add_configs(verb)
    training.add_train(verb)
    training.add_ablate(verb)
    training.add_check(verb)
    evaluation.add_eval(verb)
    evaluation.add_sweep(verb)
    inference.add_predict(verb)
    serve.add_serve(verb)
    inference.add_show(verb)
    inference.add_info(verb)
    bench.add_bench(verb)
    exchange.add_export(verb)
    exchange.add_import(verb)
    return parser
