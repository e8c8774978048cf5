"""What a file from elsewhere holds of a network, and how a file that holds none is refused."""

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

MOST_STAGES = 12

_LONGEST_NAME = 200
_FIRST_OF_A_STAGE = "net.context_unet.enc_blocks.{}.context_conv.module.layers.0.weight"


class Weights(NamedTuple):
    """A network as a file holds it."""

    config: ModelConfig
    """The channels that its tensors show; all else is the default."""
    tensors: dict[str, Float32[ndarray, "..."]]
    """Under the authors' names and in their layout."""
    settings: str | None
    """Our settings as JSON, unchecked (`settings.read_settings`); None: there are none."""
    checked: bool
    """Whether all that was read fits a digest or checksums in the file."""


@contextmanager
def refusing(path: Path, expected: str) -> Iterator[None]:
    """Turns whatever goes wrong in reading `path` into a `CheckpointError` that names it.

    Damage can surface as nearly any exception of a reader, and a user can mend all of them in
    one way only: with another file.
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
    """The channels of the network that tensors of these names and shapes make up.

    Raises:
        ValueError: they show no network, or one of an absurd number of stages.
    """
    for name in shapes:
        if not name.isascii() or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise ValueError("a name in it is no name of a tensor")
    channels: list[int] = []
    while shape := shapes.get(_FIRST_OF_A_STAGE.format(len(channels))):
        channels.append(shape[0])
    if not 2 <= len(channels) <= MOST_STAGES or 0 in channels:
        raise ValueError(
            f"its {len(shapes)} tensors show {len(channels)} stages "
            f"({_FIRST_OF_A_STAGE.format('I')}); expected 2 to {MOST_STAGES}, none empty"
        )
    return ModelConfig(channels=tuple(channels))


def _check_kind(path: Path) -> None:
    # Before anything is opened: reading a pipe would wait for ever.
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ValueError("it is a directory")
    if not stat.S_ISREG(mode):
        raise ValueError("it is a pipe or a device")
