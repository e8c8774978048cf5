"""Exports a network: writes a temporary file, checks it, then renames it and writes its card."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from wsicl_jax.storage.object_path import Place
from wsicl_jax.weights.export.card import CardContent, card
from wsicl_jax.weights.export.measured import Measured
from wsicl_jax.weights.export.verification import Comparison, Runner, checked_grid, compare
from wsicl_jax.weights.file_loading import load_with_settings
from wsicl_jax.weights.networks import find_network
from wsicl_jax.weights.stored_settings import Settings
from wsicl_jax.weights.tensor_names import to_state_dict

Format = Literal["torch", "safetensors", "stablehlo", "onnx"]
Dtype = Literal["float32", "float16", "bfloat16"]

BOUNDS = {"float32": 2e-5, "float16": 1e-2, "bfloat16": 1e-1}
"""Largest allowed deviation, as a share of the largest output, by number format of the weights."""

_MAX_PROGRAM_BYTES = 2**31 - 2**24
"""Bytes of parameters that fit into a file of StableHLO or ONNX, which has less than 2 GiB."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The file that was written, and its check."""

    path: Path
    card: Path
    format: Format
    dtype: Dtype
    size: int
    """Of the file in bytes."""
    comparison: Comparison
    tensors: int | None
    """How many were read back bit for bit; None: the file is a program, without readable ones."""

    def table(self) -> Table:
        """A row for each context size that was compared, for `console().print`."""
        comparison = self.comparison
        grid = " x ".join(map(str, comparison.grid))
        back = "" if self.tensors is None else f", {self.tensors} tensors back bit for bit"
        table = Table(title=f"{self.format}, {self.dtype}, {self.size:,} bytes{back}")
        for name in ("output of", "on", "context images"):
            table.add_column(name)
        for name in ("deviation", "bound"):
            table.add_column(name, justify="right")
        for contexts, deviation in comparison.deviations.items():
            numbers = (str(contexts), f"{deviation:.1e}", f"{comparison.bound:.0e}")
            table.add_row(comparison.runtime, grid, *numbers)
        return table


def export(
    checkpoint: str | Place,
    output: str | Path,
    format: Format,
    *,
    dtype: Dtype = "float32",
    measured: Sequence[Measured] = (),
    licence: str | None = None,
    seen: Seen | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the network of a checkpoint in another format, and check it in that format's runtime.

    `FILE.card.md` beside it is the model card. With safetensors, `FILE.config.json` has the
    settings. A missing directory is made. No file appears before the check is passed, and an
    existing file is replaced only with `overwrite`. `seen` is written into the file: all data that
    the network has seen. For one process.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        ExportError: `output` cannot be written, the network cannot be in this format, or the file
            does not give the network's numbers.
        MissingExtraError: the format needs a package that is not installed.
    """
    if dtype != "float32" and format != "safetensors":
        raise ExportError(f"{format} holds float32 alone; {dtype} is for safetensors")
    output = Path(output)
    card_path, config_path = (
        output.with_name(f"{output.name}.{ending}") for ending in ("card.md", "config.json")
    )
    paths = [output, card_path, *([config_path] if format == "safetensors" else [])]
    for path in paths:
        _check_path(path, overwrite=overwrite)
    stored = find_network(checkpoint)
    settings = Settings(stored.experiment, stored.metadata.get("step"), seen)
    model = stored.load()
    writer = _writer(format, model, settings, dtype)
    with directory_made(output.parent), appearing(output) as temporary:
        writer.write(temporary)
        comparison = compare(
            temporary, writer.run, model, writer.grid, runtime=writer.runtime, bound=BOUNDS[dtype]
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
        if writer.config:
            write_whole(config_path, writer.config)
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


class _Writer(NamedTuple):
    """How a format is written, and how its file is run for the check."""

    write: Callable[[Path], None]
    run: Runner
    runtime: str
    grid: Shape3
    """Of the samples: the working grid if the file fixes it, else a small grid that suffices."""
    config: bytes = b""
    """Content of the file of settings; empty: the format has none."""


def _writer(format: Format, model: DualBranch, settings: Settings, dtype: Dtype) -> _Writer:
    # PyTorch and ONNX are extras and slow to import, so each format is imported on demand.
    grid = settings.experiment.volume.grid
    smaller = checked_grid(grid, model.config.size_multiple)
    if format == "torch":
        from wsicl_jax.weights.export.torch_checkpoint import run_lightning, write_lightning

        write = functools.partial(write_lightning, model=model, settings=settings)
        return _Writer(write, run_lightning, "PyTorch", smaller)
    if format == "safetensors":
        from wsicl_jax.weights.export import safetensors_file as file

        write = functools.partial(
            file.write_safetensors, model=model, settings=settings, dtype=dtype
        )
        config = file.config_json(settings)
        return _Writer(write, file.run_safetensors, "JAX", smaller, config)
    _check_size(model, format)
    if format == "stablehlo":
        from wsicl_jax.weights.export.stablehlo_file import run_stablehlo, write_stablehlo

        write = functools.partial(write_stablehlo, model=model, grid=grid)
        return _Writer(write, run_stablehlo, "JAX without this package", grid)
    from wsicl_jax.weights.export.onnx_file import run_onnx, write_onnx

    write = functools.partial(write_onnx, model=model, settings=settings)
    return _Writer(write, run_onnx, "ONNX Runtime", smaller)


def _check_path(path: Path, *, overwrite: bool) -> None:
    if path.is_file() and not overwrite:
        raise ExportError(f"{path} exists already; give another name, or --overwrite")
    if why := why_not_writable(path, made=True):
        raise ExportError(f"cannot write {path}: {why}")


def _check_size(model: DualBranch, format: Format) -> None:
    size = sum(x.nbytes for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    if size > _MAX_PROGRAM_BYTES:
        raise ExportError(
            f"the network has {size / 2**30:.1f} GiB of parameters; a file of {format} holds less "
            "than 2; use safetensors"
        )


def _read_back(path: Path, model: DualBranch, settings: Settings, dtype: Dtype) -> int:
    """The number of tensors, if a file gives back all of them and the settings bit for bit."""
    loaded = load_with_settings(path)
    tensors = to_state_dict(loaded.model)
    written = {
        name: tensor.astype(jnp.dtype(dtype)).astype(np.float32)
        for name, tensor in to_state_dict(model).items()
    }
    same = tensors.keys() == written.keys() and all(
        np.array_equal(tensors[name].view(np.uint32), tensor.view(np.uint32))
        for name, tensor in written.items()
    )
    if not same or loaded.settings != settings:
        raise ExportError("the file does not give back what was written; it was removed")
    return len(tensors)
