"""Exceptions for errors that a user can fix; messages name the input, the expectation and the fix.

The command line prints their message in one or two lines and exits with code 2. Any other
exception is a bug of this package and keeps its traceback.
"""

import difflib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

_LONGEST_REASON = 300
_TENSORSTORE = re.compile(r" \[(?:tensorstore_spec|source locations|http_|x-amzn)")
_MIN_SIMILARITY = 0.6
"""Of two names, from 0 to 1, for a suggestion."""
_MAX_NAMES = 40


class WsiclError(Exception):
    """Base of all errors that a user can cause and fix."""


class ConfigError(WsiclError):
    """A setting is unknown, ill-typed, or contradicts another."""


class ShapeError(WsiclError, ValueError):
    """An array's shape does not fit the network or other arrays."""


class DataError(WsiclError):
    """A store, image or label cannot be read or used."""


class PromptError(WsiclError, ValueError):
    """A prompt lies outside its image or is malformed."""


class CheckpointError(WsiclError):
    """A checkpoint is missing, damaged, or does not fit the network."""


class ExportError(WsiclError):
    """A network cannot be exported as requested, or the exported file gives other results."""


class TrainingError(WsiclError):
    """Training cannot continue because it has diverged."""


class PreemptedError(WsiclError):
    """Training was requested to stop before its end, and saved what a resumed run needs."""


class LockedError(WsiclError):
    """Another living process works on the same directory."""


class LoaderError(DataError):
    """A process that makes episodes was killed."""

    exit_code = 75


class UnreachableError(WsiclError, OSError):
    """An object store cannot be reached, has no such bucket, or refuses the credentials."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}" if self.strerror else super().__str__()


class MissingExtraError(WsiclError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Prefix the message of any `WsiclError` that is raised in the block with `where`."""
    try:
        yield
    except WsiclError as error:
        if not where:
            raise
        raise type(error)(f"{where}: {error}") from error


def reason(error: BaseException) -> str:
    """The message of an error, on one line and not too long.

    Without the number of an OSError, and without TensorStore's details.
    """
    message = isinstance(error, OSError) and error.strerror
    text = _TENSORSTORE.split(" ".join((message or str(error)).split()), 1)[0]
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".rstrip()
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."


def hint(name: str, known: Collection[str], prefix: str = "") -> str:
    """A suggestion for an unknown name: the nearest known name, or else all known names.

    `prefix` is put in front of each name.
    """
    if not known:
        return "there are none"
    if near := difflib.get_close_matches(name, known, n=1, cutoff=_MIN_SIMILARITY):
        return f"nearest is {prefix + near[0]!r}"
    names = [f"{prefix}{one}" for one in known][:_MAX_NAMES]
    return f"expected one of {', '.join(names)}{', ...' if len(known) > len(names) else ''}"
