"""Exceptions for mistakes of use: what was given, what was expected, what to do.

The command line prints their message on one or two lines and exits with code 2;
any other exception is a defect of this package and keeps its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager


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
