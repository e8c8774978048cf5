"""Types of option values, shared options, and files that verbs write."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from wsicl_jax.errors import WsiclError

if TYPE_CHECKING:
    from wsicl_jax.storage.object_path import Place

Verb = Callable[..., argparse.ArgumentParser]
"""Adds a verb: its name, function, summary and example."""


def at_least(least: int) -> Callable[[str], int]:
    """The type of integers from `least` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of {least} or more")
        return int(text)

    return number


def numbers(text: str) -> tuple[int, ...]:
    """The type of one or several integers: N,..."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number or several, such as 8,64"
        ) from None


def above_0(text: str) -> float:
    """The type of numbers above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def part_of(text: str) -> tuple[int, int]:
    """The type of parts of array jobs: i/n, from 1/n to n/n."""
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; expected i/n, from 1/n to n/n")
    return int(number), int(parts)


def label_names(text: str) -> dict[int, str]:
    """The type of names of label values: NAME=VALUE,..."""
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


def disk_path(text: str) -> str:
    """The type of files and directories that are written to disks alone."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text} is a URL, and this is written to a disk; give a path, and copy it from there"
        )
    return text


def add_configuration(verb: argparse.ArgumentParser) -> None:
    """Add the arguments of a YAML file and of settings that override it."""
    verb.add_argument("config", help="YAML file; see wsicl configs")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")


def add_reading(verb: argparse._ActionsContainer, memory: str) -> None:
    """Add the options of reading images; `memory` describes the memory limit."""
    verb.add_argument(
        "--assume-orientation",
        metavar="RAS",
        help="direction of the axes of images that do not state it, such as RAS or LPS",
    )
    verb.add_argument(
        "--max-memory",
        "--max-memory-gb",
        type=above_0,
        metavar="GB",
        help=f"{memory} (default: half of the machine's memory for each image)",
    )


def add_convention(verb: argparse._ActionsContainer) -> None:
    """Add the option of the side of the subject at the left of pictures."""
    verb.add_argument(
        "--convention",
        choices=("neurological", "radiological"),
        default="neurological",
        help="neurological: the subject's left is drawn at the left; radiological, as 3D Slicer: "
        "its right (neurological); the picture says which",
    )


def check_writable(path: Path) -> None:
    """Raises `WsiclError` if a file cannot be written there; called before long work."""
    from wsicl_jax.storage.atomic import why_not_writable

    if why := why_not_writable(path):
        raise WsiclError(f"cannot write {path}: {why}")


def write_json(path: "Place", content: object) -> None:
    """Write JSON atomically, to a disk or an object store."""
    from wsicl_jax.storage.atomic import write_whole

    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def command() -> str:
    """The command line of this process."""
    return shlex.join(["wsicl", *sys.argv[1:]])
