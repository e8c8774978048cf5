"""Exports a network: write beside the place, check there, then let it appear with its card."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from rich.table import Table

from wsicl_jax.data.seen import Seen
from wsicl_jax.errors import ExportError
from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.storage.atomic import appearing, directory_made, why_not_writable, write_whole
from wsicl_jax.weights.export.card import CardContent, card
from wsicl_jax.weights.export.measured import Measured
from wsicl_jax.weights.export.verification import Comparison, Runner, checked_grid, compare
from wsicl_jax.weights.names import to_state_dict
from wsicl_jax.weights.networks import find_network
from wsicl_jax.weights.reading import load_with_settings
from wsicl_jax.weights.settings import Settings

Format = Literal["torch", "safetensors", "stablehlo", "onnx"]
Dtype = Literal["float32", "float16", "bfloat16"]

BOUNDS = {"float32": 2e-5, "float16": 1e-2, "bfloat16": 1e-1}
"""Largest deviation of an output, in shares of the largest one, by number format of the weights."""

_LARGEST_IN_ONE_PIECE = 2**31 - 2**24
"""Bytes of parameters that fit into a file of StableHLO or ONNX with all around them."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    path: Path
    card: Path
    format: Format
    dtype: Dtype
    size: int
    """Of the file in bytes."""
    comparison: Comparison
    tensors: int | None
    """How many were read back bit for bit; None: none can be, the file being a program."""

    def table(self) -> Table:
        """A row for each context size that was compared, for `console().print`."""
        found = self.comparison
        back = "" if self.tensors is None else f", {self.tensors} tensors back bit for bit"
        table = Table(title=f"{self.format}, {self.dtype}, {self.size:,} bytes{back}")
        for name in ("output of", "on", "context images"):
            table.add_column(name)
        for name in ("deviation", "bound"):
            table.add_column(name, justify="right")
        for contexts, deviation in found.deviations.items():
            grid = " x ".join(map(str, found.grid))
            row = (found.runtime, grid, str(contexts), f"{deviation:.1e}", f"{found.bound:.0e}")
            table.add_row(*row)
        return table


def export(
    checkpoint: str | Path,
    output: str | Path,
    format: Format,
    *,
    dtype: Dtype = "float32",
    measured: Sequence[Measured] = (),
    licence: str | None = None,
    seen: Seen | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the network of a checkpoint in another format, checked in that format's runtime.

    `FILE.card.md` beside it says what it is, and a `config.json` the settings, if the format is
    safetensors. The directory is made if it is missing. Nothing appears under its name before the
    check is passed, and a file that is there stays as it is without `overwrite`. `seen` is written
    into the file: all data that the network has seen. For one process.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        ExportError: `output` cannot be written, the network cannot be in this format, or the file
            does not give the network's numbers.
        MissingExtraError: the format needs a package that is not installed.
    """
    if dtype != "float32" and format != "safetensors":
        raise ExportError(f"{format} holds float32 alone; {dtype} is for safetensors")
    output = Path(output)
    card_path = output.with_name(f"{output.name}.card.md")
    _check_places([output, card_path], overwrite=overwrite)
    stored = find_network(checkpoint)
    settings = Settings(stored.experiment, stored.metadata.get("step"), seen)
    model = stored.load()
    way = _way(format, model, settings, dtype)
    beside = {output.with_name(name): content for name, content in way.beside.items()}
    # One that says the same is shared by files that differ in precision alone.
    changed = [path for path, content in beside.items() if not _holds(path, content)]
    _check_places(changed, overwrite=overwrite)
    with directory_made(output.parent), appearing(output) as temporary:
        way.write(temporary)
        comparison = compare(
            temporary, way.run, model, way.grid, runtime=way.runtime, bound=BOUNDS[dtype]
        )
        tensors = None if format == "stablehlo" else _read_back(temporary, model, settings, dtype)
        size = temporary.stat().st_size
        content = CardContent(
            name=output.name,
            format=format,
            dtype=dtype,
            size=size,
            settings=settings,
            source=stored.metadata.get("source"),
            measured=measured,
            licence=licence,
            comparison=comparison,
        )
        for path in changed:
            write_whole(path, beside[path])
        write_whole(card_path, card(content).encode())
    return Exported(
        path=output,
        card=card_path,
        format=format,
        dtype=dtype,
        size=size,
        comparison=comparison,
        tensors=tensors,
    )


class _Way(NamedTuple):
    """How a format is written, and run to be checked."""

    write: Callable[[Path], None]
    run: Runner
    runtime: str
    grid: Shape3
    """Of the samples: the working grid where it is fixed, else one that is large enough."""
    beside: Mapping[str, bytes] = MappingProxyType({})
    """Further files, by name."""


def _way(format: Format, model: DualBranch, settings: Settings, dtype: Dtype) -> _Way:
    # Each imported where it is needed: PyTorch and ONNX are extras, and slow to import.
    grid = settings.experiment.volume.grid
    smaller = checked_grid(grid, model.config.size_multiple)
    if format == "torch":
        from wsicl_jax.weights.export.torch_checkpoint import run_lightning, write_lightning

        def write(path: Path) -> None:
            write_lightning(path, model, settings)

        return _Way(write, run_lightning, "PyTorch", smaller)
    if format == "safetensors":
        from wsicl_jax.weights.safetensors_file import (
            config_json,
            run_safetensors,
            write_safetensors,
        )

        def write(path: Path) -> None:
            write_safetensors(path, model, settings, dtype)

        beside = {"config.json": config_json(settings)}
        return _Way(write, run_safetensors, "JAX", smaller, beside)
    _check_size(model, format)
    if format == "stablehlo":
        from wsicl_jax.weights.export.stablehlo_file import run_stablehlo, write_stablehlo

        def write(path: Path) -> None:
            write_stablehlo(path, model, grid)

        return _Way(write, run_stablehlo, "JAX without this package", grid)
    from wsicl_jax.weights.export.onnx_file import run_onnx, write_onnx

    def write(path: Path) -> None:
        write_onnx(path, model, settings)

    return _Way(write, run_onnx, "ONNX Runtime", smaller)


def _check_places(paths: Iterable[Path], *, overwrite: bool) -> None:
    for path in paths:
        if path.is_file() and not overwrite:
            raise ExportError(f"{path} exists already; give another name, or --overwrite")
        if why := why_not_writable(path, made=True):
            raise ExportError(f"cannot write {path}: {why}")


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def _check_size(model: DualBranch, format: Format) -> None:
    size = sum(x.nbytes for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    if size > _LARGEST_IN_ONE_PIECE:
        raise ExportError(
            f"the network has {size / 2**30:.1f} GiB of parameters; a file of {format} holds less "
            "than 2; use safetensors"
        )


def _read_back(path: Path, model: DualBranch, settings: Settings, dtype: Dtype) -> int:
    """The number of tensors, if a file gives back all of them and the settings bit for bit."""
    loaded = load_with_settings(path)
    given = to_state_dict(loaded.model)
    written = {
        name: tensor.astype(jnp.dtype(dtype)).astype(np.float32)
        for name, tensor in to_state_dict(model).items()
    }
    same = given.keys() == written.keys() and all(
        np.array_equal(given[name].view(np.uint32), tensor.view(np.uint32))
        for name, tensor in written.items()
    )
    if not same or loaded.settings != settings:
        raise ExportError("the file does not give back what was written; it was removed")
    return len(given)
