"""Exceptions for mistakes of use: what was given, what was expected, what to do.

The command line prints their message on one or two lines and exits with code 2;
any other exception is a defect of this package and keeps its traceback.
"""

import difflib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

_LONGEST_REASON = 300
_TENSORSTORE = re.compile(r" \[(?:tensorstore_spec|source locations)")
_NEAR = 0.6
"""Likeness, of 1, from which one name may have been meant by another."""
_MOST_SHOWN = 40


class WsiclError(Exception):
    """Base of all errors that a user can cause and mend."""


class ConfigError(WsiclError):
    """A setting is unknown, ill-typed, or contradicts another."""


class ShapeError(WsiclError, ValueError):
    """An array's shape does not fit the network or its companions."""


class DataError(WsiclError):
    """A store, image or label cannot be read or used."""


class PromptError(WsiclError, ValueError):
    """A prompt lies outside its image or is not well formed."""


class CheckpointError(WsiclError):
    """A checkpoint is missing, damaged, or does not fit the network."""


class ExportError(WsiclError):
    """A network cannot be written as asked, or what was written does not give its numbers."""


class TrainingError(WsiclError):
    """Training cannot go on: it has diverged."""


class PreemptedError(WsiclError):
    """Training was asked to stop before its end, and saved what it needs to go on."""


class LockedError(WsiclError):
    """Another process that lives works on the same directory."""


class LoaderError(DataError):
    """A process that makes episodes was killed."""

    exit_code = 75


class MissingExtraError(WsiclError, ImportError):
    """An optional dependency is absent; the message names the extra to install."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` in front of the message of any error of use that is raised inside."""
    try:
        yield
    except WsiclError as error:
        raise (type(error)(f"{where}: {error}") if where else error) from error


def reason(error: Exception) -> str:
    """What an error says, on one line of bearable length.

    Without the number of one of the system, and without what TensorStore puts behind its own.
    """
    said = isinstance(error, OSError) and error.strerror
    text = _TENSORSTORE.split(" ".join((said or str(error)).split()), 1)[0]
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".rstrip()
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."


def hint(name: str, known: Collection[str], prefix: str = "") -> str:
    """What is to be said of a name that is unknown: the one that was meant, or else all known.

    The names are shown behind `prefix`.
    """
    if not known:
        return "there are none"
    if near := difflib.get_close_matches(name, known, n=1, cutoff=_NEAR):
        return f"nearest is {prefix + near[0]!r}"
    shown = [f"{prefix}{one}" for one in known][:_MOST_SHOWN]
    return f"expected one of {', '.join(shown)}{', ...' if len(known) > len(shown) else ''}"
