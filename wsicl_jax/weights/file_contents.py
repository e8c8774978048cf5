"""The network in a file of any format, and the errors for files that hold none."""

import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float32
from numpy import ndarray

from wsicl_jax.config import ModelConfig
from wsicl_jax.errors import CheckpointError, WsiclError
from wsicl_jax.weights.tensor_names import Shape

MAX_STAGES = 12

_MAX_NAME_LENGTH = 200
_FIRST_OF_A_STAGE = "net.context_unet.enc_blocks.{}.context_conv.module.layers.0.weight"


class Weights(NamedTuple):
    """The content of a file of weights."""

    config: ModelConfig
    """Channels as in the tensors; all else is the default."""
    tensors: dict[str, Float32[ndarray, "..."]]
    """Under the authors' names and in their layout."""
    settings: str | None
    """The settings of this package as JSON, not yet validated; None: the file has none."""
    checked: bool
    """Whether the content fits a digest or checksums in the file."""


@contextmanager
def refusing(path: Path, expected: str) -> Iterator[None]:
    """Turn every error in reading `path` into a `CheckpointError` that names it.

    A damaged file can raise nearly any exception in a reader, and for all of them the user needs
    another file.
    """
    try:
        _check_kind(path)
        yield
    except WsiclError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no file {path}; expected {expected}; check the path"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(
            f"cannot read {path}: {reason}; expected {expected}; download or save it again"
        ) from error


def config_of(shapes: Mapping[str, Shape]) -> ModelConfig:
    """The channels of the network with tensors of these names and shapes.

    Raises:
        ValueError: they are of no network, or of one with too many stages.
    """
    for name in shapes:
        if not name.isascii() or not name.isprintable() or len(name) > _MAX_NAME_LENGTH:
            raise ValueError("a tensor in it has an invalid name")
    channels: list[int] = []
    while shape := shapes.get(_FIRST_OF_A_STAGE.format(len(channels))):
        channels.append(shape[0])
    if not 2 <= len(channels) <= MAX_STAGES or 0 in channels:
        raise ValueError(
            f"its {len(shapes)} tensors have {len(channels)} stages "
            f"({_FIRST_OF_A_STAGE.format('I')}); expected 2 to {MAX_STAGES}, none empty"
        )
    return ModelConfig(channels=tuple(channels))


def _check_kind(path: Path) -> None:
    # Checked before opening, because reading a pipe could wait for ever.
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ValueError("it is a directory")
    if not stat.S_ISREG(mode):
        raise ValueError("it is a pipe or a device, not a file")
